"""Whole runs on a GPU against the same runs on the CPU: masks, arithmetic, memory formats, packed weights, resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import ROOT, metrics, train_here
from tests.test_every_method import one_of_each_method, short

pytestmark = pytest.mark.gpu


def double(path: Path) -> dict[str, Any]:
    """A short run in double precision, of a network without max pooling: of equal values in a window, as the background of
    digits gives them, each device and memory format hands the gradient to another one."""
    network = {"model.name": "cifar_resnet20", "model.kwargs": {"width": 0.5}}
    return {**short(path), **network, "train.precision": "fp64", "tracking.log_every": 1}


RIGL = double(ROOT / "configs/digits/rigl.yaml")


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., list[dict[str, str]]]:
    """``trained(name, device, values)`` is the metrics of a run, whose folder is tmp_path / name."""

    def train(name: str, device: str, values: dict[str, Any]) -> list[dict[str, str]]:
        outcome = train_here({**values, "engine.device": device, "output": tmp_path / name})
        assert outcome.code == 0, outcome.err
        return metrics(tmp_path / name)

    return train


def losses(rows: list[dict[str, str]]) -> list[float]:
    return [float(row["train/loss"]) for row in rows if row["train/loss"]]


def digests(rows: list[dict[str, str]]) -> dict[str, str]:
    """The masks' digests by step."""
    return {row["step"]: row["sparsity/mask_digest"] for row in rows if row["sparsity/mask_digest"]}


@pytest.mark.parametrize("path", one_of_each_method(), ids=lambda path: path.stem)
def test_masks_are_those_of_the_cpu(trained: Callable[..., Any], device: str, path: Path) -> None:
    """In double precision, over several updates of every method."""
    ours, expected = (trained(name, place, double(path)) for name, place in (("device", device), ("cpu", "cpu")))
    assert digests(ours) == digests(expected)
    assert losses(ours) == pytest.approx(losses(expected), rel=1e-6)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_trains_as_well(trained: Callable[..., Any], tmp_path: Path, device: str, precision: str) -> None:
    """The loss comes down as it does in fp32, about; inactive weights are 0, whatever the loss was scaled by."""
    half, full = (trained(each, device, {**RIGL, "train.precision": each, "train.epochs": 6}) for each in (precision, "fp32"))
    assert losses(full)[-1] < 0.8 * losses(full)[0], "fp32 itself learns"
    assert sum(losses(half)[-5:]) == pytest.approx(sum(losses(full)[-5:]), rel=0.25)
    summary = json.loads((tmp_path / precision / "summary.json").read_text())
    state = torch.load(sorted((tmp_path / precision / "checkpoints").glob("step_*.pt"))[-1], weights_only=True)
    active = sum(int((weight != 0).sum()) for name, weight in state["state_dict"].items() if weight.dim() == 4)
    weights = sum(weight.numel() for weight in state["state_dict"].values() if weight.dim() == 4)
    assert active <= round(weights * max(summary["density"], 0.1) * 1.5)
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values() if value.is_floating_point())


def test_another_memory_format_changes_rounding_only(trained: Callable[..., Any], device: str) -> None:
    ours, plain = (trained(str(each), device, {**RIGL, "train.channels_last": each}) for each in (True, False))
    assert losses(ours) == pytest.approx(losses(plain), rel=1e-6)
    assert digests(ours) == digests(plain)


def test_packed_weights_train_as_masked_ones(trained: Callable[..., Any], device: str) -> None:
    packed, masked = (trained(each, device, {**RIGL, "execution.storage": each}) for each in ("packed", "masked"))
    assert losses(packed) == pytest.approx(losses(masked), rel=1e-6)
    assert digests(packed) == digests(masked)


@pytest.mark.parametrize("precision", ["fp64", "fp16"])
def test_a_run_goes_on_as_if_nothing_had_happened(
    trained: Callable[..., Any], tmp_path: Path, device: str, precision: str
) -> None:
    """To rounding, since a GPU adds up in another order each time; in fp16 the scale of the loss goes on too."""
    values = {**RIGL, "train.precision": precision, "engine.device": device}
    assert train_here({**values, "output": tmp_path / "halves"}, interrupt_after=13).code == 130
    halves, whole = trained("halves", device, values), trained("whole", device, values)
    assert [row["step"] for row in halves] == [row["step"] for row in whole]
    if precision == "fp64":
        assert losses(halves) == pytest.approx(losses(whole), rel=1e-6)
        assert digests(halves) == digests(whole)
    else:
        assert losses(halves) == pytest.approx(losses(whole), rel=0.25)
