"""Heads of attention and widths of its MLPs."""

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.shrinking import Shrunk, shrink
from tests.shrinking.networks import images, masked, network

HEAD = 64


@pytest.fixture
def deit() -> nn.Module:
    return network("deit_tiny_patch16_224", img_size=32, depth=2)


def masks_for(model: nn.Module, *parts: tuple[str, str, list[int]]) -> dict[str, Tensor]:
    """Masks that switch off, of a weight, these rows or columns."""
    masks = {}
    for name, dim, units in parts:
        mask = masks.setdefault(name, torch.ones_like(model.get_parameter(name), dtype=torch.bool))
        mask[(units,) if dim == "rows" else (slice(None), units)] = False
    return masks


def equal(model: nn.Module, masks: dict[str, Tensor]) -> Shrunk:
    shrunk = shrink(model, masks, images(32))
    with torch.no_grad():
        batch = images(32, batch=3)
        torch.testing.assert_close(shrunk.model(batch), masked(model, masks)(batch), rtol=1e-12, atol=1e-12)
    return shrunk


@pytest.mark.parametrize("fused", [True, False])
def test_a_head_that_nobody_reads_is_removed(deit: nn.Module, fused: bool) -> None:
    for block in deit.blocks:
        block.attn.fused_attn = fused
    second = list(range(HEAD, 2 * HEAD))
    shrunk = equal(deit, masks_for(deit, ("blocks.0.attn.proj.weight", "columns", second)))
    attention = shrunk.model.blocks[0].attn
    assert (attention.num_heads, attention.head_dim, attention.qkv.out_features, attention.proj.in_features) == (
        2,
        64,
        384,
        128,
    )
    assert shrunk.model.blocks[1].attn.num_heads == 3
    units = shrunk.original_units()
    assert units["blocks.0.attn.qkv.weight"].outputs == [row for row in range(576) if row % 192 not in second]


def test_a_head_whose_values_are_constant_gives_them_to_the_projection(deit: nn.Module) -> None:
    """Attention averages values over tokens, and an average of equal vectors is that vector."""
    values = [2 * 192 + unit for unit in range(HEAD)]
    before = deit.blocks[1].attn.proj.bias.clone()
    shrunk = equal(deit, masks_for(deit, ("blocks.1.attn.qkv.weight", "rows", values)))
    assert shrunk.model.blocks[1].attn.num_heads == 2
    assert not torch.allclose(shrunk.model.blocks[1].attn.proj.bias, before)


def test_a_head_that_is_dead_in_part_stays(deit: nn.Module) -> None:
    values = [2 * 192 + unit for unit in range(HEAD - 1)]
    parts = masks_for(deit, ("blocks.1.attn.qkv.weight", "rows", values), ("blocks.1.mlp.fc1.weight", "rows", [0, 5]))
    shrunk = equal(deit, parts)
    assert shrunk.model.blocks[1].attn.num_heads == 3
    row = next(row for row in shrunk.report.layers if row.name == "blocks.1.attn.qkv.weight")
    assert row.dead == 63 and row.dead_removed == 0 and "before blocks.1.attn.proj" in row.why()


def test_the_width_of_an_mlp(deit: nn.Module) -> None:
    parts = masks_for(deit, ("blocks.0.mlp.fc1.weight", "rows", [0, 7]), ("blocks.0.mlp.fc2.weight", "columns", [7, 9]))
    shrunk = equal(deit, parts)
    assert shrunk.model.blocks[0].mlp.fc1.out_features == shrunk.model.blocks[0].mlp.fc2.in_features == 765
