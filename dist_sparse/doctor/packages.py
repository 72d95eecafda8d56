"""Checks of the installed packages: required ones and extras, each against the versions that ``setup.cfg`` wants."""

import configparser
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from dist_sparse.doctor.finding import Finding

_SHOWN = ("torch", "torchvision", "timm", "numpy", "pydantic", "wandb")
_FOR = {
    "dali": "decodes images faster, on a GPU too; without it torchvision decodes them",
    "deepspeed": "ZeRO, engine.name=deepspeed; without it runs use DDP",
    "export": "ONNX files",
    "tensorboard": "tracking.tensorboard=true",
    "test": "the tests and checks of a clone",
}
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*")

Requirements = Mapping[str, Sequence[str]]
"""Requirements as in ``timm >= 1.0.15``, by extra; the empty name has those that are always needed."""


def wanted(source: Path | None = None) -> Requirements:
    """What ``setup.cfg`` of the clone that this package lies in wants, or else the metadata of the installed package."""
    setup = configparser.ConfigParser()
    setup.read(source or Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    if setup.get("metadata", "name", fallback="") == "dist_sparse":
        extras = {name: text.split("\n") for name, text in setup["options.extras_require"].items()}
        found = {"": setup["options"]["install_requires"].split("\n"), **extras}
    else:
        from packaging.requirements import Requirement

        found: dict[str, list[str]] = {}
        for text in metadata.requires("dist_sparse") or []:
            requirement, extra = Requirement(text), re.search(r"extra == ['\"]([\w-]+)['\"]", text)
            found.setdefault(extra[1] if extra else "", []).append(f"{requirement.name}{requirement.specifier}")
    return {extra: [line for each in lines if (line := each.strip())] for extra, lines in found.items()}


def requirements(wants: Requirements | None = None) -> Iterator[Finding]:
    """Required packages, and each extra."""
    wants = wanted() if wants is None else wants
    if not wants.get(""):
        yield Finding(name="packages", status="note", text="what is required is not known: dist_sparse is not installed")
        return
    if lacking := [problem for each in wants[""] if (problem := _problem(each))]:
        advice = "pip install " + " ".join(f"'{each.replace(' ', '')}'" for each in wants[""] if _problem(each))
        yield Finding(name="packages", status="broken", text="; ".join(lacking), advice=advice)
    else:
        shown = ", ".join(f"{name} {metadata.version(name)}" for name in _SHOWN if _is_there(name))
        yield Finding(name="packages", status="ok", text=f"all {len(wants[''])} required ones: {shown}")
    for extra, lines in wants.items():
        if extra:
            yield _extra(extra, lines)


def _extra(extra: str, lines: Sequence[str]) -> Finding:
    """An extra counts as not installed only where its own packages are missing, not those of another extra it names."""
    own = [line for line in lines if not line.startswith("dist_sparse")]
    name, purpose = f"extra {extra}", _FOR.get(extra, "")
    if lacking := [problem for each in own if (problem := _problem(each))]:
        advice = f"{purpose or 'optional'}: pip install 'dist_sparse[{extra}]', or bash launchers/quickstart.sh in a clone"
        return Finding(name=name, status="note", text="; ".join(lacking), advice=advice)
    names = [match[0] for line in own if (match := _REQUIREMENT.match(line))]
    return Finding(name=name, status="ok", text=", ".join(f"{each} {metadata.version(each)}" for each in names))


def _is_there(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _problem(line: str) -> str:
    """What is wrong with a requirement here; empty if nothing is."""
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    if not _is_there(requirement.name):
        return f"{requirement.name} is not installed"
    version = metadata.version(requirement.name)
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, and should be {requirement.specifier}"
    return ""


def wandb_key() -> Iterator[Finding]:
    """Whether Weights & Biases has a key to log in with, wherever it looks for one; the key is neither kept nor shown."""
    mode = os.environ.get("WANDB_MODE", "")
    text = f" (WANDB_MODE is {mode})" if mode in ("online", "offline", "disabled", "dryrun") else ""
    try:
        import wandb

        wandb.setup(wandb.Settings(silent=True, mode="online"))  # offline it does not look for a key
        has_key = bool(wandb.login(prompt=False, verify=False))
    except Exception as error:  # whose words may quote the file that holds the key
        advice = "runs are logged to the disk; `wandb login` writes the file anew"
        yield Finding(name="W&B key", status="note", text=f"cannot be looked for: {type(error).__name__}{text}", advice=advice)
        return
    if has_key:
        yield Finding(name="W&B key", status="ok", text=f"there is one{text}")
    else:
        advice = "runs are logged to the disk, for `wandb sync`; `wandb login` stores a key"
        yield Finding(name="W&B key", status="note", text=f"there is none{text}", advice=advice)
