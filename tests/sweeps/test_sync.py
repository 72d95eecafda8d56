"""What a run offline hands over once `wandb sync` finds a server: its rows, columns, labels and artifacts."""

import json
from pathlib import Path

import pytest

from dist_sparse.config import load_config, to_flat
from tests.command import metrics, train_here
from tests.sweeps.client import wandb
from tests.sweeps.stand_in_server import StandInServer

RUN = {
    "name": "synced",
    "engine.device": "cpu",
    "tracking.artifacts": True,
    "tracking.tags": ["mine"],
    "train.epochs": 3,
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "sparsity.density": 0.2,
    "sparsity.update.interval": "5 steps",
}


def test_a_run_offline_is_whole_after_its_sync(server: StandInServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    folder = tmp_path / "run"
    values = {**RUN, "output": str(folder)}
    assert train_here(values).code == 0
    wandb(["sync", "--include-online", *map(str, folder.glob("wandb/*run-*"))], server, tmp_path)
    ((run, facts),) = server.runs.items()
    assert (facts["project"], facts["displayName"]) == ("dist_sparse", "synced")
    assert (facts["groupName"], facts["jobType"]) == ("array-17", "rigl-0.2")
    assert set(facts["tags"]) == {"rigl", "digits", "cifar_resnet20", "density=0.2", "array=17", "mine"}
    columns = {key: each["value"] for key, each in json.loads(facts["config"]).items() if key != "_wandb"}
    expected = to_flat(load_config(overrides=values))
    assert columns.keys() == {key for key, value in expected.items() if value != {}}  # W&B leaves those out
    rows = metrics(folder)
    assert [row["step"] for row in server.history[run]] == [int(row["step"]) for row in rows]
    top1 = [float(row["val/top1"]) for row in rows if row["val/top1"]]
    assert [row["val/top1"] for row in server.history[run] if "val/top1" in row] == top1
    summary = json.loads((folder / "summary.json").read_text())
    synced = json.loads(server.uploads["wandb-summary.json"])
    assert {key: synced.get(key) for key in summary} == summary  # W&B leaves out what is null
    assert summary.keys() >= {"best_top1", "density", "flops", "inference_flops_relative", "train_flops_relative"}
    (checkpoint,) = sorted(folder.glob("checkpoints/step_*.pt"))[-1:]
    assert server.uploads[f"checkpoint-{run}/{checkpoint.name}"] == checkpoint.read_bytes()
    assert server.uploads[f"masks-{run}/layers.csv"] == (folder / "layers.csv").read_bytes()
