"""Where a run's figures come from: configuration, versions, commit, machine; and what came out in the end."""

import functools
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dist_sparse.errors import UserError
from dist_sparse.files import atomic_write
from dist_sparse.inputs import read_json
from dist_sparse.processes import boot, started

log = logging.getLogger(__name__)

_PACKAGES = ("dist_sparse", "torch", "torchvision", "timm", "numpy", "wandb", "deepspeed", "nvidia-dali")


def write_provenance(folder: Path, config_yaml: str) -> None:
    """Write ``config.yaml`` and ``environment.json``. A resumed run writes those of its last start."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "config.yaml", lambda file: file.write(config_yaml.encode()))
    _write_json(folder / "environment.json", describe_environment())


def write_summary(folder: Path, summary: Mapping[str, Any]) -> bool:
    """Write ``summary.json``. A full disk costs a warning that holds the summary; returns whether it is written."""
    try:
        _write_json(folder / "summary.json", summary)
    except OSError as error:
        log.warning("%s: %s; the summary is %s", folder / "summary.json", error.strerror, json.dumps(summary))
        return False
    return True


def describe_environment() -> dict[str, Any]:
    """Versions, commit, machine and command line of this process; what is not known is None."""
    return {
        "python": platform.python_version(),
        "packages": _package_versions(),
        "git": git_state(Path(__file__).parents[1]),
        "host": platform.node(),
        "system": platform.platform(),
        "devices": _device_names(),
        "command": shlex.join(sys.orig_argv),
        "launcher": _launcher(),
        "process": _name(os.getpid()),
    }


def begun_by_this_launcher(folder: Path) -> bool:
    """Whether the torchrun that has started this process has started the run in a folder, too."""
    return _launcher() is not None and _environment(folder).get("launcher") == _launcher()


def begun_by_this_process(folder: Path) -> bool:
    """Whether this process itself has started the run in a folder, or gone on with it."""
    return _environment(folder).get("process") == _name(os.getpid())


def _environment(folder: Path) -> dict[str, Any]:
    """What the last start of a run has left there; empty if there is nothing."""
    try:
        environment = read_json(folder / "environment.json")
    except UserError:
        return {}
    return environment if isinstance(environment, dict) else {}


def _launcher() -> str | None:
    """A name of the torchrun that has started this process; none if there is none.

    A container that is started again has the same torchrun for its first process, with the same number.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if run is None else f"{run} {_name(os.getppid())}"


def _name(pid: int) -> str:
    return f"{platform.node()} {pid} {started(pid)} {boot()}"


@functools.cache  # a process reads the files of all packages once
def _package_versions() -> dict[str, str]:
    names = ((each.metadata["Name"], each.version) for each in metadata.distributions())
    return dict(sorted((name, version) for name, version in names if name and _is_listed(name)))


def _is_listed(name: str) -> bool:
    return name in _PACKAGES or name.startswith("nvidia-dali-cuda")


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that the sources lie in, and whether they differ from it; None outside of a checkout."""
    try:
        # Sources installed into a folder of someone else's checkout are not under its control.
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        return {"commit": _git(folder, "rev-parse", "HEAD"), "dirty": bool(_git(folder, "status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _device_names() -> list[str]:
    import torch

    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [_cpu_name()]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    text = json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path, lambda file: file.write(text.encode()))
