"""Masks of runs beside one another: what overlaps, and which pairs are compared."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.study.overlap import OVERLAPS, main, masks_of, overlap, overlaps, picture
from benchmarks.study.record import read
from benchmarks.study.runs import Row
from dist_sparse.sparsity.bits import pack, popcount
from tests.command import logging_restored, train_here
from tests.values import QUIET, TINY_VIT


def masks(*rows: list[int]) -> list[dict[str, torch.Tensor]]:
    return [{"layer": pack(torch.tensor(row) > 0)} for row in rows]


def test_overlap_is_jaccards_index_over_all_layers() -> None:
    (one,), (other,) = masks([1, 1, 1, 0]), masks([0, 1, 1, 1])
    assert overlap(one, other) == 0.5 and overlap(one, one) == 1
    assert overlap(one | {"b": pack(torch.ones(4) > 0)}, other | {"b": pack(torch.ones(4) > 0)}) == 6 / 8


def test_pairs_differ_in_the_seed_or_in_the_ranks() -> None:
    runs = {
        (1, 0): masks([1, 1, 0, 0], [1, 1, 0, 0]),
        (1, 1): masks([0, 0, 1, 1], [1, 1, 0, 0]),
        (2, 0): masks([1, 1, 0, 0], [0, 1, 1, 0]),
        (2, 1): masks([0, 0, 1, 1], [1, 1, 0, 0]),
    }
    assert overlaps(runs) == {
        "other seeds, 1 rank": [0, 1],
        "other seeds, 2 ranks": [0, pytest.approx(1 / 3)],
        "same seed, 1 and 2 ranks": [1, pytest.approx(2 / 3)],
    }


def test_of_sub_nets_the_sparsest_counts(tmp_path: Path) -> None:
    method = {"sparsity.method": "ast", "sparsity.ast.densities": [0.5, 0.25], "sparsity.ramp.end": "2 steps"}
    model = {"model.name": "vit_tiny_patch16_224", "model.kwargs": TINY_VIT}
    keys = {"train.epochs": 2, "train.batch_size": 479, "sparsity.update.interval": "2 steps", "checkpoint.every": "1 epochs"}
    assert train_here({**QUIET, **method, **model, **keys, "output": tmp_path / "run"}).code == 0
    found = masks_of(tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoints" / "step_00000006.pt")
    _, last = state["method"]["masks"]
    assert len(found) == 2 and found[-1].keys() == last["masks"].keys()
    assert all(torch.equal(found[-1][name], mask) and popcount(mask) for name, mask in last["masks"].items())
    assert overlap(found[-1], found[-1]) == 1


@pytest.mark.slow
def test_one_and_two_ranks_have_the_same_masks(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps, without an update: initial masks are a function of the seed alone."""
    words = ["--method", "static", "--ranks", "1", "2", "--seeds", "1", "--epochs", "2", "--plot", str(tmp_path / "a.svg")]
    with logging_restored():
        main([*words, "--data-root", str(images), "--record", str(tmp_path / "runs.csv")])
    assert "| same seed, 1 and 2 ranks | 1.000 | 1.000 |" in capsys.readouterr().out
    assert json.loads((tmp_path / OVERLAPS).read_text())["overlaps"] == {"same seed, 1 and 2 ranks": [1.0, 1.0]}
    assert [row.case for row in read(tmp_path / "runs.csv", Row)] == ["static", "static, 2 ranks"]
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


def test_the_plot_is_the_same_twice() -> None:
    found = {"other seeds, 1 rank": [0.1, 0.2], "same seed, 1 and 2 ranks": [1.0, 0.9]}
    assert picture(found, "title").svg() == picture(found, "title").svg()
