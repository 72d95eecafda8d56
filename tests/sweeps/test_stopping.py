"""A run that ends early: marked as one to go on with after a preemption, and not after W&B itself has stopped it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import PATIENCE
from tests.sweeps.client import environment
from tests.sweeps.stand_in_server import StandInServer

RUN = """
import signal, sys
from pathlib import Path
from dist_sparse.config import load_config
from dist_sparse.tracking.wandb_run import WandbRun
signal.signal(signal.SIGINT, lambda *_: None)
run = WandbRun(load_config(), Path.cwd(), None)
run.log(1, {"val/top1": 0.5})
sys.stdin.readline()
run.finish(1, {}, preempted=True)
print(run.id)
"""
"""W&B also interrupts what it stops, which a run takes for a Ctrl-C; its agent sends SIGTERM, which decides."""


@pytest.mark.parametrize("stopped", [False, True])
def test_a_sweep_gets_a_preempted_run_back_unless_it_has_stopped_it(
    server: StandInServer, tmp_path: Path, stopped: bool
) -> None:
    server.stops = stopped
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=tmp_path, env=environment(server, tmp_path), text=True, **pipes
    ) as process:
        server.wait_until(lambda: "file_stream" in server.asked)
        out, err = process.communicate("\n", timeout=PATIENCE)
    assert process.returncode == 0, err
    assert server.preempting == (set() if stopped else {out.strip()})
