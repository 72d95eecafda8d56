"""One log call reaches the files, W&B and the screen; only from the first rank."""

import json
import re
from pathlib import Path

import pytest

from dist_sparse.config import load_config
from dist_sparse.tracking import Tracker, build_tracker
from tests.tracking.test_wandb_run import inspect, run_files

COLUMNS = ("train/loss", "val/top1")


def build(
    folder: Path, rank: int = 0, *, wandb: str = "disabled", resume_step: int | None = None, wandb_id: str | None = None
) -> Tracker:
    config = load_config(overrides={"tracking.wandb": wandb})
    return build_tracker(
        config, folder, rank, columns=COLUMNS, total_steps=40, steps_per_epoch=4, resume_step=resume_step, wandb_id=wandb_id
    )


def run(tracker: Tracker, steps: range) -> None:
    for step in steps:
        if step % 2 == 0:
            tracker.log_layers(step, densities={"conv1": 0.25, "fc": step / 7}, changed={"conv1": 0.0, "fc": 0.5})
            tracker.log(step, {"train/loss": 1 / step})
        if step % 4 == 0:
            tracker.log(step, {"val/top1": 0.5})
        tracker.advance(step)
        if step % 4 == 0:
            tracker.end_epoch(step, 0.375)
    tracker.close()


def test_files_and_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(build(tmp_path), range(1, 5))
    assert (tmp_path / "metrics.csv").read_text() == "step,epoch,train/loss,val/top1\n2,0.5,0.5,\n4,1.0,0.25,0.5\n"
    assert (tmp_path / "layers.csv").read_text().splitlines() == [
        "step,layer,density,changed",
        "2,conv1,0.25,0.0",
        f"2,fc,{2 / 7!r},0.5",
        "4,conv1,0.25,0.0",
        f"4,fc,{4 / 7!r},0.5",
    ]
    lines = [re.sub(r"  [\d.]+ \w+ left$", "  ... left", line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "step 2/40  epoch 0/10  loss 0.5000  ... left",
        "step 4/40  epoch 1/10  loss 0.2500  ... left",
        "epoch 1/10 ends  loss 0.3750  top1 50.0 %  took 0.0 s",
    ]


def test_a_row_is_shown_when_its_step_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = build(tmp_path)
    tracker.log(1, {"train/loss": 1.0})
    assert capsys.readouterr().out == ""
    tracker.log(2, {"train/loss": 0.5})
    assert capsys.readouterr().out.startswith("step 1/40")
    tracker.close()
    assert capsys.readouterr().out.startswith("step 2/40")


@pytest.mark.parametrize("checkpoint", [4, 5])
def test_a_resumed_run_leaves_the_files_of_an_uninterrupted_one(tmp_path: Path, checkpoint: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(build(whole), range(1, 11))
    run(build(parts), range(1, 9))
    run(build(parts, resume_step=checkpoint), range(checkpoint + 1, 11))
    for name in ("metrics.csv", "layers.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = build(tmp_path, rank=1, wandb_id="abc")
    run(tracker, range(1, 5))
    assert tracker.wandb_id == "abc"
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_wandb_gets_one_row_a_step(tmp_path: Path) -> None:
    tracker = build(tmp_path, wandb="offline")
    run(tracker, range(1, 5))
    (path,) = run_files(tmp_path)
    assert path.name == f"run-{tracker.wandb_id}.wandb"
    rows = [line for line in inspect(path).splitlines() if json.loads(line)["type"] == "history"]
    assert len(rows) == 2
    for part in ("train/loss", "val/top1", "layers/fc/density", "step"):
        assert part in rows[-1]
