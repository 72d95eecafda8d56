"""A run's length, updates, densities, FLOPs, memory and traffic, from its configuration alone.

The network is built on the meta device and no data set is read, so that the answer takes seconds and a login node will do.
What a method forecasts (:mod:`dist_sparse.sparsity.methods.forecast`) is added up over the steps as a run adds up what it
sees.
"""

import itertools
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dist_sparse.build import loading_of, resolved
from dist_sparse.checks import check_config, check_plan, check_state_exchange
from dist_sparse.config import Config
from dist_sparse.cost import Cost, dense_flops_by_side, measure
from dist_sparse.data.batch import DataInfo
from dist_sparse.data.clock import Clock
from dist_sparse.data.efficient import make_clock, plan_efficient
from dist_sparse.data.expected import expected_info
from dist_sparse.data.images.sizes import sizes_of
from dist_sparse.data.order import BatchPlan
from dist_sparse.distributed import Ranks
from dist_sparse.effects import warn_of_idle
from dist_sparse.engines.build import capabilities_of
from dist_sparse.engines.capabilities import Holding
from dist_sparse.engines.optimizer_state import parameter_state
from dist_sparse.flops import training_cost
from dist_sparse.guards import check_training_mode
from dist_sparse.models import build_meta_model, check_sizes
from dist_sparse.models.pretrained import check_pretrained
from dist_sparse.models.training import checkpoint_gradients
from dist_sparse.optim import build_mixup, build_optimizer, build_scheduler
from dist_sparse.planning import plan_masks
from dist_sparse.sparsity.agreement import most_owned
from dist_sparse.sparsity.methods.forecast import Forecast, MaskUpdate, NetworkForecast

_META = torch.device("meta")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that one rank holds from step to step; activations and what libraries take are not counted."""

    weights: int
    """Buffers included."""
    gradients: int
    optimizer: int
    """With the copy of the weights that the engine may step; 0 where that lies in the host's memory."""
    masks: int
    """On a GPU, where a mask takes a byte a weight, and its bits beside it an eighth of one; the bits alone with packed
    weights."""
    masks_on_cpu: int
    """There it takes as many bytes as the weight, and the bits the same eighth; so does the record of explored weights, which
    is in the host's memory always."""
    indices: int
    """Positions of packed weights, four bytes for each active one; what sparse execution needs beside them is not counted."""
    method: int
    """Copies of weights, and summed or averaged gradients, that the method keeps."""
    ema: int

    @property
    def total(self) -> int:
        """On a GPU."""
        return self.weights + self.gradients + self.optimizer + self.masks + self.indices + self.method + self.ema


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What :func:`look_ahead` finds. Densities are of the masked layers; of several networks, counted as a run counts."""

    config: Config
    """The resolved configuration."""
    world_size: int
    info: DataInfo
    source: str
    """Where the data set's sizes are from."""
    clock: Clock
    made: Sequence[int]
    """The numbers of the optimizer steps."""
    forecast: Forecast
    shapes: Mapping[str, torch.Size]
    """Shapes of the masked layers' weights."""
    parameters: Mapping[str, int]
    """Elements of each trainable parameter."""
    cost: Cost
    """The cost of a forward pass with the last network's final masks."""
    step_flops: Sequence[int]
    """FLOPs of an image's dense forward in each of the steps, whose images may be of other sizes than in validation."""
    memory: Memory

    @property
    def update_steps(self) -> list[int]:
        """The numbers of the steps whose update a run logs, in order."""
        return sorted(self.made[update.index] for network in self.forecast.networks for update in network.updates)

    def density(self, densities: Mapping[str, float]) -> float:
        """The overall density of layers at these; 1 if no layer has a mask."""
        total = sum(shape.numel() for shape in self.shapes.values())
        return sum(densities[name] * shape.numel() for name, shape in self.shapes.items()) / total if total else 1.0

    def densities_at(self, network: NetworkForecast, index: int) -> Mapping[str, float]:
        """The densities of a network's layers in the forward of the step of this index."""
        known = [update.densities for update in network.updates if update.from_index <= index]
        return known[-1] if known else network.initial

    @property
    def final_densities(self) -> Mapping[str, float]:
        """Densities by layer of the network that the run is for, after the last step."""
        return self.densities_at(self.forecast.networks[-1], len(self.made))

    @property
    def final_gradients(self) -> Mapping[str, float]:
        """The share of each layer's weights whose gradients its last steps need, but for those that need all."""
        last = self.forecast.networks[-1]
        gradients = last.updates[-1].gradient_densities if last.updates else last.initial_gradients
        return self.final_densities if gradients is None else gradients

    @property
    def mean_densities(self) -> dict[str, float]:
        """The density of each layer, averaged over the forwards of the run."""
        return self._mean([(len(steps), densities) for steps, densities, _ in self._stretches()])

    def _between(self, steps: range) -> Sequence[int]:
        """The steps that need all gradients, from the first to the last of ``steps``."""
        dense = self.forecast.dense_gradient_steps
        return dense[bisect_left(dense, steps.start) : bisect_left(dense, steps.stop)]

    def _mean(self, parts: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
        """The densities of each layer, weighted by the number that stands before them."""
        total = sum(weight for weight, _ in parts)
        return {name: sum(weight * densities[name] for weight, densities in parts) / total for name in self.shapes}

    @property
    def mean_density(self) -> float:
        return self.density(self.mean_densities)

    @property
    def peak_density(self) -> float:
        return max(self.density(densities) for steps, densities, _ in self._stretches() if steps)

    def _stretches(self) -> Iterator[tuple[range, Mapping[str, float], Mapping[str, float]]]:
        """Indices of steps whose forwards have the same densities, with these and those of their gradients, of all networks."""
        networks = self.forecast.networks
        for number, network in enumerate(networks):
            start = MaskUpdate(index=0, from_index=0, densities=network.initial, gradient_densities=network.initial_gradients)
            end = MaskUpdate(index=0, from_index=len(self.made), densities={})
            for update, following in itertools.pairwise([start, *network.updates, end]):
                first = update.from_index + (number - update.from_index) % len(networks)
                gradients = update.densities if update.gradient_densities is None else update.gradient_densities
                yield range(first, following.from_index, len(networks)), update.densities, gradients

    @property
    def inference_share(self) -> float:
        """FLOPs of a forward with the final masks, relative to dense."""
        return self.cost.flops / self.cost.dense_flops

    @property
    def training_share(self) -> float:
        """FLOPs of training relative to dense, as :func:`dist_sparse.flops.training_cost` counts."""
        everything, forward, backward = dict.fromkeys(self.shapes, 1.0), [], []
        for steps, densities, gradients in self._stretches():
            flops = sum(self.step_flops[steps.start : steps.stop : steps.step])
            dense = sum(self.step_flops[step] for step in self._between(steps) if step in steps)
            forward.append((flops, densities))
            backward += [(dense, everything), (flops - dense, gradients)]
        return training_cost(*(self.cost.forward_share(self._mean(parts)) for parts in (forward, backward)))

    @property
    def dense_training_flops(self) -> float:
        """FLOPs of the whole run: forward, gradients of inputs and gradients of weights of every image."""
        return 3 * sum(self.step_flops) * self.config.train.batch_size

    def active(self, densities: Mapping[str, float]) -> dict[str, int]:
        """Active weights of layers at these densities."""
        return {name: round(densities[name] * shape.numel()) for name, shape in self.shapes.items()}


def look_ahead(config: Config, world_size: int, *, typed: Collection[str] = ()) -> Outlook:
    """The outlook of a run on so many ranks; ``typed`` are the keys of the command line.

    Raises:
        UserError: what would also stop the run, but for its data.
    """
    given, config = config, resolved(config)
    check_config(config, world_size)
    info, source = expected_info(config.data)
    ranks = Ranks(rank=0, world_size=world_size, device=_META)
    clock = _clock(config, info, ranks)
    model = build_meta_model(config.model, classes=info.classes, channels=info.channels, image_size=info.image_size)
    check_pretrained(config.model, model)
    if config.train.grad_checkpointing:
        checkpoint_gradients(config.model.name, model)
    model.to(torch.float64 if config.train.precision == "fp64" else torch.float32)
    check_state_exchange(config, model)
    optimizer = build_optimizer(config.optim, model, config.train.batch_size)
    scheduler = build_scheduler(config.scheduler, optimizer, steps_per_epoch=clock.whole, total_steps=clock.total)
    plan = plan_masks(config, ranks, model, clock)
    made = check_plan(config, plan, scheduler, clock)
    build_mixup(config.train, info.classes, seed=config.seed, world_size=world_size)  # refuses what cannot be
    sides = _training_sides(config, model, info, clock, made, ranks)
    flops = dense_flops_by_side(model, info.channels, set(sides))
    warn_of_idle(given, world_size, typed)
    forecast, shapes = plan.forecast(made), plan.context.shapes
    last = forecast.networks[-1]
    final = last.updates[-1].densities if last.updates else last.initial
    active = {name: round(final[name] * shape.numel()) for name, shape in shapes.items()}
    image = (info.channels, info.image_size, info.image_size)
    cost = measure(model, image, active, config.sparsity.structure)
    return Outlook(
        config=config,
        world_size=world_size,
        info=info,
        source=source,
        clock=clock,
        made=made,
        forecast=forecast,
        shapes=shapes,
        parameters={name: weight.numel() for name, weight in model.named_parameters()},
        cost=cost,
        step_flops=[flops[side] for side in sides],
        memory=_memory(config, world_size, model, optimizer, forecast, shapes),
    )


def _clock(config: Config, info: DataInfo, ranks: Ranks) -> Clock:
    train = config.train
    steps = BatchPlan(config.data.name, info.train_size, loading_of(config, ranks)).steps_per_epoch
    plan_efficient(config.data.forgetting, train, info)  # refuses what cannot be
    return make_clock(config.data.forgetting, train, info, steps)


def _training_sides(
    config: Config, model: nn.Module, info: DataInfo, clock: Clock, made: Sequence[int], ranks: Ranks
) -> Sequence[int]:
    """The side of the training images in each of the steps.

    Raises:
        UserError: sizes that do not fit together, or that the network cannot take or be trained at.
    """
    if config.data.name != "image_folder":
        check_training_mode(config, model, info, [], ranks.world_size)
        return [info.image_size] * len(made)
    sizes = sizes_of(config.data, epochs=clock.epochs, steps_per_epoch=clock.whole)
    sides = [sizes.at((step - 1) // clock.whole) for step in made]
    check_sizes(config.model, model, classes=info.classes, channels=info.channels, sizes=set(sides) - {info.image_size})
    check_training_mode(config, model, info, set(sides), ranks.world_size)
    return sides


def _memory(
    config: Config,
    world_size: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    forecast: Forecast,
    shapes: Mapping[str, torch.Size],
) -> Memory:
    engine, masked, packed = capabilities_of(config.engine), sum(shape.numel() for shape in shapes.values()), 0
    if config.execution.storage == "packed":
        packed = _most_active(forecast, shapes)

    def on_a_rank(size: int, what: Holding) -> int:
        return -(-size // world_size) if what in engine.sharded else size

    parameters = list(model.parameters())
    whole, buffers, size = _bytes(parameters), _bytes(list(model.buffers())), parameters[0].element_size()
    state = _state_bytes(config, model, optimizer) + (whole if engine.copies_weights else 0)
    bits, owned = -(-masked // 8), most_owned({name: shape.numel() for name, shape in shapes.items()}, world_size)
    if packed:  # an optimizer that takes them keeps as much for each weight
        held = whole - (masked - packed) * size
        state, whole = round(state * held / whole), held
    in_memory = 0 if packed else masked
    return Memory(
        weights=on_a_rank(whole, "weights") + buffers,
        gradients=on_a_rank(whole, "gradients"),
        optimizer=0 if engine.offloads else on_a_rank(state, "optimizer"),
        masks=(in_memory + bits) * forecast.mask_copies,
        masks_on_cpu=(in_memory * size + 2 * bits) * forecast.mask_copies,
        indices=4 * packed,
        method=(masked * forecast.weight_copies + owned * forecast.owned_copies) * size,
        ema=whole + buffers if config.train.ema is not None else 0,
    )


def _most_active(forecast: Forecast, shapes: Mapping[str, torch.Size]) -> int:
    """The active weights of the masked layers when they are most."""
    network = forecast.networks[-1]
    in_the_run = [network.initial, *(update.densities for update in network.updates)]
    return max(sum(round(densities[name] * shape.numel()) for name, shape in shapes.items()) for densities in in_the_run)


def _state_bytes(config: Config, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the optimizer's state after a step."""

    def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        return _bytes(list(parameter_state(optimizer).values()))

    try:
        return stepped(model, optimizer)
    except (RuntimeError, NotImplementedError):  # Kron, NovoGrad, AdamP ... look at values, which are not on the meta device
        real = model.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in real.parameters():
                parameter.zero_()
        return stepped(real, build_optimizer(config.optim, real, config.train.batch_size))


def _bytes(value: Any) -> int:
    """Bytes of the tensors in nested lists and mappings."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0
