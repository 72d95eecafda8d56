"""Where the real `wandb` client runs in these tests: a folder of its own, and a server on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.command import PATIENCE, ROOT
from tests.sweeps.stand_in_server import StandInServer

BIN = Path(sys.executable).parent


def environment(server: StandInServer, home: Path, **more: str) -> dict[str, str]:
    """Nothing of the user's W&B settings; the server's address and a key."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "SLURM_"))}
    path = os.pathsep.join([str(BIN), clean["PATH"]])
    own = {"HOME": str(home), "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return {**clean, **own, **server.environment(), **more}


def wandb(arguments: list[str], server: StandInServer, home: Path, **more: str) -> str:
    """What a `wandb` command prints that must succeed."""
    done = subprocess.run(
        [str(BIN / "wandb"), *arguments],
        cwd=home,
        env=environment(server, home, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def offline_run(folder: Path) -> dict[str, Any]:
    """A run's config and summary, as W&B's own reader finds them in the file of its last start."""
    *_, path = sorted(folder.glob("wandb/*run-*/*.wandb"))
    command = [BIN / "wandb", "leet", "inspect", "--json", "--summary", path]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
