"""What ranks exchange: gradients of active weights only, beside an engine that sends all; whole ones of packed weights."""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dist_sparse import distributed
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.packed_access import PackedAccess
from dist_sparse.engines.precision import Precision
from dist_sparse.engines.traffic import elements_per_step
from dist_sparse.seeding import generator
from dist_sparse.sparsity.layers import sparse_layers
from dist_sparse.sparsity.masks import Masks
from dist_sparse.trainer import Trainer
from tests.distributed.cases import Trained, trainer_for

CPU = torch.device("cpu")
STEPS = 5
DENSE_STEP, MOVED_BEFORE = 2, 3


@dataclass(frozen=True)
class Step:
    """What one rank has seen of a step."""

    difference: float
    """From the dense exchange, over all active gradients: the largest, relative to the largest gradient of its tensor."""
    inactive: int
    """Gradients of inactive weights that are not 0."""
    same: bool
    """All ranks hold the same gradients, bit for bit."""
    sent: int
    expected: int


def engine_of(model: nn.Module, *, precision: str = "fp32", channels_last: bool = False, **keys: Any) -> DDPEngine:
    placement = Precision(name=precision, device=CPU, channels_last=channels_last)  # type: ignore[arg-type]
    model = placement.place_model(copy.deepcopy(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return DDPEngine(model, optimizer, cross_entropy, precision=placement, **keys)


def resnet() -> nn.Module:
    """Two buckets; with norms that begin at 0, as is usual, most of its gradients would be 0 too."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=10, zero_init_last=False)


def masks_of(engine: DDPEngine, density: float, draw: int) -> Masks:
    """The same on all ranks."""
    weights = {name: engine.weight(name) for name in sparse_layers(engine.model, keep_dense=["first", "last"])}
    masks = Masks(weights)
    return move(masks, density, draw)


def move(masks: Masks, density: float, draw: int) -> Masks:
    shapes = {name: masks[name].shape for name in masks.names}
    draws = {name: torch.rand(shape, generator=generator("test", draw, name)) for name, shape in shapes.items()}
    masks.replace({name: each < density for name, each in draws.items()})
    return masks


def side_by_side(density: float = 0.1, *, exchange: str = "masked", compress: str = "none", **keys: Any) -> list[Step]:
    """Train some steps with each rank's own images. One step is dense, and the masks move before another."""
    dense = engine_of(resnet(), exchange="dense", **keys)
    packed = engine_of(resnet(), exchange=exchange, compress=compress, **keys)
    masks = masks_of(packed, density, draw=0)
    steps = []
    for number in range(STEPS):
        if number == MOVED_BEFORE:
            move(masks, density, draw=1)
        packed.model.load_state_dict(dense.model.state_dict())  # a small difference would grow from step to step
        for engine in (dense, packed):
            engine.mask_weights(masks)
            engine.mask_optimizer_state(masks)
            for part in range(keys.get("accumulation", 1)):
                images = torch.randn(4, 3, 32, 32, generator=generator("images", number, part, dist.get_rank()))
                engine.forward_backward(images, torch.arange(4) + number, None if number == DENSE_STEP else masks)
        steps.append(_compare(packed, dense, masks, everything=number == DENSE_STEP))
        for engine in (dense, packed):
            engine.mask_gradients(masks)
            engine.step(skip=engine.overflowed)
    return steps


def _compare(packed: DDPEngine, dense: DDPEngine, masks: Masks, *, everything: bool) -> Step:
    assert packed.exchange is not None
    gradients = {name: packed.grad(name) for name, _ in packed.model.named_parameters()}
    inactive = sum(int(gradients[name][~masks[name]].count_nonzero()) for name in masks.names)
    reference = {name: dense.grad(name).clone() for name in gradients}
    if not everything:
        masks.multiply_({name: reference[name] for name in masks.names})
    sizes = {name: gradient.numel() for name, gradient in gradients.items()}
    flat = torch.cat([gradient.flatten() for gradient in gradients.values()])
    return Step(
        difference=max(_difference(gradients[name], reference[name]) for name in gradients),
        inactive=inactive,
        same=all(torch.equal(flat, other) for other in distributed.gather(flat)),
        sent=packed.exchange.sent,
        expected=elements_per_step(sizes, {} if everything else masks.active()),
    )


def _difference(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max().clamp(min=1e-30))


def overflow_off_the_mask(exchange: str) -> tuple[bool, int]:
    """fp16, and on the last rank the gradients of an inactive column overflow: did the step, and how many there are not 0?"""
    torch.manual_seed(0)
    engine = engine_of(nn.Linear(4, 3), precision="fp16", exchange=exchange)
    masks = Masks({"weight": engine.weight("weight")})
    masks.replace({"weight": torch.tensor([True, True, True, False]).expand(3, 4)})
    engine.mask_weights(masks)
    images = torch.ones(2, 4)
    if dist.get_rank() == dist.get_world_size() - 1:
        images[:, 3] = 6e4  # times the weight's 0 it is nothing; times the scaled gradient, more than fp16 holds
    engine.forward_backward(images, torch.tensor([0, 1]), masks)
    return engine.overflowed, int(engine.grad("weight")[:, 3].count_nonzero())


def train(values: Mapping[str, Any], folder: str) -> tuple[Trained, float]:
    """Train to the end; the share of the gradients that the last step has sent, 1 if DDP does it its own way."""
    trainer, recorder = trainer_for(dict(values), folder)
    initial = trainer.method.digests()
    trainer.fit()
    assert isinstance(trainer.engine, DDPEngine)
    exchange = trainer.engine.exchange
    return Trained(initial, trainer.method.digests(), recorder.rows), exchange.sent / exchange.total if exchange else 1.0


def whole_gradients_held(values: dict[str, Any], folder: str) -> tuple[list[str], list[list[str]]]:
    """The layers that this rank decides, and those whose whole gradients it holds after each micro-batch of a step."""
    trainer, _ = trainer_for(values, folder)
    engine, held = trainer.engine, []
    assert isinstance(engine, PackedAccess)
    with contextlib.closing(engine):
        for _ in _micro_batches(trainer):
            held.append([name for name, _ in engine._collected.values()])
    return trainer.method.agreement.owned(), held


def largest_inactive_gradients(values: dict[str, Any], folder: str) -> dict[str, list[float]]:
    """By layer that this rank decides, what a step's averaged gradients are largest in of inactive weights."""
    trainer, _ = trainer_for(values, folder)
    engine, method = trainer.engine, trainer.method
    owned = method.agreement.owned()
    with contextlib.closing(engine):
        assert list(_micro_batches(trainer))
        with engine.gathered(gradients=owned):
            return {name: (engine.grad(name).abs() * ~method.masks[name]).flatten().topk(5).values.tolist() for name in owned}


def _micro_batches(trainer: Trainer) -> Iterator[int]:
    """Run the first step's, and tell of each."""
    trainer.method.start()
    for number, batch in zip(range(trainer.config.train.accumulation), trainer.data.train.epoch(0), strict=False):
        trainer._step.forward_backward(1, batch.images, batch.labels)
        yield number
