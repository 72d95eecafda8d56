"""A network that computes sparsely beside the same one with masked weights, in double precision."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dist_sparse.models  # noqa: F401 - registers the networks with timm
from dist_sparse.execution.fusion import around_norms
from dist_sparse.execution.geometry import is_innermost
from dist_sparse.execution.modules import SparseConv2d, SparseLinear, qualifies
from dist_sparse.execution.norm_modules import InnermostBatchNorm2d
from dist_sparse.execution.prepare import undo
from dist_sparse.flops import layer_macs
from dist_sparse.sparsity.masks import Masks
from tests.execution.prepared import compute_sparsely

MODELS = ["resnet18", "resnet26d", "test_resnet", "test_byobnet", "test_convnext", "cifar_resnet20", "test_vit", "mlp"]


def network(name: str) -> nn.Module:
    """One of :data:`MODELS` for 5 classes of images of 32 x 32, in double precision."""
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(3072, 40), nn.ReLU(), nn.Linear(40, 33), nn.ReLU(), nn.Linear(33, 5)
        ).double()
    size: dict[str, Any] = {"img_size": 32} if name == "test_vit" else {}
    if name.startswith("resnet"):  # with max pooling behind the stem, and in the D form average pooling beside blocks
        size = {"channels": [8, 8, 12, 16], "layers": [1] * 4, "stem_width": 8}
    return timm.create_model(name, num_classes=5, in_chans=3, **size).double()


def masked(model: nn.Module, density: float, alike: int) -> Masks:
    """Masks on all layers that can be sparse but the first, whose rows agree in so many, and zeros in the weights."""
    weights = {f"{name}.weight": module.weight for name, module in model.named_modules() if qualifies(module)}
    weights.pop(next(iter(weights)))
    masks = Masks({name: weight.detach() for name, weight in weights.items()})
    rows = {name: torch.rand(-(-len(weight) // alike), *weight.shape[1:]) < density for name, weight in weights.items()}
    masks.replace({name: rows[name].repeat_interleave(alike, 0)[: len(weight)] for name, weight in weights.items()})
    masks.multiply_({name: weight.detach() for name, weight in weights.items()})
    return masks


def gradients(model: nn.Module, images: Tensor, masks: Masks) -> dict[str, Tensor]:
    model.zero_grad()
    F.cross_entropy(model(images), torch.arange(len(images)) % 5).backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    masks.multiply_({name: found[name] for name in masks.names})
    return found


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.allclose(ours[name].to(value.dtype), value, rtol=1e-9, atol=1e-11), name


def test_shapes_are_learnt_of_it_as_of_any_network() -> None:
    """On the meta device, with maps of a single place, which lie as those with samples innermost."""
    small = {"channels": [8] * 4, "layers": [1] * 4, "stem_width": 8}
    model = timm.create_model("resnet18", num_classes=5, in_chans=3, **small).double()
    masks, image = masked(model, 0.3, 1), (3, 8, 8)
    expected = layer_macs(model, image)
    compute_sparsely(model, masks, torch.randn(2, *image, dtype=torch.float64))
    assert layer_macs(model, image) == expected


@pytest.mark.parametrize("alike", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_results_gradients_and_statistics_are_those_of_masked_weights(name: str, alike: int) -> None:
    torch.manual_seed(0)
    dense = network(name).train()
    masks = masked(dense, 0.3, alike)
    sparse, size = copy.deepcopy(dense), 32
    compute_sparsely(sparse, masks, torch.randn(2, 3, size, size).double())
    assert sum(isinstance(module, SparseConv2d | SparseLinear) for module in sparse.modules()) == len(masks)
    for batch in (16, 7):  # whole vectors, and not
        images = torch.randn(batch, 3, size, size).double()
        close(gradients(sparse, images, masks), gradients(dense, images, masks))
        close(dict(sparse.named_buffers()), dict(dense.named_buffers()))
        assert torch.allclose(sparse.eval()(images), dense.eval()(images), rtol=1e-9, atol=1e-11)
        sparse.train(), dense.train()


def test_what_lies_behind_the_stem_has_its_samples_innermost() -> None:
    """Where a layer is computed sparsely and samples fill vectors; else torch computes it as ever."""
    torch.manual_seed(0)
    sparse = network("resnet18")
    masks, images = masked(sparse, 0.3, 1), torch.randn(16, 3, 32, 32).double().contiguous(memory_format=torch.channels_last)
    names, before = list(dict(sparse.named_modules())), {name: type(module) for name, module in sparse.named_modules()}
    state = {name: value.clone() for name, value in sparse.state_dict().items()}
    current = compute_sparsely(sparse, masks, images)
    seen: dict[str, bool] = {}
    for name in ("conv1", "maxpool", "global_pool.pool"):
        watched = dict(sparse.named_modules())[name]
        watched.register_forward_hook(lambda _, __, out, name=name: seen.update({name: is_innermost(out)}))
    copy.deepcopy(sparse)(images).sum().backward()
    assert all(seen.values()) and len(seen) == 3
    sparse(images[:7])
    assert not seen["conv1"] and not seen["maxpool"]
    with torch.autocast("cpu", torch.bfloat16):
        sparse(images)
    assert not seen["conv1"]
    empty = Masks({"conv1.weight": dict(sparse.named_parameters())["conv1.weight"].detach()})
    current.use(empty, empty)  # no layer is sparse by these
    current._choose = lambda _: {}
    sparse(images)
    assert not seen["conv1"] and not seen["maxpool"]
    undo(sparse)
    assert {name: type(module) for name, module in sparse.named_modules()} == before
    assert list(dict(sparse.named_modules())) == names and sparse.state_dict().keys() == state.keys()
    assert not any({"kernels", "whole", "defers"} & vars(module).keys() for module in sparse.modules())


def test_new_masks_are_followed_and_a_copy_has_them_too() -> None:
    torch.manual_seed(0)
    sparse = timm.create_model("test_resnet", num_classes=5).double().eval()
    masks, images = masked(sparse, 0.3, 1), torch.randn(8, 3, 32, 32).double()
    dense = copy.deepcopy(sparse)
    compute_sparsely(sparse, masks, images)
    averaged = copy.deepcopy(sparse)
    before = sparse(images)
    masks.replace({name: torch.rand(masks[name].shape) < 0.1 for name in masks.names})
    for model in (sparse, averaged, dense):
        parameters = dict(model.named_parameters())
        masks.multiply_({name: parameters[name].detach() for name in masks.names})
    assert not torch.allclose(sparse(images), before)
    for model in (sparse, averaged):
        assert torch.allclose(model(images), dense(images), rtol=1e-9, atol=1e-11)


class Tried(nn.Module):
    """A batch norm and a ReLU, with whatever a test does between them and after."""

    def __init__(self, between: Callable[["Tried", Tensor], Tensor], *, inplace: bool) -> None:
        super().__init__()
        self.norm, self.act, self.between = nn.BatchNorm2d(2), nn.ReLU(inplace=inplace), between

    def forward(self, images: Tensor) -> Tensor:
        self.images = images
        return self.between(self, self.norm(images))


def test_what_became_of_another_tensor_at_the_same_place_in_memory_does_not_count() -> None:
    """An object's id is another's once it is gone; here a norm's output takes those of what a ReLU has seen."""

    gone, outs = set(), []

    class Reused(Tried):
        def forward(self, images: Tensor) -> Tensor:
            gone.update(map(id, [self.act(images + 1) for _ in range(1000)]))
            while not outs or (id(outs[-1]) not in gone and len(outs) < 1000):
                outs.append(self.norm(images))
            return outs[-1] + 1

    model = Reused(lambda _, out: out, inplace=True)
    assert around_norms(model, torch.randn(2, 2, 4, 4)).before_relu == set()
    assert id(outs[-1]) in gone, "the case did not come about"


@pytest.mark.parametrize(
    ("between", "inplace", "fused"),
    [
        (lambda self, out: self.act(out), False, True),
        (lambda self, out: self.act(out), True, True),
        (lambda self, out: self.act(out) * 2, True, True),
        (lambda self, out: self.act(out) * out, True, True),  # in place: both are what the ReLU has made
        (lambda self, out: self.act(out) * out, False, False),
        (lambda self, out: self.act(out + 1), False, False),
        (lambda self, out: (out.mean(), self.act(out))[1], True, False),
        (lambda self, out: F.relu(out), False, False),
        (lambda self, out: self.act(out.reshape(out.shape)), False, False),
        (lambda self, out: out + 1, True, False),
        (lambda self, out: self.act(out + self.images), False, True),
        (lambda self, out: self.act(self.images + out), True, True),
        (lambda self, out: self.act(operator.iadd(out, self.images)), True, True),
        (lambda self, out: self.act(torch.add(out, self.images)) - self.images, False, True),
        (lambda self, out: self.act(torch.add(out, self.images, alpha=2)), False, False),
        (lambda self, out: self.act(out + self.images) - out, False, False),
        (lambda self, out: self.act(out + self.images) * (out + self.images), False, False),
        (lambda self, out: self.act(out + self.images + self.images), False, False),
        (lambda self, out: self.act(operator.iadd(1 * self.images, out)), False, False),
        (lambda self, out: (total := out + self.images, self.act(total) * total)[1], False, False),
        (lambda self, out: (total := out + self.images, self.act(total) * total)[1], True, True),
    ],
)
def test_a_relu_is_fused_only_where_nothing_else_sees_the_norm(
    between: Callable[[Tried, Tensor], Tensor], inplace: bool, fused: bool
) -> None:
    torch.manual_seed(0)
    model = Tried(between, inplace=inplace)
    assert around_norms(model, torch.randn(2, 2, 4, 4)).before_relu == ({"norm"} if fused else set())
    images, plain = torch.randn(16, 2, 5, 5), copy.deepcopy(model)
    compute_sparsely(model, Masks({}), images)
    assert isinstance(model.norm, InnermostBatchNorm2d) and model.norm.defers == fused
    innermost = images.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    for seen in (images, innermost):
        assert torch.allclose(model(seen), plain(images), atol=1e-5)
