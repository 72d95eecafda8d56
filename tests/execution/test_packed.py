"""Packed layers: what they hold follows the masks, and what they compute is what whole weights compute."""

import copy
from typing import Any
from weakref import ref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dist_sparse.errors import UserError
from dist_sparse.execution.packed_layer import PackedLayer
from dist_sparse.execution.packed_modules import pack_module
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.packed_state import unpack
from dist_sparse.sparsity import bits
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.packed_tensor import whole

SHAPE = torch.Size([6, 5, 3, 3])


def drawn(generator: torch.Generator, density: float, shape: torch.Size = SHAPE) -> Tensor:
    return torch.rand(shape, generator=generator) < density


@settings(max_examples=200)
@given(densities=st.lists(st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0]), min_size=1, max_size=8), seed=st.integers(0, 2**31))
def test_what_is_held_survives_any_masks_as_in_a_dense_twin(densities: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = drawn(generator, 0.5)
    twins = [torch.randn(SHAPE, generator=generator) * mask for _ in range(2)]  # a weight and its momentum, say
    layer = PackedLayer("layer", SHAPE, bits.pack(mask))
    held = [layer.pack(twin) for twin in twins]
    for density in densities:
        mask = drawn(generator, density)
        move = layer.move_to(bits.pack(mask))
        held, twins = [move(each) for each in held], [twin * mask for twin in twins]
        for each, twin in zip(held, twins, strict=True):
            assert each.shape == (int(mask.sum()), 1)
            assert torch.equal(layer.expand(each), twin)
            assert torch.equal(layer.pack(twin), each)
        for each in held:  # a step: all active entries move
            each += 1
        twins = [twin + mask.float() for twin in twins]


def networks() -> list[Any]:
    return [
        pytest.param(nn.Conv2d(5, 6, 3, padding=1), (2, 5, 4, 4), id="convolution"),
        pytest.param(nn.Conv2d(6, 6, 3, groups=3), (2, 6, 5, 5), id="grouped"),
        pytest.param(nn.Linear(5, 7), (2, 3, 5), id="linear"),
    ]


@pytest.mark.parametrize(("module", "size"), networks())
@pytest.mark.parametrize("autocast", [False, True])
def test_a_packed_layer_computes_as_a_whole_one(module: nn.Module, size: tuple[int, ...], autocast: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = copy.deepcopy(module)
    weight = whole.weight
    assert isinstance(weight, nn.Parameter)
    mask = drawn(generator, 0.4, weight.shape)
    weight.data *= mask
    packed = copy.deepcopy(whole)
    layer = PackedLayer("weight", weight.shape, bits.pack(mask))
    parameter = pack_module(packed, layer)
    assert dict(packed.named_parameters())["weight"] is parameter and len(parameter) == int(mask.sum())
    inputs = [torch.randn(size, generator=generator, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    collected: dict[str, Tensor] = {}
    layer.collect = collected.__setitem__
    for net, images in zip((whole, packed), inputs, strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = net(images)
        out.float().square().sum().backward()
    assert weight.grad is not None and parameter.grad is not None
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=0)
    torch.testing.assert_close(layer.expand(parameter.grad), weight.grad * mask, rtol=0, atol=0)
    torch.testing.assert_close(collected["weight"], weight.grad, rtol=0, atol=0)


def test_no_whole_weight_is_kept_between_forward_and_backward() -> None:
    module = nn.Conv2d(8, 8, 3)
    pack_module(module, PackedLayer("weight", module.weight.shape, bits.pack(torch.rand(module.weight.shape) < 0.1)))
    sizes: list[int] = []

    def see(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        out = module(torch.randn(1, 8, 3, 3))
    out.sum().backward()
    assert 8 * 8 * 9 not in sizes


def test_checkpointing_keeps_no_layer_s_input_and_gives_the_same_gradients() -> None:
    draws = torch.Generator().manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6)) for _ in range(2)]
    for name, module in nn.ModuleList(blocks).named_modules():
        if isinstance(module, nn.Linear):
            pack_module(module, PackedLayer(name, module.weight.shape, bits.pack(drawn(draws, 0.3, module.weight.shape))))
    model, images = nn.Sequential(*blocks), torch.randn(4, 6, generator=draws)
    model(images).square().sum().backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    seen: list[ref[Tensor]] = []
    for block in blocks:
        block[2].register_forward_pre_hook(lambda _module, given: seen.append(ref(given[0])))
    out = images
    for block in blocks:
        out = checkpoint(block, out, use_reentrant=False)
    assert len(seen) == 2 and not any(each() is not None for each in seen)
    out.square().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert gradient is not None and torch.equal(parameter.grad, gradient)


def test_a_network_and_its_copies_move_together() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4))
    weight = model[0].weight
    masks = Masks({"0.weight": weight.detach()})
    masks.replace({"0.weight": torch.rand(weight.shape) < 0.5})
    before = weight.detach() * masks["0.weight"]
    packed = PackedWeights(model, masks)
    average = copy.deepcopy(model)
    assert list(packed.moves()) == []
    masks.replace({"0.weight": torch.rand(weight.shape) < 0.2})
    ((name, move),) = packed.moves()
    for net in (model, average):
        held = dict(net.named_parameters())[name]
        replacing = packed.move(net, name, move)
        assert replacing is not held and dict(net.named_parameters())[name] is replacing
        state = unpack(packed.hand_over(net.state_dict()))
        assert list(state) == list(model.state_dict())
        assert torch.equal(state["0.weight"], before * masks["0.weight"])


def test_a_copy_remembers_what_was_inactive_within_an_update_only() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    masks = Masks({"0.weight": model[0].weight.detach()})
    masks.replace({"0.weight": torch.ones(4, 4, dtype=torch.bool)})
    packed = PackedWeights(model, masks)
    average = copy.deepcopy(model)
    packed.copied()
    before = whole(packed.hand_over(average.state_dict())["0.weight"])
    for active in (torch.zeros(4, 4), torch.eye(4)):
        masks.replace({"0.weight": active.bool()})
        for name, move in packed.moves():
            packed.move(model, name, move)
    packed.move_copy(average)
    assert torch.equal(whole(packed.hand_over(average.state_dict())["0.weight"]), before * torch.eye(4))
    assert not whole(packed.hand_over(model.state_dict())["0.weight"]).any()


def test_a_weight_of_several_modules_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(UserError, match=r"execution.storage=packed: several modules have the weight 0.weight"):
        PackedWeights(model, Masks({"0.weight": model[0].weight.detach()}))
