"""Runs on a machine that has no C++ compiler: layers whose rows agree in groups of 16 are computed in plain torch."""

import json
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.execution import available, survey
from dist_sparse.execution.kernels import kernels
from tests.command import ROOT, metrics, train_here
from tests.execution.test_runs import KEYS, check_alike, trained
from tests.test_every_method import short

NONE = "there is no C++ compiler (no-such-compiler; CXX names another)"


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available, "kernels", kernels.__wrapped__)  # as in a new process
    monkeypatch.setenv("CXX", "no-such-compiler")


def digits(name: str, **keys: Any) -> dict[str, Any]:
    """Layers of 16, 32 and 64 rows."""
    return {**short(ROOT / "configs" / "digits" / f"{name}.yaml"), **KEYS, "model.kwargs": {"width": 1}, **keys}


DSB = digits("dsb", **{"sparsity.shuffled_block.size": 16})


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(DSB, id="dsb"),
        pytest.param(digits("ssb", **{"sparsity.shuffled_block.size": 16}), id="ssb"),
        pytest.param({**DSB, "train.channels_last": True}, id="dsb, channels last"),
        pytest.param(digits("rigl", **{"sparsity.keep_dense": "[first,last]", "sparsity.structure": "block:16x1"}), id="rigl"),
        pytest.param(
            digits("top_kast", **{"sparsity.keep_dense": "[first,last]", "sparsity.structure": "block:16x1"}), id="top_kast"
        ),
    ],
)
def test_layers_whose_rows_agree_train_as_they_do_densely(tmp_path: Path, values: dict[str, Any]) -> None:
    sparse, dense = (trained(tmp_path, values, compute) for compute in ("sparse", "dense"))
    check_alike(sparse, dense)
    assert max(float(row["execution/sparse_layers"] or 0) for row in sparse) >= 10


def test_what_is_measured_to_be_faster_is_taken_and_a_run_goes_on_bit_for_bit(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is a compiler by then."""
    outcome = train_here({**DSB, "output": tmp_path / "whole"})
    told = f"masked layers are computed sparsely in plain torch, since {NONE}: forward and backward take "
    assert outcome.code == 0 and told in outcome.out
    assert json.loads((tmp_path / "whole" / "summary.json").read_text())["flops_saved"] > 0.3
    assert train_here({**DSB, "output": tmp_path / "halves", "resume": "auto"}, interrupt_after=8).code == 130
    count = len(measured)
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(available, "kernels", kernels)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    outcome = train_here({**DSB, "output": tmp_path / "halves", "resume": "auto"})
    assert "going on after step 6 of 11" in outcome.out and "computed sparsely in plain torch: " in outcome.out
    assert len(measured) == count
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "whole")


def test_a_forced_run_that_goes_on_by_another_backend_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**DSB, "execution.compute": "sparse", "output": tmp_path / "run", "resume": "auto"}
    told = "execution.compute=sparse goes on with the backend 'compiled', where the run had 'torch' before"
    assert train_here(values, interrupt_after=7).code == 130
    same = train_here(values, interrupt_after=7)
    assert same.code == 130 and "going on after step" in same.out and "goes on with the backend" not in same.err
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(available, "kernels", kernels)
    other = train_here(values)
    assert other.code == 0 and "going on after step" in other.out
    assert told in other.err


def test_a_forced_run_that_goes_on_by_choice_is_measured(tmp_path: Path, measured: list[str]) -> None:
    values = {**DSB, "output": tmp_path / "run", "resume": "auto"}
    assert train_here({**values, "execution.compute": "sparse"}, interrupt_after=7).code == 130
    assert not measured
    outcome = train_here({**values, "execution.compute": "auto"})
    assert outcome.code == 0 and "going on after step" in outcome.out
    assert measured


def test_what_gains_nothing_is_computed_densely(tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    networks = iter([30.0, 29.0])
    monkeypatch.setattr(survey, "network_seconds", lambda *_: next(networks))
    outcome = train_here({**DSB, "output": tmp_path / "auto"})
    told = f"a sparse step would take 29 s, a dense one 30 s (measured in plain torch, since {NONE})"
    assert f"layers are computed densely: {told}" in outcome.out
    assert measured


def test_under_autocast_they_compute_in_fp32(tmp_path: Path) -> None:
    values = {**DSB, "train.precision": "bf16"}
    sparse, dense = (trained(tmp_path, values, compute) for compute in ("sparse", "dense"))
    for ours, theirs in list(zip(sparse, dense, strict=True))[:2]:
        if theirs["train/loss"]:
            assert float(ours["train/loss"]) == pytest.approx(float(theirs["train/loss"]), rel=0.05)
