"""TensorBoard reads the numbers of metrics.csv, each step once, however often the run was stopped and gone on with."""

import csv
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.config import load_config
from dist_sparse.tracking import Tracker, build_tracker
from tests.command import train_here
from tests.values import LOGGED, TINY_VIT

pytest.importorskip("tensorboard")

GOES_ON = "training goes on, and metrics.csv holds the same figures"
COLUMNS = ("train/loss", "val/top1", "sparsity/mask_digest")
SMALL = {
    **LOGGED,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": TINY_VIT,
    "train.epochs": 3,
    "train.batch_size": 256,
    "sparsity.density": 0.3,
    "sparsity.update.interval": "3 steps",
    "checkpoint.every": "1 epoch",
    "tracking.tensorboard": True,
}


def scalars(folder: Path) -> dict[tuple[str, int], list[float]]:
    """All that TensorBoard itself finds, by name and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    found: dict[tuple[str, int], list[float]] = {}
    for name in reader.Tags()["scalars"]:
        for event in reader.Scalars(name):
            found.setdefault((name, event.step), []).append(event.value)
    return found


def numbers(folder: Path) -> dict[tuple[str, int], list[Any]]:
    """The numbers of metrics.csv in the same form. TensorBoard holds them in single precision."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (name, int(row["step"])): [pytest.approx(float(text), rel=1e-6, abs=1e-30)]
        for row in rows
        for name, text in row.items()
        if text and name not in ("step", "sparsity/mask_digest")
    }


def build(folder: Path, resume_step: int | None = None, *, rank: int = 0) -> Tracker:
    config = load_config(overrides={"tracking.wandb": "disabled", "tracking.tensorboard": True})
    return build_tracker(config, folder, rank, columns=COLUMNS, total_steps=40, steps_per_epoch=4, resume_step=resume_step)


def log_steps(tracker: Tracker, first: int, last: int) -> None:
    for step in range(first, last + 1):
        tracker.log(step, {"train/loss": 1 / step, "sparsity/mask_digest": "12e3"})
        if step % 4 == 0:
            tracker.log(step, {"val/top1": 0.5})
        tracker.advance(step)


def test_a_run_gone_on_with_has_each_step_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train_here({**SMALL, "output": folder}, interrupt_after=8).code == 130
    assert train_here({**SMALL, "output": folder, "resume": "auto"}).code == 0
    found = scalars(folder)
    assert found == numbers(folder)
    assert {step for name, step in found if name == "train/loss"} == set(range(1, max(step for _, step in found) + 1))
    assert {"val/top1", "sparsity/density", "train/lr", "epoch"} <= {name for name, _ in found}


@pytest.mark.parametrize("checkpoint", [4, 5, 8])
def test_steps_after_the_checkpoint_are_forgotten(tmp_path: Path, checkpoint: int) -> None:
    killed = build(tmp_path)
    log_steps(killed, 1, 8)
    killed.log(9, {"train/loss": 9.0})  # of a step that did not come to its end
    tracker = build(tmp_path, checkpoint)
    log_steps(tracker, checkpoint + 1, 10)
    tracker.close()
    assert scalars(tmp_path) == numbers(tmp_path)
    killed.close()


def test_the_step_of_the_checkpoint_is_there_though_its_process_was_killed_before_it_was_written(tmp_path: Path) -> None:
    killed = build(tmp_path)
    log_steps(killed, 1, 3)
    killed.log(4, {"train/loss": 0.25})
    tracker = build(tmp_path, 4)
    tracker.log(4, {"val/top1": 0.75})  # the validation that was cut short
    tracker.advance(4)
    tracker.close()
    found = scalars(tmp_path)
    assert found == numbers(tmp_path)
    assert (found["train/loss", 4], found["val/top1", 4]) == ([0.25], [0.75])
    killed.close()


def test_a_run_that_begins_anew_forgets_the_one_before(tmp_path: Path) -> None:
    for last in (6, 2):
        tracker = build(tmp_path)
        log_steps(tracker, 1, last)
        tracker.close()
    assert scalars(tmp_path) == numbers(tmp_path)


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    tracker = build(tmp_path, rank=1)
    log_steps(tracker, 1, 4)
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_unasked(tmp_path: Path) -> None:
    config = load_config(overrides={"tracking.wandb": "disabled"})
    tracker = build_tracker(config, tmp_path, 0, columns=COLUMNS, total_steps=40, steps_per_epoch=4)
    log_steps(tracker, 1, 2)
    tracker.close()
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    outcome = train_here({**SMALL, "output": tmp_path / "run"})
    assert outcome.code == 2
    (line,) = outcome.errors
    assert "tracking.tensorboard=true" in line
    assert "pip install 'dist_sparse[tensorboard]'" in line
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    log_steps(tracker := build(tmp_path), 1, 3)
    tracker.close()
    assert warnings(caplog) == [f"{tmp_path / 'tensorboard'}: File exists; {GOES_ON}"]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4


def test_a_disk_that_fills_up_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.0001").touch()
    log_steps(tracker := build(tmp_path), 1, 1)
    with Path("/dev/full").open("wb", buffering=0) as full:  # in the place of the second file
        os.dup2(full.fileno(), descriptor_of(tmp_path / "tensorboard" / "events.out.tfevents.0002"))
    log_steps(tracker, 2, 3)
    tracker.close()
    assert warnings(caplog) == [f"{tmp_path / 'tensorboard'}: No space left on device; {GOES_ON}"]
    assert {step for _, step in scalars(tmp_path)} == {1}


def descriptor_of(path: Path) -> int:
    """The number under which this process has a file open."""
    links = {int(link.name): os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}
    (number,) = (number for number, target in links.items() if target == str(path))
    return number


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
