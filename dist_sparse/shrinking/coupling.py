"""What the graph ties together: units that go together, and the layers that read them."""

from dataclasses import dataclass, field

from torch import fx

from dist_sparse.shrinking.units import Ids, Units

FIXED = "of a size that is fixed by"


@dataclass(frozen=True)
class Reader:
    """A convolution or linear layer, each output of which reads all inputs of its group."""

    node: fx.Node
    weight: str
    inputs: Ids
    outputs: Ids
    groups: int = 1
    padded: bool = False
    bias: str | None = None
    """What a constant can be added to: the layer's bias, which may not exist yet, or the mean that a batch norm takes off."""
    sign: int = 1
    """-1 for such a mean."""

    def by_group(self, ids: Ids) -> Ids:
        return ids.reshape(self.groups, -1)


@dataclass(frozen=True)
class Heads:
    """An attention's heads, whose number is an attribute of its module."""

    module: str
    ids: Ids


@dataclass
class Coupling:
    """What the graph ties together."""

    units: Units = field(default_factory=Units)
    readers: list[Reader] = field(default_factory=list)
    axes: dict[str, dict[int, Ids]] = field(default_factory=dict)
    """The units along each dimension that can become shorter, by parameter or buffer."""
    depthwise: dict[str, fx.Node] = field(default_factory=dict)
    """By weight. Their outputs go with their inputs."""
    heads: dict[str, Heads] = field(default_factory=dict)
    """By module."""
