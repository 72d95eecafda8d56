"""The end of a command's process: its code, and what still happens after its last word; tests/test_endings.py has real ones."""

import gc
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dist_sparse.leaving import importing
from tests.command import ROOT

COMMAND = """
import sys
from dist_sparse.leaving import leave

class Kept:
    def __del__(self):
        print("taken apart")

kept = Kept()

def main():
    import atexit, multiprocessing, threading, time
    atexit.register(print, "exit function")
    threading.Thread(target=print, args=("thread",)).start()
    {last}

leave(main)
"""


def leave(last: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """A process whose ``main`` ends with these words."""
    command = [sys.executable, "-c", COMMAND.format(last=last)]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, stdout=stdout, stderr=subprocess.PIPE, check=False)


def test_all_exit_functions_are_called_and_then_it_is_over() -> None:
    """Nothing that packages keep is taken apart: of torch and timm that takes a second."""
    done = leave("return 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "thread\nexit function\n", "")


@pytest.mark.parametrize(
    ("last", "code", "error"),
    [
        ("raise KeyboardInterrupt", 130, ""),
        ("raise RuntimeError('enough')", 1, "RuntimeError: enough\n"),
        ("sys.exit(0)", 0, ""),
        ("sys.exit('enough')", 1, "enough\n"),
    ],
)
def test_every_way_out_has_its_code(last: str, code: int, error: str) -> None:
    done = leave(last)
    assert (done.returncode, done.stderr[-len(error) :] if error else done.stderr) == (code, error)
    assert done.stdout.startswith("thread\nexit function\n")


def test_an_output_that_takes_no_more_is_python_s_to_tell() -> None:
    with Path("/dev/full").open("w") as full:
        done = leave("print('a last word'); return 0", stdout=full.fileno())
    assert done.returncode == 120
    assert "No space left on device" in done.stderr


def test_an_output_that_nobody_reads_any_more_is_no_crash() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = leave("print('a long word ' * 10_000); return 0", stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_pipe_that_breaks_elsewhere_is_one() -> None:
    done = leave("raise BrokenPipeError('of a socket')")
    assert done.returncode == 1 and done.stderr.endswith("BrokenPipeError: of a socket\n")


def test_packages_are_imported_without_wandb_unless_it_is_there_already(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which timm would like to have, and nobody needs for that."""
    (tmp_path / "has_a_wish.py").write_text("try:\n    import wandb\nexcept ImportError:\n    wandb = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    for there in (None, ModuleType("wandb")):
        monkeypatch.delitem(sys.modules, "has_a_wish", raising=False)
        monkeypatch.delitem(sys.modules, "wandb", raising=False)
        if there is not None:
            monkeypatch.setitem(sys.modules, "wandb", there)
        with importing():
            assert importlib.import_module("has_a_wish").wandb is there
        assert sys.modules.get("wandb", "nothing") is (there or "nothing")


def test_packages_are_imported_without_a_look_for_garbage() -> None:
    assert gc.isenabled()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
