"""Whole runs with sparse execution beside dense ones, in double precision: the same masks, and losses but for rounding."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_sparse import evaluate
from dist_sparse.execution import available, pool_modules, stem, survey
from dist_sparse.execution.kernels import Kernels, kernels
from dist_sparse.execution.modules import SparseConv2d
from tests.command import ROOT, here, metrics, train_here
from tests.test_every_method import CONFIGS, short
from tests.values import SMALL_RESNET

NETWORK: dict[str, Any] = {"model.name": "cifar_resnet20", "model.kwargs": {"width": 0.5, "blocks": 1}}
"""10 masked layers."""
KEYS: dict[str, Any] = {
    **NETWORK,
    "train.precision": "fp64",
    "train.epochs": 1,
    "train.accumulation": 1,
    "tracking.log_every": 1,
    "resume": "never",
}
"""11 steps."""


def trained(folder: Path, values: dict[str, Any], compute: str) -> list[dict[str, Any]]:
    outcome = train_here({**values, "execution.compute": compute, "output": folder / compute})
    assert outcome.code == 0, outcome.err
    return metrics(folder / compute)


def check_alike(sparse: list[dict[str, Any]], dense: list[dict[str, Any]]) -> None:
    assert len(sparse) == len(dense)
    for ours, theirs in zip(sparse, dense, strict=True):
        for name, value in theirs.items():
            if name.startswith(("train/", "val/")) and value:
                assert float(ours[name]) == pytest.approx(float(value), rel=1e-9), name
            elif not name.startswith("execution/"):
                assert ours[name] == value, name


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "dense"], ids=lambda path: path.stem)
def test_every_method_trains_as_it_does_densely(tmp_path: Path, path: Path) -> None:
    values = {**short(path), **KEYS}
    if path.stem.startswith("ast"):  # whose sub-nets come to their densities one after the other
        values["train.epochs"] = 2
    sparse, dense = (trained(tmp_path, values, compute) for compute in ("sparse", "dense"))
    check_alike(sparse, dense)
    assert any(float(row["execution/sparse_layers"] or 0) > 0 for row in sparse)


def test_a_network_with_max_pooling_trains_as_it_does_densely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first convolution, which has no mask here, and its pooling are computed in the kernels' layout, too."""
    entered: list[str] = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            entered.append(function.__name__)
            return function(*given)

        return call

    for module, name in ((pool_modules, "max_pool"), (pool_modules, "average_pool"), (stem, "convolve")):
        monkeypatch.setattr(module, name, noted(getattr(module, name)))
    masks = {"sparsity.keep_dense": ["first"], "sparsity.update.interval": "2 steps"}
    values = {**short(ROOT / "configs" / "digits" / "rigl.yaml"), **KEYS, **SMALL_RESNET, **masks}
    dense = trained(tmp_path, values, "dense")
    assert not entered
    sparse = trained(tmp_path, values, "sparse")
    assert set(entered) == {"max_pool", "average_pool", "convolve"}
    check_alike(sparse, dense)


SET = {
    **short(ROOT / "configs" / "digits" / "set.yaml"),
    **NETWORK,
    "train.epochs": 1,
    "train.accumulation": 1,
    "checkpoint.every": "3 steps",
}


def test_auto_measures_once_for_a_machine_and_tells_what_is_gained(tmp_path: Path, measured: list[str]) -> None:
    outcome = train_here({**SET, "output": tmp_path / "first"})
    lines = outcome.out.splitlines()
    assert lines[0] == "measuring how fast 10 layers are computed, 60 s at most; kept for later runs"
    assert "computed" in lines[1] and "gain" in lines[1]
    rows = [line.split() for line in lines if line.startswith("layer")]
    assert {row[-1] for row in rows[1:]} == {"x10.00"}
    told = "10 of 10 masked layers are computed sparsely: forward and backward take 3 s instead of 30 s (x10.00, measured)"
    assert told in lines
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert summary["sparse_layers"] == 10
    assert summary["flops_saved"] == pytest.approx(1 - summary["train_flops_relative"], abs=0.05)
    assert summary["seconds_per_step"] > 0
    last = metrics(tmp_path / "first")[-1]
    assert (last["execution/sparse_layers"], float(last["execution/flops_saved"])) == ("10", summary["flops_saved"])
    count = len(measured)
    assert count
    again = train_here({**SET, "output": tmp_path / "second"})
    assert len(measured) == count
    assert told in again.out and "measuring" not in again.out
    assert metrics(tmp_path / "second") == metrics(tmp_path / "first")


def test_a_run_goes_on_as_it_was_chosen_bit_for_bit(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another run of the machine has measured something else since."""
    assert train_here({**SET, "output": tmp_path / "whole"}).code == 0
    assert train_here({**SET, "output": tmp_path / "halves"}, interrupt_after=7).code == 130
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    count = len(measured)
    assert "going on after step 6 of 11" in train_here({**SET, "output": tmp_path / "halves"}).out
    assert len(measured) == count
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "whole")


def test_a_network_that_is_faster_densely_is_left_as_it_is(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = iter([30.0, 40.0])
    monkeypatch.setattr(survey, "network_seconds", lambda *_: next(networks))
    outcome = train_here({**SET, "output": tmp_path / "auto"})
    assert "layers are computed densely: a sparse step would take 40 s, a dense one 30 s (measured)" in outcome.out
    assert "computed" not in outcome.out.splitlines()[1]
    assert train_here({**SET, "execution.compute": "dense", "output": tmp_path / "dense"}).code == 0
    assert metrics(tmp_path / "auto") == metrics(tmp_path / "dense")
    assert json.loads((tmp_path / "auto" / "summary.json").read_text())["flops_saved"] == 0


def test_small_networks_and_methods_that_need_everything_are_not_measured(tmp_path: Path) -> None:
    for name, reason in [("set", "the network is too small to gain by another way"), ("srste", "the masks are chosen anew")]:
        values = {**SET, "config": ROOT / "configs" / "digits" / f"{name}.yaml", "output": tmp_path / name}
        values.pop("sparsity.update.interval")
        if name == "srste":
            values["scheduler.warmup"] = 0
        assert f"layers are computed densely: {reason}" in train_here(values).out


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"train.precision": "fp16"}, "train.precision=fp16 scales losses"),
        ({"train.compile": True}, "train.compile=true compiles layers"),
    ],
)
def test_sparse_execution_that_cannot_be_had_is_refused_in_one_line(tmp_path: Path, keys: dict[str, Any], reason: str) -> None:
    outcome = train_here({**SET, **keys, "execution.compute": "sparse", "output": tmp_path / "run"})
    assert (outcome.code, len(outcome.errors)) == (2, 1)
    assert outcome.errors[0].startswith(f"execution.compute=sparse: {reason}")
    assert outcome.errors[0].endswith("execution.compute=auto goes on densely")


def test_without_a_compiler_a_run_goes_on_densely_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[str]
) -> None:
    monkeypatch.setattr(available, "kernels", kernels.__wrapped__)  # as in a new process
    monkeypatch.setenv("CXX", "no-such-compiler")
    told = (
        "there is no C++ compiler (no-such-compiler; CXX names another), "
        "and no masked layer has rows that agree in groups of 16"
    )
    outcome = train_here({**SET, "output": tmp_path / "auto"})
    assert outcome.code == 0 and f"layers are computed densely: {told}" in outcome.out
    outcome = train_here({**SET, "execution.compute": "sparse", "output": tmp_path / "sparse"})
    assert outcome.errors == [f"execution.compute=sparse: {told}; execution.compute=auto goes on densely"]
    assert not measured


@pytest.mark.parametrize(
    "keys", [{"train.precision": "bf16"}, {"train.channels_last": True}, {"train.ema": 0.9, "train.clip_norm": 1.0}]
)
def test_sparse_execution_goes_with(tmp_path: Path, keys: dict[str, Any]) -> None:
    values = {**SET, "tracking.log_every": 1, **keys}
    sparse, dense = (trained(tmp_path, values, compute) for compute in ("sparse", "dense"))
    tolerance = 0.05 if "train.precision" in keys else 1e-4
    for ours, theirs in list(zip(sparse, dense, strict=True))[1:4]:
        assert float(ours["train/loss"]) == pytest.approx(float(theirs["train/loss"]), rel=tolerance)


def test_evaluate_computes_as_the_run_did(tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert train_here({**SET, "output": tmp_path / "run"}).code == 0
    seen: list[int] = []
    forward = SparseConv2d.forward
    monkeypatch.setattr(SparseConv2d, "forward", lambda self, input: (seen.append(len(input)), forward(self, input))[1])
    said = {}
    for compute in ("auto", "sparse", "dense"):
        seen.clear()
        outcome = here(evaluate.main, [str(tmp_path / "run"), "--train.eval_batch_size=77", f"--execution.compute={compute}"])
        assert outcome.code == 0, outcome.err
        assert bool(seen) == (compute != "dense")
        said[compute] = outcome.out
    assert said["auto"] == said["sparse"] == said["dense"]


def test_kernels_that_compute_wrongly_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[str]
) -> None:
    correlate = Kernels.correlate_rows
    monkeypatch.setattr(Kernels, "correlate_rows", lambda *arguments: correlate(*arguments) * 1.001)
    outcome = train_here({**SET, "output": tmp_path / "run"})
    assert (
        "layers are computed densely: the compiled kernels compute wrong results on this machine (unstructured)" in outcome.out
    )
    assert not measured


def test_a_run_that_began_densely_goes_on_densely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[str]) -> None:
    """Though the machine has a compiler by now: results would part."""
    with monkeypatch.context() as without:
        without.setattr(available, "kernels", kernels.__wrapped__)
        without.setenv("CXX", "no-such-compiler")
        assert train_here({**SET, "output": tmp_path / "halves"}, interrupt_after=7).code == 130
    assert "going on after step 6 of 11" in train_here({**SET, "output": tmp_path / "halves"}).out
    assert not measured
    assert train_here({**SET, "execution.compute": "dense", "output": tmp_path / "whole"}).code == 0
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "whole")
