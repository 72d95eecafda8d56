"""What the rest of the program asks about an engine, instead of its name."""

from dataclasses import dataclass
from typing import Literal

Holding = Literal["weights", "gradients", "optimizer"]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an engine does with a model, as the section ``engine`` of the configuration has it.

    Each engine states it in :meth:`.base.Engine.capabilities`. The defaults are those of an engine whose ranks hold everything
    whole and leave the optimizer as it is.
    """

    cause: str
    """The key and value that make it so, such as ``engine.name=ddp``: for messages."""
    otherwise: str = "engine.name=ddp"
    """The keys and values under which everything stays whole, joined by "or": for messages."""

    flattens_weights: bool = False
    """Weights are taken for flat vectors, so they keep their default memory format and only images are channels_last."""
    packs_gradients: bool = False
    """The gradients of inactive weights need not be sent: ``engine.exchange`` and ``engine.compress`` act."""

    packs_weights: bool = False
    """Masked weights can be stored as their active ones alone: ``execution.storage=packed``."""

    fixes_sizes: bool = False
    """Parameters keep their sizes: packed weights whose numbers change are refused."""

    loses_units: bool = False
    """The model can become narrower between two steps: ``execution.shrink``."""

    steps_pieces: bool = False
    """The optimizer is given pieces of weights: one that looks at a whole weight's shape or norm is refused."""
    counts_steps_once: bool = False
    """All weights of a group share one count of steps, so an optimizer that has one cannot begin anew for a single weight."""
    fixed_world: bool = False
    """A run can be resumed on as many ranks as it began on only."""

    sharded: frozenset[Holding] = frozenset()
    """What a rank holds only its part of from step to step, as ``--plan`` counts memory and traffic. Sharded weights are
    gathered for each forward and backward."""
    copies_weights: bool = False
    """The optimizer steps a copy of the weights, which counts to its state."""
    offloads: bool = False
    """The optimizer's state lies in the host's memory."""
