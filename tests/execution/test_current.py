"""The products that layers keep from step to step."""

import torch
from torch import nn

from dist_sparse.execution.current import LayerProducts
from dist_sparse.execution.modules import SparseConv2d, geometry_of
from dist_sparse.execution.products import Products
from dist_sparse.sparsity.masks import Masks
from tests.execution.prepared import compute_sparsely

IMAGES = torch.randn(16, 4, 6, 6)


def test_products_are_made_anew_only_where_a_mask_has_changed() -> None:
    draws = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    masks = Masks({f"{layer}.weight": torch.ones(4, 4, 3, 3) for layer in range(2)})
    masks.replace({name: torch.rand(4, 4, 3, 3, generator=draws) < 0.3 for name in masks.names})
    compute_sparsely(model, masks, IMAGES)

    def products() -> list[Products]:
        model(IMAGES)
        steps = [layer.products_of(geometry_of(layer, IMAGES.shape)) for layer in model if isinstance(layer, SparseConv2d)]
        return [step.forward for step in steps if step is not None]

    first, second = products()
    masks.replace({"0.weight": torch.rand(4, 4, 3, 3, generator=draws) < 0.3, "1.weight": masks["1.weight"]})
    now_first, now_second = products()
    assert now_first is not first
    assert now_second is second
    assert products() == [now_first, now_second], "and they are kept from step to step"


def test_products_of_the_last_few_batch_sizes_are_kept() -> None:
    """Whoever serves a network may give it batches of any size."""
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    masks = Masks({"0.weight": torch.ones(4, 4, 3, 3)})
    masks.replace({"0.weight": torch.rand(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3})
    compute_sparsely(model, masks, IMAGES)
    layer = model[0]
    assert isinstance(layer, SparseConv2d) and isinstance(layer.products_of, LayerProducts)

    def products(samples: int) -> Products:
        step = layer.products_of(geometry_of(layer, torch.Size([samples, *IMAGES.shape[1:]])))
        assert step is not None
        return step.forward

    training = products(16)
    held = layer.products_of.index_bytes
    for samples in range(1, 13):
        products(samples)
        assert products(16) is training, "what is used over and over stays"
    assert layer.products_of.index_bytes == 4 * held
