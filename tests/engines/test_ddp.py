"""The DDP engine in a world of one: averaged gradients, clipping, precisions, and states that load elsewhere."""

import copy
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dist_sparse import distributed
from dist_sparse.config.engine import EngineConfig
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.packed import PackedDDPEngine
from dist_sparse.engines.precision import Precision
from dist_sparse.errors import UserError
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.sparsity.masks import Masks

CPU = torch.device("cpu")
IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 5


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[distributed.Ranks]:
    """The process group of one process; a group that another test module left running stays."""
    started_here = not dist.is_initialized()
    yield distributed.start(EngineConfig(device="cpu"))
    if started_here:
        distributed.stop()


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5))


def engine_of(
    model: nn.Module, *, lr: float = 0.1, momentum: float = 0.9, channels_last: bool = False, name: Any = "fp32", **keys
) -> DDPEngine:
    precision = Precision(name=name, device=CPU, channels_last=channels_last)
    model = precision.place_model(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    return DDPEngine(model, optimizer, cross_entropy, precision=precision, **keys)


def train(engine: DDPEngine, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        losses.append(float(engine.forward_backward(IMAGES, LABELS)))
        engine.step(skip=engine.overflowed)
    return losses


@pytest.mark.parametrize("accumulation", [2, 3, 4])
def test_accumulation_is_the_same_as_one_large_batch(accumulation: int) -> None:
    whole, parts = engine_of(small_net(), name="fp64"), engine_of(small_net(), name="fp64", accumulation=accumulation)
    for _ in range(2):
        loss = whole.forward_backward(IMAGES, LABELS)
        boundaries, losses = [], []
        for images, labels in zip(IMAGES.chunk(accumulation), LABELS.chunk(accumulation), strict=True):
            losses.append(parts.forward_backward(images, labels))
            boundaries.append(parts.at_step_boundary)
        assert boundaries == [False] * (accumulation - 1) + [True]
        assert float(sum(losses)) / accumulation == pytest.approx(float(loss), abs=1e-12)
        for name, _ in whole.model.named_parameters():
            torch.testing.assert_close(parts.grad(name), whole.grad(name), rtol=0, atol=1e-12)
        whole.step(skip=False)
        parts.step(skip=False)


def test_gradients_are_those_of_the_plain_model() -> None:
    engine, plain = engine_of(small_net(), name="fp64"), small_net().double()
    assert not engine.at_step_boundary, "before the first step"
    engine.forward_backward(IMAGES, LABELS)
    cross_entropy(plain(IMAGES.double()), LABELS).backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(engine.grad(name), parameter.grad, rtol=0, atol=1e-14)


def test_gradients_are_dropped_by_the_step() -> None:
    engine = engine_of(small_net())
    train(engine, 1)
    with pytest.raises(AssertionError, match=r"0\.weight has no gradient"):
        engine.grad("0.weight")


def test_a_skipped_step_moves_nothing() -> None:
    engine = engine_of(small_net())
    train(engine, 1)
    before = copy.deepcopy(engine.state_dict())
    engine.forward_backward(IMAGES, LABELS)
    engine.step(skip=True)
    after = engine.state_dict()
    assert all(torch.equal(before["state_dict"][name], after["state_dict"][name]) for name in before["state_dict"])
    momenta = (state["optimizer"]["state"][0]["momentum_buffer"] for state in (before, after))
    assert torch.equal(*momenta)


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_clip_norm(limit: float) -> None:
    engine = engine_of(small_net(), lr=1.0, momentum=0.0, name="fp64", clip_norm=limit)
    before = [parameter.detach().clone() for parameter in engine.model.parameters()]
    engine.forward_backward(IMAGES, LABELS)
    norm = nn.utils.get_total_norm([engine.grad(name) for name, _ in engine.model.named_parameters()])
    engine.step(skip=False)
    moved = nn.utils.get_total_norm([a - b.detach() for a, b in zip(before, engine.model.parameters(), strict=True)])
    assert float(moved) == pytest.approx(min(limit, float(norm)), rel=1e-2 if limit < norm else 1e-9)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "fp64"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_precision_trains_weights_of_its_own_dtype(name: Any, channels_last: bool) -> None:
    engine = engine_of(small_net(), name=name, channels_last=channels_last)
    losses = train(engine, 8)
    assert losses[-1] < losses[0]
    weight = engine.weight("0.weight")
    assert weight.dtype == (torch.float64 if name == "fp64" else torch.float32)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert weight.is_contiguous(memory_format=memory_format)
    assert engine.precision.place_images(IMAGES).is_contiguous(memory_format=memory_format)
    assert losses[0] == pytest.approx(train(engine_of(small_net()), 1)[0], rel=2e-2)


def test_mixed_precision_computes_in_its_dtype() -> None:
    seen = []
    model = small_net()
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    train(engine_of(model, name="bf16"), 1)
    assert seen == [torch.bfloat16]


def test_overflow_is_told_before_the_step_and_halves_the_scale() -> None:
    engine = engine_of(small_net(), name="fp16")
    engine.forward_backward(IMAGES, LABELS)
    assert not engine.overflowed
    expected = engine_of(small_net())
    expected.forward_backward(IMAGES, LABELS)
    torch.testing.assert_close(engine.grad("4.bias"), expected.grad("4.bias"), rtol=1e-2, atol=1e-3)  # unscaled
    engine.step(skip=False)
    scale = engine.state_dict()["scaler"]["scale"]
    engine.forward_backward(IMAGES * 1e30, LABELS)
    assert engine.overflowed
    engine.step(skip=True)
    assert engine.state_dict()["scaler"]["scale"] == scale / 2


def test_only_fp16_overflows() -> None:
    engine = engine_of(small_net())
    engine.forward_backward(IMAGES * torch.inf, LABELS)
    assert not engine.overflowed


def test_masking_weights_gradients_and_state() -> None:
    engine = engine_of(small_net(), channels_last=True)
    masks = Masks({"0.weight": engine.weight("0.weight")})
    mask = torch.rand(6, 3, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    masks.replace({"0.weight": mask})
    engine.mask_optimizer_state(masks)  # there is none yet
    train(engine, 1)
    engine.forward_backward(IMAGES, LABELS)
    tensors = {
        "weight": (engine.weight("0.weight"), engine.mask_weights),
        "gradient": (engine.grad("0.weight"), engine.mask_gradients),
        "momentum": (
            engine._optimizer.state[engine.model.get_parameter("0.weight")]["momentum_buffer"],
            engine.mask_optimizer_state,
        ),
    }
    for tensor, apply in tensors.values():
        before = tensor.clone()
        apply(masks)
        assert torch.equal(tensor, torch.where(mask, before, 0.0)) and not torch.equal(tensor, before)


def test_weights_are_the_models_own_memory() -> None:
    engine = engine_of(small_net())
    engine.weight("4.weight").zero_()
    assert not engine.model.get_parameter("4.weight").detach().count_nonzero()


def test_state_loads_into_a_plain_timm_model() -> None:
    engine = engine_of(timm.create_model("test_resnet", num_classes=5))
    engine.forward_backward(torch.randn(2, 3, 32, 32), LABELS[:2])
    engine.step(skip=False)
    plain = timm.create_model("test_resnet", num_classes=5)
    plain.load_state_dict(engine.state_dict()["state_dict"])
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain.eval()(images), engine.model.eval()(images))


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_resuming_gives_the_same_run(name: Any, tmp_path) -> None:
    whole, first, second = (engine_of(small_net(), name=name) for _ in range(3))
    expected = train(whole, 6)
    train(first, 3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert second.state_dict()["scaler"] == first.state_dict()["scaler"]
    assert train(second, 3) == expected[3:]


def test_an_optimizer_s_numbers_keep_their_type_where_a_run_goes_on() -> None:
    """NAdam's running product is float32 whatever the weights are, and torch would load it as float64."""

    def nadam() -> DDPEngine:
        precision = Precision(name="fp64", device=CPU)
        model = precision.place_model(small_net())
        return DDPEngine(model, torch.optim.NAdam(model.parameters(), lr=0.1), cross_entropy, precision=precision)

    whole, first, second = nadam(), nadam(), nadam()
    expected = train(whole, 6)
    train(first, 3)
    second.load_state_dict(first.state_dict())
    types = [{key: value.dtype for key, value in each.optimizer_state("0.weight").items()} for each in (whole, second)]
    assert types[0]["mu_product"] == torch.float32 and types[0] == types[1]
    assert train(second, 3) == expected[3:]


def test_learning_rate_is_the_present_one() -> None:
    engine = engine_of(small_net(), lr=0.25)
    assert engine.learning_rate == 0.25
    engine._optimizer.param_groups[0]["lr"] = 0.125
    assert engine.learning_rate == 0.125


def test_synchronising_buffers_keeps_the_first_ranks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    engine = engine_of(model)
    train(engine, 2)
    before = copy.deepcopy(dict(model.named_buffers()))
    with mock.patch.object(dist, "broadcast", wraps=dist.broadcast) as broadcast:
        engine.synchronise_buffers()
    assert [call.args[0].dtype for call in broadcast.call_args_list] == [torch.float32, torch.int64], "one of each type"
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert int(before["1.num_batches_tracked"]) == 2


def test_the_group_of_one(group: distributed.Ranks) -> None:
    assert (group.rank, group.world_size, group.device, group.is_first) == (0, 1, CPU, True)
    assert distributed.start(EngineConfig(device="cpu")) == group, "a group that exists is used as it is"
    values: Tensor = torch.tensor([1.0, 2.0])
    assert (
        distributed.sum_over_ranks(values.clone()).tolist() == distributed.max_over_ranks(values.clone()).tolist() == [1.0, 2.0]
    )
    assert distributed.gather(values).tolist() == [[1.0, 2.0]]
    assert distributed.from_first_rank({"a": 1}) == {"a": 1}


def test_agreeing_on_errors() -> None:
    with distributed.agreeing_on_errors():
        pass
    with pytest.raises(UserError, match=r"^no such folder$"), distributed.agreeing_on_errors():
        raise UserError("no such folder")
    with pytest.raises(ZeroDivisionError), distributed.agreeing_on_errors():
        raise ZeroDivisionError


@pytest.mark.parametrize("active", [40, 60], ids=["as many", "more"])
def test_packed_gradients_and_momentum_follow_the_masks(active: int) -> None:
    model, masks = small_net(), Masks({"0.weight": torch.empty(6, 3, 3, 3)})
    draws = torch.Generator().manual_seed(1)
    before, after = (torch.randperm(162, generator=draws).argsort().view(6, 3, 3, 3) < count for count in (40, active))
    masks.replace({"0.weight": before})
    weights = PackedWeights(model, masks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    weights.replaced.clear()
    engine = PackedDDPEngine(model, optimizer, cross_entropy, weights=weights, precision=Precision(device=CPU))
    engine.forward_backward(IMAGES, LABELS, masks)
    engine.step(skip=False)
    engine.forward_backward(IMAGES, LABELS, masks)
    held = {"grad": engine.grad("0.weight"), "momentum": engine.optimizer_state("0.weight")["momentum_buffer"]}
    masks.replace({"0.weight": after})
    engine.mask_weights(masks)
    now = {"grad": engine.grad("0.weight"), "momentum": engine.optimizer_state("0.weight")["momentum_buffer"]}
    for key, tensor in held.items():
        assert tensor.count_nonzero() and torch.equal(now[key], tensor * after), key
