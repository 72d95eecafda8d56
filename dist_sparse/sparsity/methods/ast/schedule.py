"""From the section ``sparsity.ast`` to the sub-nets of a run: checks, and when each of them updates."""

import dataclasses
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from dist_sparse.config.sparsity import AstConfig, SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.distributions import Densities, Shapes
from dist_sparse.sparsity.methods.ast.pruners import DensityPruner, GroupPruner, SubNetPruner
from dist_sparse.sparsity.methods.ast.sub_nets import labels
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.fit import check_fit
from dist_sparse.sparsity.methods.forecast import MaskUpdate, NetworkForecast
from dist_sparse.sparsity.methods.pruning.ramp import Window
from dist_sparse.sparsity.schedules import CubicRamp, UpdateSchedule, share_of
from dist_sparse.sparsity.structures import NM, parse_structure

_OFFSET = 0.3
"""The share of the interval between the updates of two sub-nets: the reference's 300 of 999 steps for CIFAR."""


def derive(config: SparsityConfig) -> SparsityConfig:
    """The configuration with the density and the structure of the sparsest sub-net.

    Raises:
        UserError: no sub-nets, two lists of them, one out of order, or a density or structure beside it that says otherwise.
    """
    ast = config.ast
    if bool(ast.densities) == bool(ast.structures):
        raise UserError(
            f"sparsity.ast needs {'only one of the two' if ast.densities else 'its sub-nets'}: sparsity.ast.densities, "
            "falling, such as [0.1, 0.05, 0.02], or sparsity.ast.structures, such as [nm:2:4, nm:1:4, nm:1:8]"
        )
    densities = ast.densities or [structure.n / structure.m for structure in _structures(ast)]
    key, text = ("densities", ast.densities) if ast.densities else ("structures", ast.structures)
    if any(after >= before for before, after in pairwise(densities)):
        raise UserError(
            f"sparsity.ast.{key}=[{', '.join(map(str, text))}] is out of order: each sub-net is sparser than the one before it"
        )
    structure = ast.structures[-1] if ast.structures else "unstructured"
    if config.structure not in ("unstructured", structure):
        raise UserError(f"sparsity.structure={config.structure} cannot go with method ast: sparsity.ast.structures takes N:M")
    if config.density is not None and abs(config.density - densities[-1]) > 1e-12:
        raise UserError(
            f"sparsity.density={config.density:g} contradicts sparsity.ast.{key}, which ends at {densities[-1]:g}: leave it out"
        )
    return dataclasses.replace(config, density=densities[-1], structure=structure)


def _structures(ast: AstConfig) -> list[NM]:
    structures = []
    for text in ast.structures:
        try:
            structure = parse_structure(text)
        except ValueError as error:
            raise UserError(f"sparsity.ast.structures={error}") from error
        if not isinstance(structure, NM):
            raise UserError(f"sparsity.ast.structures={text!r}: sub-nets are nm:N:M, or unstructured by sparsity.ast.densities")
        structures.append(structure)
    return structures


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubNetSchedule:
    """The sub-nets, and when each of them updates.

    Each goes by a time of its own, which counts a group of steps when the sub-net's turn in it is over: in that time, updates
    fall on multiples of the interval, and those of sub-net n come n offsets later in steps than the first one's.
    """

    pruners: Sequence[SubNetPruner]
    updates: UpdateSchedule
    """When masks move, in the first sub-net's time."""
    offset: int
    last: int
    """Number of the update that ends the ramp."""

    def time(self, number: int, step: int) -> int:
        """A sub-net's time at a step of its own."""
        return max(0, step + len(self.pruners) - 1 - number - number * self.offset)

    def due(self, number: int, before: int, now: int) -> int | None:
        """The latest update of a sub-net after ``before`` and up to ``now``, in its time, or None."""
        return dataclasses.replace(self.updates, end=self.updates.end - number * self.offset).due_step(before, now)

    def fraction(self, number: int, regular: int) -> float:
        """What an update of a sub-net drops."""
        return self.updates.drop(regular + number * self.offset)

    def pruning(self, before: int, regular: int) -> int | None:
        """The number on the ramp of an update, or None if the ramp was over ``before``. Its last number is not passed over."""
        interval = self.updates.interval
        return None if before // interval >= self.last else min(regular // interval, self.last)

    def done(self, number: int, time: int) -> bool:
        """At a sub-net's ``time`` its ramp is over."""
        return self.pruners[number].ramp.done(time // self.updates.interval)

    def forecast(self, made: Sequence[int], initial: Densities, shapes: Shapes) -> list[NetworkForecast]:
        """What becomes of each sub-net, whose steps are every K-th."""
        networks = []
        for number, (label, pruner) in enumerate(zip(labels(len(self.pruners)), self.pruners, strict=True)):
            own = made[number :: len(self.pruners)]
            shift = number * (self.offset + 1) - len(self.pruners) + 1  # from the sub-net's time to steps
            schedule = dataclasses.replace(self.updates, end=self.updates.end - number * self.offset)
            densities, mask_updates, before = initial, [], 0
            due = {bisect_left(own, regular + shift): regular for regular in schedule.regular(own[-1] - shift if own else 0)}
            for turn, regular in due.items():
                index = turn * len(self.pruners) + number
                if (pruning := self.pruning(before, regular)) is not None:
                    densities = pruner.densities(pruning, shapes)
                before = regular
                mask_updates.append(MaskUpdate(index=index, from_index=index + 1, densities=densities))
            networks.append(NetworkForecast(label=label, initial=initial, updates=mask_updates))
        return networks


class RoundRobin:
    """Whose turn it is, and whether it updates. A step that overflowed was none, and is repeated."""

    def __init__(self, schedule: SubNetSchedule) -> None:
        self._schedule = schedule
        self._made = 0
        self._times = [0] * len(schedule.pruners)
        """The time of each sub-net at its last step."""
        self._time = 0
        """The time at this step."""

    @property
    def number(self) -> int:
        return self._made % len(self._times)

    def due(self, step: int) -> int | None:
        """The update of this turn, in the sub-net's time, or None."""
        self._time = self._schedule.time(self.number, step)
        return self._schedule.due(self.number, self._times[self.number], self._time)

    def pruning(self, regular: int) -> int | None:
        """The number on the ramp of this turn's update, or None after the ramp."""
        return self._schedule.pruning(self._times[self.number], regular)

    def done(self, number: int) -> bool:
        """The ramp of a sub-net is over."""
        return self._schedule.done(number, self._times[number])

    def end(self) -> None:
        """This turn is over."""
        self._times[self.number] = self._time
        self._made += 1

    def state_dict(self) -> dict[str, Any]:
        return {"made": self._made, "times": list(self._times)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._made, self._times = state["made"], list(state["times"])


def plan_sub_nets(context: Context) -> SubNetSchedule:
    """The sub-nets of a run.

    Raises:
        UserError: a ramp that no update falls into or that does not end in time, or a sub-net that does not fit the layers.
    """
    ast, window = context.config.ast, Window.of(context)
    first, last = window.numbers()
    pruners = _by_density(context, first, last) if ast.densities else _by_groups(context, first, last)
    offset = round(_OFFSET * window.interval) if ast.offset is None else context.steps(ast.offset)
    schedule = dataclasses.replace(context.update_schedule(), start=window.start)
    arrival = last * window.interval + (len(pruners) - 1) * (offset + 1)
    if arrival >= (end := min(schedule.end, context.run.total_steps)):
        over = "updates (sparsity.update.end) are" if end == schedule.end else "the run is"
        more = f", and with sparsity.ast.offset at step {arrival} for the last sub-net" if len(pruners) > 1 else ""
        raise UserError(
            f"sparsity.ramp.end is at step {last * window.interval}{more}, when {over} over at step {end}: "
            "the density would not be reached"
        )
    return SubNetSchedule(pruners=pruners, updates=schedule, offset=offset, last=last)


def _by_density(context: Context, first: int, last: int) -> list[SubNetPruner]:
    densities, initial = context.config.ast.densities, context.config.ramp.initial_density
    assert initial is not None, "resolve() fills it in"
    if initial < densities[0]:
        raise UserError(
            f"sparsity.ramp.initial_density={initial:g} is below sparsity.ast.densities={densities}: pruning only comes down"
        )
    ramps = [CubicRamp(initial=initial, final=density, first=first, last=last) for density in densities]
    total, layers = sum(shape.numel() for shape in context.shapes.values()), len(context.shapes)
    if share_of(ramps[-1](last), total) < layers:
        raise UserError(
            f"sparsity.ast.densities ends at {densities[-1]:g}, which is less than one weight for each of the {layers} layers; "
            f"the lowest density of this model is {layers / total:.3g}"
        )
    return [DensityPruner(ramp=ramp) for ramp in ramps]


def _by_groups(context: Context, first: int, last: int) -> list[SubNetPruner]:
    if context.config.ramp.initial_density != 1:
        raise UserError("sparsity.ramp.initial_density is always 1 for sparsity.ast.structures: all groups begin dense")
    structures = _structures(context.config.ast)
    for text, structure in zip(context.config.ast.structures, structures, strict=True):
        check_fit(dataclasses.replace(context.config, structure=text), structure, context.shapes)
    ramp = CubicRamp(initial=1.0, final=0.0, first=first, last=last)
    return [GroupPruner(ramp=ramp, structure=structure, seed=context.run.seed) for structure in structures]
