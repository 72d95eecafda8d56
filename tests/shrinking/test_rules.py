"""What goes and what stays, on networks of a few units whose masks are set by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dist_sparse.errors import UserError
from dist_sparse.shrinking import Shrunk, shrink
from dist_sparse.sparsity.layers import weight_layers
from dist_sparse.sparsity.structures import Unstructured
from tests.shrinking.networks import images, masked, network, random_masks, randomised


class Net(nn.Module):
    """Layers by name, and a forward of the test's own."""

    def __init__(self, forward: Callable[["Net", Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def conv(inputs: int, outputs: int, kernel: int = 1, **kwargs: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **kwargs)  # pyright: ignore[reportArgumentType]


def build(forward: Callable[..., Tensor], **layers: nn.Module) -> Net:
    """With biases and norms that are far from 0."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = Net(forward, **layers)
        for layer in net.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()  # pyright: ignore[reportCallIssue]
        randomised(net, torch.Generator().manual_seed(2))
    return net.double().eval()


def all_active(net: nn.Module) -> dict[str, Tensor]:
    return {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weight_layers(net).items()}


def shrunk_as_it_should(net: nn.Module, masks: dict[str, Tensor], side: int = 6) -> Shrunk:
    """Shrink, and compare outputs on images of several sizes."""
    shrunk = shrink(net, masks, images(side))
    original = masked(net, masks)
    with torch.no_grad():
        for batch in (images(side, 3), images(side + 3, 1)):
            torch.testing.assert_close(shrunk.model(batch), original(batch), rtol=1e-12, atol=1e-12)
    return shrunk


def stay(shrunk: Shrunk, layer: str) -> str:
    return next(row.why() for row in shrunk.report.layers if row.name == f"{layer}.weight")


def kept(shrunk: Shrunk, layer: str) -> list[int]:
    return shrunk.original_units()[f"{layer}.weight"].outputs


def chain(net: nn.Module, x: Tensor) -> Tensor:
    x = F.relu(net.norm(net.a(x)))
    return net.head(F.relu(net.b(x)).mean((2, 3)))


def chain_net(kernel: int = 3, **kwargs: object) -> Net:
    return build(chain, a=conv(3, 8), norm=nn.BatchNorm2d(8), b=conv(8, 6, kernel, **kwargs), head=nn.Linear(6, 5))


def with_constants(net: nn.Module, *values: float) -> dict[str, Tensor]:
    """Masks whose first units of layer a are dead, with these constants after their norm."""
    masks = all_active(net)
    masks["a.weight"][: len(values)] = False
    with torch.no_grad():
        for unit, value in enumerate(values):
            norm = net.norm
            at = norm.weight[unit] * (net.a.bias[unit] - norm.running_mean[unit])
            norm.bias[unit] = value - at / (norm.running_var[unit] + norm.eps).sqrt()
    return masks


def test_constants_are_folded_into_the_bias_of_a_layer_that_does_not_pad() -> None:
    net = chain_net()
    masks = with_constants(net, 0.5, 2.0, -1.0)
    bias = net.b.bias.clone()
    shrunk = shrunk_as_it_should(net, masks)
    assert kept(shrunk, "a") == [3, 4, 5, 6, 7] and shrunk.model.b.weight.shape[1] == 5
    assert not torch.allclose(shrunk.model.b.bias, bias)


def test_a_layer_without_a_bias_is_given_one_unless_a_batch_norm_follows() -> None:
    shrunk = shrunk_as_it_should(net := chain_net(bias=False), with_constants(net, 0.5))
    assert shrunk.plan.biases == ["b.bias"] and shrunk.model.b.bias.shape == (6,)

    normed = build(
        lambda net, x: net.head(net.norm2(net.b(F.relu(net.norm(net.a(x))))).mean((2, 3))),
        **{"a": conv(3, 8), "norm": nn.BatchNorm2d(8), "b": conv(8, 6, bias=False), "norm2": nn.BatchNorm2d(6)},
        head=nn.Linear(6, 5),
    )
    shrunk = shrunk_as_it_should(normed, with_constants(normed, 0.5))
    assert shrunk.plan.biases == [] and shrunk.model.b.bias is None and kept(shrunk, "a") == list(range(1, 8))


def test_under_zero_padding_one_constant_stays_and_stands_for_the_others() -> None:
    shrunk = shrunk_as_it_should(net := chain_net(padding=1), with_constants(net, 0.5, 2.0, -1.0, 0.7))
    assert kept(shrunk, "a") == [1, 4, 5, 6, 7]  # the largest; -1 is 0 after ReLU
    assert stay(shrunk, "a") == "1 standing for all constants that end at the border by the zero padding of b"


def test_under_zero_padding_a_single_constant_stays() -> None:
    shrunk = shrunk_as_it_should(net := chain_net(padding=1), with_constants(net, 0.5, -1.0))
    assert kept(shrunk, "a") == [0, 2, 3, 4, 5, 6, 7]
    assert "constant, but not at the border after the zero padding of b" in stay(shrunk, "a")


def test_the_image_s_size_does_not_hide_the_border() -> None:
    """On a map of one pixel all of the image is border, and a constant would seem to give another constant."""
    net = chain_net(padding=1)
    masks = with_constants(net, 0.5, -1.0)
    shrunk = shrink(net, masks, images(1))
    with torch.no_grad():
        torch.testing.assert_close(shrunk.model(images(9)), masked(net, masks)(images(9)), rtol=1e-12, atol=1e-12)


def test_what_only_removed_units_read_goes_too() -> None:
    """Masked is one unit of the last layer's input; units before it lose their readers one after the other."""
    net = build(
        lambda net, x: net.head(F.relu(net.c(F.relu(net.b(F.relu(net.a(x)))))).mean((2, 3))),
        **{"a": conv(3, 4), "b": conv(4, 4), "c": conv(4, 4), "head": nn.Linear(4, 5)},
    )
    masks = all_active(net)
    masks["head.weight"][:, 2] = False
    masks["c.weight"][[0, 1, 3], 1] = False  # only unit 2 of c reads unit 1 of b
    masks["b.weight"][[0, 2, 3], 0] = False  # only unit 1 of b reads unit 0 of a
    shrunk = shrunk_as_it_should(net, masks)
    assert [kept(shrunk, name) for name in "abc"] == [[1, 2, 3], [0, 2, 3], [0, 1, 3]]


def residual(net: nn.Module, x: Tensor) -> Tensor:
    x = net.a(x)
    return net.head((x + net.c(F.relu(net.b(x)))).mean((2, 3)))


def test_a_sum_loses_a_unit_when_all_its_terms_do() -> None:
    net = build(residual, a=conv(3, 6), b=conv(6, 5), c=conv(5, 6), head=nn.Linear(6, 4))
    masks = all_active(net)
    masks["a.weight"][[0, 1]] = False
    masks["c.weight"][[0, 2]] = False
    shrunk = shrunk_as_it_should(net, masks)
    assert kept(shrunk, "a") == kept(shrunk, "c") == [1, 2, 3, 4, 5]
    assert stay(shrunk, "a") == "1 added to or multiplied by active units before head"


def test_concatenation_and_flattening_keep_positions_apart() -> None:
    net = build(
        lambda net, x: net.head(F.adaptive_avg_pool2d(torch.cat([net.a(x), F.relu(net.b(x))], 1), 2).flatten(1)),
        a=conv(3, 3),
        b=conv(3, 4),
        head=nn.Linear(28, 5),
    )
    masks = all_active(net)
    masks["a.weight"][1] = False
    masks["head.weight"][:, 4 * 5 : 4 * 6] = False  # all that is read of unit 2 of b
    masks["head.weight"][:, 4 * 6 + 1] = False  # a part of unit 3
    shrunk = shrunk_as_it_should(net, masks)
    assert (kept(shrunk, "a"), kept(shrunk, "b")) == ([0, 2], [0, 1, 3])
    assert shrunk.original_units()["head.weight"].inputs == [[*range(4), *range(8, 20), *range(24, 28)]]
    assert "1 read by head" in stay(shrunk, "head")


def test_groups_lose_the_same_number_of_units_wherever_they_are() -> None:
    net = build(
        lambda net, x: net.head(F.relu(net.g(F.relu(net.a(x)))).mean((2, 3))),
        **{"a": conv(3, 8), "g": conv(8, 12, 1, groups=2), "head": nn.Linear(12, 5)},
    )
    masks = all_active(net)
    masks["g.weight"][:6, [0, 2]] = False  # two inputs of the first group are not read, one of the second
    masks["g.weight"][6:, 3] = False
    masks["g.weight"][[0, 7, 8]] = False
    shrunk = shrunk_as_it_should(net, masks)
    units = shrunk.original_units()["g.weight"]
    assert units.inputs == [[1, 2, 3], [0, 1, 2]] and units.outputs == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    assert tuple(shrunk.model.g.weight.shape) == (10, 3, 1, 1) and shrunk.model.g.groups == 2
    assert "so many that groups keep one size in g" in stay(shrunk, "g")


def test_depthwise_channels_go_with_their_inputs() -> None:
    net = build(
        lambda net, x: net.head(F.relu(net.d(F.relu(net.a(x)))).mean((2, 3))),
        **{"a": conv(3, 4), "d": conv(4, 8, 3, padding=1, groups=4), "head": nn.Linear(8, 5)},
    )
    masks = all_active(net)
    masks["d.weight"][[2, 3, 4]] = False  # both outputs of channel 1, one of channel 2
    shrunk = shrunk_as_it_should(net, masks)
    assert (kept(shrunk, "a"), kept(shrunk, "d"), shrunk.model.d.groups) == ([0, 2, 3], [0, 1, 4, 5, 6, 7], 3)


def test_outputs_of_one_group_of_one_channel_may_go() -> None:
    """As those of the first layer on grey images, which is no depthwise one."""
    net = build(chain, a=conv(1, 8), norm=nn.BatchNorm2d(8), b=conv(8, 6, 3), head=nn.Linear(6, 5))
    masks = all_active(net)
    masks["b.weight"][:, :3] = False
    assert kept(shrink(net, masks, images(6)[:, :1]), "a") == [3, 4, 5, 6, 7]


def squeeze(net: nn.Module, x: Tensor) -> Tensor:
    x = F.relu(net.a(x))
    gate = torch.sigmoid(net.expand(F.relu(net.reduce(x.mean((2, 3), keepdim=True)))))
    return net.head((net.b(x * gate)).mean((2, 3)))


def test_squeeze_and_excitation() -> None:
    net = build(squeeze, a=conv(3, 6), reduce=conv(6, 4), expand=conv(4, 6), b=conv(6, 5, 3, padding=1), head=nn.Linear(5, 4))
    masks = all_active(net)
    masks["a.weight"][[0, 1]] = False
    masks["reduce.weight"][2] = False
    with torch.no_grad():
        net.a.bias[0], net.a.bias[1] = -1.0, 1.0  # 0 whatever the gate is, and 1 that the gate makes unknown
    shrunk = shrunk_as_it_should(net, masks)
    assert kept(shrunk, "a") == kept(shrunk, "expand") == [1, 2, 3, 4, 5] and kept(shrunk, "reduce") == [0, 1, 3]


def test_an_average_that_counts_padding_ends_constants_at_the_border() -> None:
    def forward(net: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(net.norm(net.a(x)))
        return net.head(net.b(F.avg_pool2d(x, 3, 1, 1)).amax((2, 3)))

    for side in (1, 6):
        net = build(forward, a=conv(3, 8), norm=nn.BatchNorm2d(8), b=conv(8, 6), head=nn.Linear(6, 5))
        shrunk = shrunk_as_it_should(net, with_constants(net, 0.5, -1.0), side)
        assert kept(shrunk, "a") == [0, 2, 3, 4, 5, 6, 7]


def test_norms_over_units() -> None:
    net = build(
        lambda net, x: net.head(net.b(F.layer_norm(net.a(x).movedim(1, 3), (6,)).movedim(3, 1)).mean((2, 3))),
        **{"a": conv(3, 6), "b": conv(6, 5), "head": nn.Linear(5, 4)},
    )
    masks = all_active(net)
    masks["a.weight"][0] = False
    with pytest.raises(UserError, match=r"of a\.weight's 1 dead units 1 of a size that is fixed by layer_norm"):
        shrink(net, masks, images(6))


def test_every_layer_keeps_a_unit() -> None:
    net = chain_net()
    masks = all_active(net)
    masks["a.weight"][:] = False
    masks["b.weight"][:] = False
    shrunk = shrunk_as_it_should(net, masks)
    assert shrunk.model.a.weight.shape[0] == shrunk.model.b.weight.shape[0] == 1


def test_unstructured_masks_with_some_dead_units() -> None:
    model = network("cifar_resnet20")
    masks = random_masks(model, Unstructured(), density=0.02)
    masks["layer1.0.conv1.weight"][3] = False
    shrunk = shrunk_as_it_should(model, masks, side=24)
    assert 3 not in kept(shrunk, "layer1.0.conv1")
    assert shrunk.report.parameters_after < shrunk.report.parameters_before


def test_layers_named_in_keep_stay() -> None:
    net = chain_net()
    masks = with_constants(net, 0.5)
    masks["b.weight"][0] = False
    shrunk = shrink(net, masks, images(6), keep=["a.*"])
    assert shrunk.model.a.weight.shape[0] == 8 and kept(shrunk, "b") == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match=r"keep='c\*' fits no layer; the layers are a.weight, b.weight, head.weight"):
        shrink(net, masks, images(6), keep=["c*"])


def test_widths_stay_round() -> None:
    net = chain_net()
    masks = with_constants(net, 0.5, 2.0, -1.0)
    masks["b.weight"][0] = False
    shrunk = shrink(net, masks, images(6), multiple=2)
    assert kept(shrunk, "a") == [2, 3, 4, 5, 6, 7] and kept(shrunk, "b") == list(range(6))
    assert stay(shrunk, "a") == "1 so many that widths stay round in a"
    with torch.no_grad():
        torch.testing.assert_close(shrunk.model(images(6)), masked(net, masks)(images(6)), rtol=1e-12, atol=1e-12)


def test_nothing_to_shrink() -> None:
    net = chain_net()
    with pytest.raises(UserError, match=r"sparsity\.structure=filter or channel"):
        shrink(net, all_active(net), images(6))
    masks = all_active(net)
    masks["a.weight"][:, 0] = False
    with pytest.raises(UserError, match=r"1 of a size that is fixed by the network's input"):
        shrink(net, masks, images(6))


def test_masks_that_do_not_fit() -> None:
    net = chain_net()
    with pytest.raises(UserError, match=r"the mask a\.weight of shape \(2,\) fits no layer: the network has \(8, 3, 1, 1\)"):
        shrink(net, {"a.weight": torch.ones(2, dtype=torch.bool)}, images(6))
    with torch.no_grad():
        net.a.bias[0] = torch.nan
    with pytest.raises(UserError, match=r"a\.bias holds values that are not finite"):
        shrink(net, all_active(net), images(6))


def test_operations_that_cannot_be_followed_are_named() -> None:
    layers = {"a": conv(3, 4), "head": nn.Linear(4, 5)}
    branching = build(lambda net, x: net.head(net.a(x if x.sum() > 0 else -x).mean((2, 3))), **layers)
    with pytest.raises(UserError, match=r"(?s)cannot be followed: `branching = .*the other export formats"):
        shrink(branching, all_active(branching), images(6))
    comparing = build(lambda net, x: net.head((net.a(x) > 0).double().mean((2, 3))), **layers)
    with pytest.raises(UserError, match="the operation gt of the network cannot be followed"):
        shrink(comparing, all_active(comparing), images(6))


def test_code_that_counts_on_a_number_of_units() -> None:
    """Its units stay where the graph shows it, and otherwise the user is told what to do."""
    layers = {"a": conv(3, 8), "b": conv(8, 4), "head": nn.Linear(4, 5)}
    halves = build(lambda net, x: net.head(net.b(torch.cat(net.a(x).chunk(2, 1), 1)).mean((2, 3))), **layers)
    masks = all_active(halves)
    masks["a.weight"][0] = masks["b.weight"][1] = False
    assert kept(shrunk_as_it_should(halves, masks), "a") == list(range(8))

    fixed = build(lambda net, x: net.head(net.b(net.a(x).view(len(x), 8, *x.shape[2:])).mean((2, 3))), **layers)
    with pytest.raises(UserError, match="name the layers whose units have to stay in keep"):
        shrink(fixed, masks, images(6))
    assert kept(shrink(fixed, masks, images(6), keep=["a.weight"]), "b") == [0, 2, 3]


def test_a_weight_that_is_used_twice_takes_no_constants() -> None:
    def twice(net: nn.Module, x: Tensor) -> Tensor:
        return net.head((net.b(F.relu(net.a(x))) + net.b(F.relu(net.c(x)))).mean((2, 3)))

    net = build(twice, a=conv(3, 4), c=conv(3, 4), b=conv(4, 5), head=nn.Linear(5, 3))
    masks = all_active(net)
    masks["a.weight"][[0, 1]] = masks["c.weight"][[0, 1]] = False
    with torch.no_grad():
        net.a.bias[:2], net.c.bias[:2] = torch.tensor([1.0, -1.0]), torch.tensor([2.0, -2.0])
    assert kept(shrunk_as_it_should(net, masks), "a") == [0, 2, 3]
