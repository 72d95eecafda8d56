"""Sweeps with the real `wandb sweep` and `wandb agent`, torchrun and all, against a stand-in for the server."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_sparse.config import load_config, to_flat
from tests.command import PATIENCE, ROOT, read_until
from tests.sweeps.client import BIN, environment, offline_run, wandb
from tests.sweeps.stand_in_server import ENTITY, StandInServer

pytestmark = pytest.mark.waits

TINY = ["--train.batch_size=128", "--train.epochs=32", "--model.kwargs={width: 0.25, blocks: 1}", "--tracking.log_every=5"]
"""352 steps, so that a signal does not come after the last one."""


def small_grid() -> dict[str, Any]:
    """The shipped grid, with its two methods and the first value of every other parameter, on a narrow network."""
    config = yaml.safe_load((ROOT / "configs/sweeps/digits_grid.yaml").read_text())
    parameters = config["parameters"]
    config["parameters"] = {
        key: {"values": each["values"][: 2 if key == "sparsity.method" else 1]} for key, each in parameters.items()
    }
    config["command"][-1:] = [*TINY, "${args}"]
    return config


def create_sweep(server: StandInServer, place: Path, config: dict[str, Any]) -> str:
    """`wandb sweep`; the sweep's path."""
    (place / "sweep.yaml").write_text(yaml.safe_dump(config))
    said = wandb(["sweep", "--project=dist_sparse", "sweep.yaml"], server, place)
    (name,) = server.sweeps
    assert f"wandb agent {ENTITY}/dist_sparse/{name}" in said
    assert "violation" not in said
    return f"{ENTITY}/dist_sparse/{name}"


def start_agent(server: StandInServer, place: Path, path: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "wandb"), "agent", "--forward-signals", *options, path],
        cwd=place,
        env=environment(server, place, WANDB_MODE="offline"),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_every_run_of_a_shipped_sweep_ends_with_its_parameters_in_effect_also_after_a_signal_to_its_agent(
    server: StandInServer, place: Path
) -> None:
    """The signal leaves a checkpoint, from which another agent goes on before it takes the next run."""
    path = create_sweep(server, place, small_grid())
    folder = place / "runs/digits-grid-sweep-run0"
    with start_agent(server, place, path, "--count=1") as agent:
        said = read_until(agent, "step ")
        agent.send_signal(signal.SIGTERM)
        said += agent.communicate(timeout=PATIENCE)[0]
    assert json.loads((folder / "summary.json").read_text())["exit_reason"] == "preempted", said
    assert (folder / "preempted").read_text().startswith("SIGTERM at step ")
    (last,) = sorted(folder.glob("checkpoints/step_*.pt"))[-1:]
    with start_agent(server, place, path) as agent:
        said = agent.communicate(timeout=PATIENCE)[0]
    assert f"going on after step {int(last.stem.removeprefix('step_'))} of 352" in said
    assert {file.name for file in folder.glob("wandb/*/*.wandb")} == {"run-run0.wandb"}

    (sweep,) = server.sweeps.values()
    assert [run.config["sparsity.method"]["value"] for run in sweep.runs.values()] == ["set", "rigl"]
    for name, run in sweep.runs.items():
        values = {key: each["value"] for key, each in run.config.items()}
        folder = place / "runs" / f"digits-grid-sweep-{name}"
        assert json.loads((folder / "summary.json").read_text())["exit_reason"] == "finished", said
        found = offline_run(folder)
        assert found["config"].items() >= values.items()
        assert found["summary"]["density"] == pytest.approx(0.1, abs=1e-3)
        effective = to_flat(load_config(str(folder / "config.yaml")))
        assert {key: effective[key] for key in values} == values
    assert len(list((place / "runs").iterdir())) == 2
