"""The run's folder says where its figures come from."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dist_sparse.processes import boot, started
from dist_sparse.tracking import write_provenance, write_summary
from dist_sparse.tracking.provenance import begun_by_this_launcher, git_state
from tests.full_disk import file_size_limit


def test_config_and_environment(tmp_path: Path) -> None:
    write_provenance(tmp_path / "run", "name: höhe\n")
    assert (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8") == "name: höhe\n"
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["packages"].keys() >= {"torch", "torchvision", "timm", "numpy", "wandb"}
    assert environment["python"] == sys.version.split()[0]
    assert environment["devices"]
    assert environment["host"]
    assert "pytest" in environment["command"] or "-c" in environment["command"]


def test_a_torchrun_is_not_taken_for_one_that_had_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a container which has been started again: its number, its host's name and its run's are the same."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(os, "getppid", os.getpid)  # the tests' own parent may be outside of a container
    write_provenance(tmp_path, "")
    assert begun_by_this_launcher(tmp_path)
    path = tmp_path / "environment.json"
    ours = path.read_text()
    for own, others in ((started(os.getpid()), "7"), (boot(), "another-boot")):
        assert own
        path.write_text(ours.replace(own, others))
        assert not begun_by_this_launcher(tmp_path)


def testgit_state_of_a_checkout_and_of_sources_that_only_lie_in_one(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    assert git_state(package) is None
    git("init")
    git("commit", "--allow-empty", "-m", "someone else's")
    assert git_state(package) is None
    git("add", ".")
    git("commit", "-m", "first")
    assert git_state(package) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (package / "new.py").touch()
    assert (git_state(package) or {})["dirty"] is True


def test_a_summary_is_whole_or_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_summary(tmp_path, {"best_top1": 0.975, "exit_reason": "finished"})
    with file_size_limit(10):
        write_summary(tmp_path, {"best_top1": 0.5})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"best_top1": 0.975, "exit_reason": "finished"}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert '{"best_top1": 0.5}' in record.message
