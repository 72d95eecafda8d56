"""What was removed from a network, in the coordinates of the original, and how a network is made to fit it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Plan:
    """Which positions of every parameter and buffer are kept. What is not named is kept whole."""

    shapes: dict[str, list[int]] = field(default_factory=dict)
    """In the original, of those that lose something."""
    kept: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """By name and dimension: positions of the original, in order. JSON has texts for keys, so the dimension is one."""
    columns: dict[str, list[list[int]]] = field(default_factory=dict)
    """The inputs kept in each group, by weight, for convolutions of several groups."""
    attributes: dict[str, dict[str, int]] = field(default_factory=dict)
    """Numbers that modules keep of themselves: by module and attribute."""
    original_attributes: dict[str, dict[str, int]] = field(default_factory=dict)
    """The same numbers of the original."""
    biases: list[str] = field(default_factory=list)
    """Parameters that the original does not have, which hold constants of removed units."""

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """What is kept of a tensor of the original."""
        for dim, positions in self.kept.get(name, {}).items():
            tensor = tensor.index_select(int(dim), torch.tensor(positions, device=tensor.device))
        if (groups := self.columns.get(name)) is not None:
            parts = tensor.chunk(len(groups))
            picked = [part[:, torch.tensor(group)] for part, group in zip(parts, groups, strict=True)]
            tensor = torch.cat(picked)
        return tensor.contiguous()

    def expand(self, name: str, tensor: Tensor, fill: float = 0.0) -> Tensor:
        """The way back from :meth:`cut`: a tensor of the original's shape, with ``fill`` where nothing was kept."""
        if name not in self.kept and name not in self.columns:
            return tensor
        shape = torch.Size(self.shapes[name])
        positions = self.cut(name, torch.arange(shape.numel(), device=tensor.device).view(shape))
        return tensor.new_full((shape.numel(),), fill).index_copy_(0, positions.view(-1), tensor.reshape(-1)).view(shape)

    def shape(self, name: str, original: Sequence[int]) -> list[int]:
        """The shape that is left."""
        shape = list(original)
        for dim, positions in self.kept.get(name, {}).items():
            shape[int(dim)] = len(positions)
        if name in self.columns:
            shape[1] = len(self.columns[name][0])
        return shape

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def state_dict(self) -> dict[str, Any]:
        """The same with tensors in the place of lists of positions, for a checkpoint."""
        kept = {name: {dim: _positions(each) for dim, each in dims.items()} for name, dims in self.kept.items()}
        return {**asdict(self), "kept": kept, "columns": {name: _positions(groups) for name, groups in self.columns.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Plan":
        """What :meth:`state_dict` was made of."""
        kept = {name: {dim: each.tolist() for dim, each in dims.items()} for name, dims in state["kept"].items()}
        return cls(**{**state, "kept": kept, "columns": {name: each.tolist() for name, each in state["columns"].items()}})

    def misfit(self, shapes: Mapping[str, Sequence[int]]) -> str | None:
        """A name for which the plan cannot be of a network whose tensors have these ``shapes``; None if there is none."""
        for name in (*self.kept, *self.columns):
            shape = list(shapes[name]) if name in shapes else None
            if name not in self.biases and (shape is None or self.shapes.get(name) != shape or not self._is_sound(name, shape)):
                return name
        return None

    def _is_sound(self, name: str, shape: list[int]) -> bool:
        """Positions are in order, within the shape, and as many in every group."""
        kept = self.kept.get(name, {})
        dims = {str(dim): size for dim, size in enumerate(shape)}
        within = [positions and dim in dims and _in_order(positions, dims[dim]) for dim, positions in kept.items()]
        if (groups := self.columns.get(name)) is None:
            return all(within)
        rows = len(kept.get("0", range(shape[0])))
        equal = len({len(group) for group in groups}) == 1 and rows % len(groups) == 0
        return all(within) and equal and len(shape) > 1 and all(group and _in_order(group, shape[1]) for group in groups)


def _positions(lists: Sequence[Any]) -> Tensor:
    return torch.tensor(lists, dtype=torch.int32)


def _in_order(positions: list[int], size: int) -> bool:
    rising = all(before < after for before, after in itertools.pairwise(positions))
    return rising and positions[0] >= 0 and positions[-1] < size


@dataclass(frozen=True)
class OriginalUnits:
    """Which units of the original a shrunk layer keeps."""

    outputs: list[int]
    inputs: list[list[int]]
    """Positions in each group, counted from the group's first; a layer without groups has one."""

    def mask(self, shape: Sequence[int]) -> Tensor:
        """Those of the original's weights that the shrunk layer has (bool, of the original's shape)."""
        found = torch.zeros(*shape, dtype=torch.bool)
        width = shape[0] // len(self.inputs)
        for unit in self.outputs:
            found[unit, torch.tensor(self.inputs[unit // width])] = True
        return found


def original_units(plan: Plan, name: str, shape: Sequence[int]) -> OriginalUnits:
    """The units that stay of a weight, named as in the model; ``shape`` is the original's."""
    kept = plan.kept.get(name, {})
    outputs = kept.get("0", list(range(shape[0])))
    return OriginalUnits(outputs, plan.columns.get(name) or [kept.get("1", list(range(shape[1])))])


def fit(model: nn.Module, plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """Give a network of the original's shape the ``tensors`` that are kept, and its modules the numbers that go with them."""
    replaced: dict[int, nn.Parameter | Tensor] = {}
    for prefix, module in model.named_modules():
        for name in [name for name in plan.biases if name.rpartition(".")[0] == prefix]:
            module.register_parameter("bias", nn.Parameter(tensors[name]))
        for local, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            name = f"{prefix}.{local}" if prefix else local
            if name in plan.biases:
                continue
            if id(tensor) not in replaced and name in tensors:
                new = tensors[name]
                replaced[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
            if id(tensor) in replaced:
                setattr(module, local, replaced[id(tensor)])
        _describe(module)
        for attribute, value in plan.attributes.get(prefix, {}).items():
            setattr(module, attribute, value)


def _describe(module: nn.Module) -> None:
    """Let a layer's own numbers agree with its tensors'.

    A convolution gets an attribute ``was_depthwise``. Only the original's numbers tell that: narrow groups may have one input
    each as well, and a depthwise convolution a single channel.
    """
    if isinstance(module, nn.modules.conv._ConvNd):
        if not hasattr(module, "was_depthwise"):
            module.was_depthwise = module.groups == module.in_channels and module.groups > 1  # pyright: ignore[reportArgumentType]
        if module.was_depthwise:
            module.groups = module.weight.shape[0] * module.groups // module.out_channels
        module.in_channels = module.weight.shape[1] * module.groups
        module.out_channels = module.weight.shape[0]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
        module.num_features = len(module.running_mean)
