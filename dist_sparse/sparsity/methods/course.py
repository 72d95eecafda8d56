"""What a method's masks will do over a whole run, known from its plan before the first step."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dist_sparse.sparsity.distributions import Densities
from dist_sparse.sparsity.methods.setting import Plan
from dist_sparse.sparsity.schedules import UpdateSchedule

LIKE_ERK = "which weights of all layers stay is decided by training; layers are assumed at Erdos-Renyi-kernel densities"
"""Why the densities of single layers are estimates."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """An update of masks. Both numbers are places among the steps that are made, 0 the first."""

    place: int
    """Of the step that makes it."""
    from_place: int
    """Of the first step whose forward has the new masks."""
    densities: Mapping[str, float]
    """Of every layer from then on."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One network: the densities that its layers begin with, and its updates in their order."""

    label: str = ""
    initial: Mapping[str, float]
    moves: Sequence[Move] = ()


@dataclass(frozen=True, kw_only=True)
class Course:
    """The networks, which take steps in turn; the last is the one that the run is for."""

    lines: Sequence[Line]
    dense_gradients: int = 0
    """Steps that need the gradients of inactive weights too."""
    follows: bool = False
    """Masks follow the weights at every step, at the same density: that is no update."""
    mask_copies: int = 1
    """Masks of every masked layer that are held at once."""
    weight_copies: int = 0
    """Further tensors of every masked layer's shape and type that are held: weights put away, summed or averaged gradients."""
    estimate: str = ""
    """Why the densities of single layers are not exact (the overall density is); empty where they are."""


@runtime_checkable
class Foresees(Protocol):
    """A method whose masks move, or that needs dense gradients."""

    @classmethod
    def foresee(cls, plan: Plan, made: Sequence[int]) -> Course:
        """The course of a run that makes the steps of these numbers, without an overflow."""
        ...


@runtime_checkable
class Replaces(Protocol):
    """A method of which some steps change masks in place of weights."""

    @classmethod
    def replaced(cls, plan: Plan, made: Sequence[int]) -> Sequence[int]:
        """The places of the steps without a step of the optimizer, in a run that makes the steps of these numbers."""
        ...


def initial_densities(plan: Plan) -> Densities:
    """The density of each layer before the first step."""
    return {name: plan.active[name] / shape.numel() for name, shape in plan.setting.shapes.items()}


def resting(plan: Plan) -> Course:
    """Masks that never move."""
    return Course(lines=[Line(initial=initial_densities(plan))])


def updates(schedule: UpdateSchedule, made: Sequence[int]) -> dict[int, int]:
    """The regular steps at which a schedule updates, by the place of the step that makes them."""
    return {bisect_left(made, regular): regular for regular in schedule.regular(made[-1])}
