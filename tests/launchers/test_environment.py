"""How the launchers make the environment: what they say when they cannot, and that they do it once.

pip itself takes minutes; a stand-in for the virtual environment's interpreter writes down how it was called.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what environment.sh reads, whose name holds a space."""
    clone = tmp_path / "my clone"
    shutil.copytree(ROOT / "launchers", clone / "launchers")
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    return clone


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def ensure(clone: Path, group: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    command = f'set -euo pipefail; source "$1/launchers/environment.sh"; ensure_environment {group}'
    return subprocess.run(
        ["bash", "-c", command, "-", str(clone)], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def pip_calls(clone: Path) -> Path:
    """The log of a stand-in interpreter in the clone's .venv: one line for each `pip install`."""
    log = clone / "pip.log"
    log.touch()
    script(clone / ".venv/bin/python", f'case "$*" in *"pip install"*) echo "$*" >>"{log}";; esac')
    return log


@pytest.mark.parametrize(
    ("stand_in", "message"),
    [
        ("exit 1", "is not Python 3.10 or newer"),
        ('case "$*" in *ensurepip*) exit 1;; esac', "lacks the venv module"),
    ],
)
def test_unfit_python_is_one_line(clone: Path, stand_in: str, message: str) -> None:
    python = script(clone / "python-of-mine", stand_in)
    result = ensure(clone, PYTHON=str(python))
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {python} {message}")
    assert result.stderr.count("\n") == 1


def test_missing_python_is_one_line(clone: Path) -> None:
    result = ensure(clone, PYTHON="no-such-python")
    assert result.returncode == 1
    assert result.stderr.startswith("error: no-such-python is not Python 3.10 or newer")
    assert result.stderr.count("\n") == 1


def test_installs_once_until_requirements_change(clone: Path, pip_calls: Path) -> None:
    assert ensure(clone).returncode == 0
    first = pip_calls.read_text()
    assert f"--constraint {clone}/launchers/constraints.txt --editable {clone}\n" in first

    again = ensure(clone)
    assert (again.returncode, again.stderr) == (0, "")
    assert pip_calls.read_text() == first

    with (clone / "setup.cfg").open("a") as file:
        file.write("# changed\n")
    assert ensure(clone).returncode == 0
    assert pip_calls.read_text() == first + first


def test_a_package_that_a_killed_pip_has_left_in_part_is_installed_again(clone: Path, pip_calls: Path) -> None:
    """pip would take it for whole: torch, say, without torchrun."""
    packages = clone / ".venv/lib/python3.11/site-packages"
    part, whole = packages / "torch-2.0.dist-info", packages / "timm-1.0.dist-info"
    for folder in (part, whole):
        folder.mkdir(parents=True)
        (folder / "RECORD").touch()
    (whole / "INSTALLER").write_text("pip\n")
    assert ensure(clone).returncode == 0
    assert pip_calls.read_text()
    assert whole.exists() and not part.exists()


def test_test_group_is_installed_beside_the_package(clone: Path, pip_calls: Path) -> None:
    assert ensure(clone).returncode == 0
    package = pip_calls.read_text()
    assert "[test" not in package
    assert ensure(clone, "test").returncode == 0
    assert pip_calls.read_text().removeprefix(package).splitlines()[0].endswith(f"{clone}[test]")


def test_an_extra_that_cannot_be_installed_is_left_out(clone: Path) -> None:
    script(clone / ".venv/bin/python", 'case "$*" in *"[deepspeed]"*) echo no wheel >&2; exit 1;; esac')
    result = ensure(clone)
    assert result.returncode == 0
    assert "Going on without deepspeed" in result.stderr
    assert (clone / ".venv/installed-package").exists()


def test_a_package_that_cannot_be_installed_is_an_error(clone: Path) -> None:
    script(clone / ".venv/bin/python", 'case "$*" in *"pip install"*) echo no network >&2; exit 1;; esac')
    result = ensure(clone)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: pip could not install the package")
    assert not (clone / ".venv/installed-package").exists()
