"""The best checkpoint is one of a network at its final density; before there is such a network there is none."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse import evaluate
from dist_sparse.export import __main__ as export
from dist_sparse.plasticity import __main__ as plasticity
from dist_sparse.results import __main__ as results
from tests.command import here, metrics, train_here
from tests.report.runs import page_of
from tests.values import QUIET, TINY_VIT

GMP = {
    **QUIET,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": TINY_VIT,
    "train.epochs": 4,
    "train.batch_size": 128,
    "optim.name": "adamw",
    "optim.lr": 0.003,
    "checkpoint.keep": 4,
    "sparsity.method": "gmp",
    "sparsity.density": 0.01,
    "sparsity.update.interval": "3 steps",
    "sparsity.ramp.end": "33 steps",
}
"""44 steps in 4 epochs; the ramp ends with the third epoch, and leaves too little for the accuracy of the first two."""


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@contextlib.contextmanager
def without_summary(folder: Path) -> Iterator[None]:
    """As while the run trains, or once it was killed."""
    (folder / "summary.json").rename(folder / "kept")
    try:
        yield
    finally:
        (folder / "kept").rename(folder / "summary.json")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped in the middle of its ramp, after two validations."""
    folder = tmp_path_factory.mktemp("best") / "stopped"
    assert train_here({**GMP, "output": folder}, interrupt_after=23).code == 130
    return folder


def test_during_the_ramp_there_is_no_best(stopped: Path) -> None:
    summary, rows = summary_of(stopped), [row for row in metrics(stopped) if row["val/top1"]]
    assert [row["step"] for row in rows] == ["11", "22"]
    assert summary["last_top1"] == float(rows[-1]["val/top1"])
    assert (summary["best_top1"], summary["best_step"]) == (None, None)
    assert summary["no_best"] == "the density has not come to its final value"
    assert not (stopped / "checkpoints" / "best.pt").exists()


@pytest.mark.parametrize("command", [evaluate, export, plasticity], ids=lambda module: module.__name__)
def test_whoever_asks_for_it_is_told_why(stopped: Path, command: Any) -> None:
    outcome = here(command.main, [str(stopped)])
    assert outcome.code == 2
    reason = "the density has not come to its final value; --checkpoint=last takes step_00000022.pt"
    assert outcome.errors == [f"{stopped / 'checkpoints'} holds no best checkpoint: {reason}"]
    with without_summary(stopped):
        (line,) = here(command.main, [str(stopped)]).errors
    assert "holds no best checkpoint: only a network at its final density can be the best; --checkpoint=last" in line


def test_the_report_of_a_run_under_way_has_no_best_of_the_ramp(stopped: Path) -> None:
    with without_summary(stopped):
        facts = page_of(stopped).facts
    assert facts["best top-1"] == ("–", "")
    assert facts["last top-1"][1] == "at step 22"


def test_a_run_s_best_comes_after_its_ramp_resumed_or_not(stopped: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stopped, tmp_path / "resumed")
    outcome = train_here({**GMP, "output": folder, "resume": "auto"})
    assert outcome.code == 0, outcome.err
    summary, top1 = summary_of(folder), {int(row["step"]): float(row["val/top1"] or 0) for row in metrics(folder)}
    assert max(top1[11], top1[22]) > max(top1[33], top1[44]), "the denser network is better, or this shows nothing"
    assert summary["best_top1"] == max(top1[33], top1[44]) == top1[summary["best_step"]]
    assert summary["no_best"] is None
    best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    assert best["progress"]["step"] == summary["best_step"] in (33, 44)
    assert f"(best {summary['best_top1']:.2%} at step {summary['best_step']})" in outcome.out
    with without_summary(folder):
        facts = page_of(folder).facts
    assert facts["best top-1"] == (f"{summary['best_top1']:.2%}", f"at step {summary['best_step']}")


def test_a_finished_run_without_a_best_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here its last update is lost to an overflow, which no later step makes up for."""
    from dist_sparse.engines.ddp import DDPEngine

    boundaries = iter(range(1, 12))
    monkeypatch.setattr(DDPEngine, "overflowed", property(lambda self: next(boundaries) == 11))
    short = {"train.epochs": 1, "sparsity.update.interval": "11 steps", "sparsity.ramp.end": "11 steps"}
    outcome = train_here({**GMP, **short, "output": tmp_path / "run"})
    assert outcome.code == 0, outcome.err
    assert "(no best: the density has not come to its final value), density 100.00%" in outcome.out
    table = here(results.main, [str(tmp_path)])
    assert table.code == 0
    (row,) = [line.split() for line in table.out.splitlines() if line.startswith("gmp")]
    top1 = f"{100 * summary_of(tmp_path / 'run')['last_top1']:.2f}"
    assert row[:6] == ["gmp", "0.01", "1", top1, "-", "100.00"]
    assert f"note: {tmp_path / 'run'} has no best top-1: the density has not come to its final value" in table.out
