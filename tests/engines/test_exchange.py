"""What is exchanged: where packing is chosen, and the line that says so. With several ranks: tests/distributed."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dist_sparse.engines.exchange import build_exchange, describe
from dist_sparse.sparsity.masks import Masks
from tests import process_group


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with process_group.of_one():
        yield


def model_and_masks(active: int) -> tuple[nn.Module, Masks]:
    model = nn.Linear(9, 10)
    masks = Masks({"weight": model.weight.detach()})
    masks.replace({"weight": torch.arange(90).view(10, 9) < active})
    return model, masks


def test_one_rank_has_nothing_to_exchange() -> None:
    model, _ = model_and_masks(10)
    assert build_exchange(model, "auto", "none") is None
    assert build_exchange(model, "dense", "none") is None
    assert build_exchange(model, "masked", "none") is not None
    assert build_exchange(model, "dense", "bf16") is None, "nothing is rounded for a wire that is not there"


@pytest.mark.parametrize(
    ("choice", "compress", "active", "line"),
    [
        ("masked", "none", 10, "gradients exchanged in a step: of active weights, 20 of 100 (20.0%)"),
        ("masked", "bf16", 89, "gradients exchanged in a step (bf16): of active weights, 99 of 100 (99.0%)"),
        ("masked", "none", None, "gradients exchanged in a step: all 100: the coming step uses those of inactive weights too"),
        ("dense", "none", 10, "gradients exchanged in a step: all 100: engine.exchange=dense"),
        ("masked", "none", 90, "gradients exchanged in a step: all 100: all weights are active yet"),
    ],
)
def test_the_line_says_what_is_sent_and_why(choice, compress, active: int | None, line: str) -> None:
    model, masks = model_and_masks(active or 0)
    assert describe(model, choice, compress, None if active is None else masks) == line


def test_auto_packs_what_is_at_most_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 8)
    model, masks = model_and_masks(40)
    assert describe(model, "auto", "none", masks).endswith("of active weights, 50 of 100 (50.0%)")
    model, masks = model_and_masks(41)
    assert describe(model, "auto", "none", masks).endswith(
        "all 100: 51% are of active weights, auto packs buckets of which at most 50% are"
    )


@pytest.mark.parametrize(("local", "packed"), [("8", False), ("4", True)])
def test_auto_packs_between_machines_and_not_between_gpus_of_one(
    monkeypatch: pytest.MonkeyPatch, local: str, packed: bool
) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 8)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    model, masks = model_and_masks(10)
    assert (build_exchange(model, "auto", "none") is not None) == packed
    assert ("NCCL within one machine" in describe(model, "auto", "none", masks)) != packed
