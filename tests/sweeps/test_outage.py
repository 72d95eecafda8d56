"""A W&B server that fails, and what is sent to it afterwards: the real client and a stand-in for the server."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import PATIENCE
from tests.sweeps.client import environment, wandb
from tests.sweeps.stand_in_server import StandInServer

pytestmark = pytest.mark.waits

RUN = """
import logging, sys
from pathlib import Path
from dist_sparse.config import load_config
from dist_sparse.tracking.wandb_run import WandbRun
logging.basicConfig(format="%(message)s")
run = WandbRun(load_config(), Path.cwd(), None)
for step in range(5):
    run.log(step, {"val/top1": 0.5})
print(run.id, flush=True)
sys.stdin.readline()
for step in range(5, 10):
    run.log(step, {"val/top1": 0.5})
run.finish(0, {"best_top1": 0.5})
print("the end")
"""
"""Ten rows; between the first and the last five it waits for a line."""


def start(server: StandInServer, folder: Path, **more: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=folder, env=environment(server, folder, **more), text=True, **pipes
    )


def steps(server: StandInServer, run: str) -> list[int]:
    return [row["step"] for row in server.history.get(run, [])]


@pytest.mark.parametrize("trouble", [500, 403, "silent"])
def test_a_server_that_fails_during_a_run_is_one_warning(server: StandInServer, tmp_path: Path, trouble: int | str) -> None:
    """Training ends in bounded time, and the command of the warning sends everything once the server is well again."""
    with start(server, tmp_path, WANDB_FINISH_TIMEOUT="2") as process:
        assert process.stdout is not None
        run = process.stdout.readline().strip()
        server.trouble = trouble
        out, err = process.communicate("\n", timeout=PATIENCE)
    assert (process.returncode, out) == (0, "the end\n")
    (warning,) = err.splitlines()
    (folder,) = tmp_path.glob("wandb/run-*")
    assert warning.startswith("W&B: ")
    assert warning.endswith(f"; training goes on, and `wandb sync --include-online {folder}` sends later what is missing")
    server.trouble = None
    assert len(steps(server, run)) < 10
    wandb(["sync", "--include-online", str(folder)], server, tmp_path)
    assert steps(server, run) == list(range(10))


@pytest.mark.parametrize("trouble", [500, 403, "silent"])
def test_a_server_that_fails_at_the_start_makes_the_run_offline(
    server: StandInServer, tmp_path: Path, trouble: int | str
) -> None:
    server.trouble = trouble
    with start(server, tmp_path, WANDB_INIT_TIMEOUT="2") as process:
        out, err = process.communicate("\n", timeout=PATIENCE)
    assert (process.returncode, out.splitlines()[1:]) == (0, ["the end"])
    (warning,) = err.splitlines()
    assert warning.startswith("W&B is offline: ")
    server.trouble = None
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    wandb(["sync", str(folder)], server, tmp_path)
    assert steps(server, out.split()[0]) == list(range(10))
