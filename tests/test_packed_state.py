"""Checkpoints whose tensors are bits and values: smaller, and the same to the last bit when they are read."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_sparse import evaluate
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.errors import UserError
from dist_sparse.packed_state import pack, unpack
from dist_sparse.sparsity.packed_tensor import PackedTensor
from tests.command import here, train_here
from tests.values import QUIET, SMALL_RESNET


def sparse(dtype: torch.dtype, density: float = 0.1) -> Tensor:
    return (torch.randn(16, 8, 3, 3) * (torch.rand(16, 8, 3, 3) < density)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nothing_is_lost(dtype: torch.dtype) -> None:
    special = sparse(dtype)
    special.view(-1)[:4] = torch.tensor([5e-8, torch.inf, torch.nan, 0.0])
    state = {"a": special, "b": [sparse(dtype, 0.9), (sparse(dtype, 0.0), 3)], "mask": torch.ones(2000, dtype=torch.uint8)}
    packed = pack(state)
    assert isinstance(packed["a"], dict) and packed["b"][0] is state["b"][0] and packed["mask"] is state["mask"]
    back = unpack(packed)
    for one, other in ((state["a"], back["a"]), (state["b"][1][0], back["b"][1][0])):
        assert one.dtype == other.dtype and one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_state_dict_stays_one() -> None:
    state = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)).state_dict()
    back = unpack(pack(state))
    assert isinstance(back, OrderedDict) and back._metadata == state._metadata  # type: ignore[attr-defined]


def test_a_file_is_smaller_and_a_run_goes_on_from_it_as_from_a_plain_one(tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    values = {
        **QUIET,
        "sparsity.method": "rigl",
        "sparsity.density": 0.05,
        "train.epochs": 2,
        "train.ema": 0.9,
        "resume": "auto",
    }
    for form in ("plain", "packed"):
        more = {**values, "checkpoint.format": form, "output": tmp_path / form}
        assert train_here(more, interrupt_after=13).code == 130
        assert train_here(more).code == 0
        found.append(CheckpointStore.load(tmp_path / form / "checkpoints" / "best.pt"))
        evaluated = here(evaluate.main, [str(tmp_path / form)])
        assert evaluated.code == 0, evaluated.err
    for part in ("state_dict", "state_dict_ema", "optimizer"):
        torch.testing.assert_close(found[0][part], found[1][part], rtol=0, atol=0)
    plain, packed = ((tmp_path / form / "checkpoints" / "best.pt").stat().st_size for form in ("plain", "packed"))
    assert packed < plain / 4
    begun = {**values, "model.checkpoint": tmp_path / "packed", "train.epochs": 1, "output": tmp_path / "begun"}
    assert train_here(begun).code == 0


@pytest.mark.parametrize("more", [{"sparsity.method": "rigl"}, {"sparsity.method": "gmp", "optim.name": "adamw"}])
def test_packed_weights_are_written_and_read_without_being_whole(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        **QUIET,
        **SMALL_RESNET,
        **more,
        "execution.compute": "dense",
        "sparsity.density": 0.05,
        "sparsity.update.interval": 5,
        "train.epochs": 2,
        "train.ema": 0.9,
        "resume": "auto",
    }
    found: list[dict[str, Any]] = []
    for first, then, form in (
        ("packed", "packed", "packed"),
        ("packed", "packed", "plain"),
        ("masked", "packed", "packed"),
        ("packed", "masked", "packed"),
    ):
        folder = tmp_path / first / then / form
        run = {**values, "checkpoint.format": form, "output": folder}
        with monkeypatch.context() as patched:
            if first == then == form:
                patched.delattr(PackedTensor, "whole")
            assert train_here({**run, "execution.storage": first}, interrupt_after=13).code == 130
            assert train_here({**run, "execution.storage": then}).code == 0
        found.append(CheckpointStore.load(CheckpointStore(folder / "checkpoints", keep=1).paths()[-1]))
    for part in ("state_dict", "state_dict_ema", "optimizer"):
        for other in found[1:]:
            torch.testing.assert_close(other[part], found[0][part], rtol=0, atol=0)


def test_bits_that_do_not_fit_are_told(tmp_path: Path) -> None:
    state = pack({"weight": sparse(torch.float32)})
    assert isinstance(state["weight"], dict)
    state["weight"]["values"] = state["weight"]["values"][:-1]
    torch.save(state, tmp_path / "step_00000001.pt")
    with pytest.raises(UserError, match=r"not a sound checkpoint: .* values do not fit the bits"):
        CheckpointStore.load(tmp_path / "step_00000001.pt")
