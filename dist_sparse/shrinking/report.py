"""What shrinking did, layer by layer: shapes before and after, dead units that went, and why others stayed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dist_sparse.flops import layer_macs
from dist_sparse.shrinking.constants import active_pairs
from dist_sparse.shrinking.coupling import Coupling
from dist_sparse.shrinking.plan import Plan, original_units
from dist_sparse.shrinking.removal import AT_THE_BORDER, READ, Removal
from dist_sparse.shrinking.units import Ids, Reason
from dist_sparse.sparsity.layers import weight_layers

_WITH_ACTIVE = "added to or multiplied by active units before"
_UNKNOWN = "in a layer that cannot be followed:"


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """A convolution or linear layer. Dead are outputs without an active weight, and inputs that no active weight reads."""

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    macs_before: int
    macs_after: int
    dead: int
    """Dead outputs and inputs together."""
    dead_removed: int
    stayed: Mapping[Reason, int]
    """Dead units that stayed, counted by reason."""

    def cells(self) -> tuple[str, ...]:
        shapes = ["x".join(map(str, shape)) for shape in (self.before, self.after)]
        macs = [f"{macs / 1e6:,.2f}" for macs in (self.macs_before, self.macs_after)]
        return self.name, *shapes, *macs, f"{self.dead_removed} of {self.dead}", self.why()

    def why(self) -> str:
        """The reasons in one line; of layers that share a reason the first is named."""
        kinds: dict[str, list[tuple[str, int]]] = {}
        for reason, count in self.stayed.items():
            kinds.setdefault(reason.kind, []).append((reason.where, count))
        told = []
        for kind, places in kinds.items():
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            told.append(f"{sum(count for _, count in places)} {kind} {places[0][0]}{more}")
        return "; ".join(told)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All layers, and the network's totals. FLOPs are two to a multiply-accumulate, of one image."""

    layers: list[LayerChange]
    parameters_before: int
    parameters_active: int
    parameters_after: int

    @property
    def flops_before(self) -> int:
        return 2 * sum(layer.macs_before for layer in self.layers)

    @property
    def flops_after(self) -> int:
        return 2 * sum(layer.macs_after for layer in self.layers)

    def table(self) -> str:
        """A text table; the last column says why dead units stayed."""
        header = ("layer", "before", "after", "MMACs before", "after", "dead units removed", "dead units that stay, and why")
        rows = [header, *(layer.cells() for layer in self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(_aligned(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows
        ]
        totals = [
            f"{_total('parameters', self.parameters_after, self.parameters_before)}; {self.parameters_active:,} were active",
            _total("FLOPs per image", self.flops_after, self.flops_before),
        ]
        return "\n".join(line.rstrip() for line in [*lines, *totals])


def _total(what: str, after: int, before: int) -> str:
    return f"{what:<15}  {after:>15,} of {before:>15,}  ({after / max(before, 1):.2%})"


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column in (3, 4, 5) else cell.ljust(width)


def make_report(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    shrunk: nn.Module,
    plan: Plan,
    stay: "Stay",
    image: tuple[int, int, int],
) -> Report:
    """Compare the original with the shrunk network for images of [channels, height, width]."""
    before, after = layer_macs(model, image), layer_macs(shrunk, image)
    layers = []
    for name, weight in weight_layers(model).items():
        dead, left = _dead(name, weight, masks.get(name), plan, stay)
        layers.append(
            LayerChange(
                name=name,
                before=tuple(weight.shape),
                after=tuple(plan.shape(name, weight.shape)),
                macs_before=before.get(name, 0),
                macs_after=after.get(name, 0),
                dead=dead,
                dead_removed=dead - left.total(),
                stayed=dict(left.most_common()),
            )
        )
    total = sum(parameter.numel() for parameter in model.parameters())
    inactive = sum(int(mask.numel() - torch.count_nonzero(mask)) for mask in masks.values())
    return Report(
        layers=layers,
        parameters_before=total,
        parameters_active=total - inactive,
        parameters_after=sum(parameter.numel() for parameter in shrunk.parameters()),
    )


def _dead(name: str, weight: Tensor, mask: Tensor | None, plan: Plan, stay: "Stay") -> tuple[int, Counter[Reason]]:
    """How many dead outputs and inputs a layer of the original has, and the reasons of those that stayed."""
    pairs = active_pairs(mask, weight)
    units = original_units(plan, name, tuple(weight.shape))
    outputs = (~pairs.any(1)).nonzero().flatten().tolist()
    kept = set(units.outputs)
    left = Counter(stay.output(name, unit) for unit in outputs if unit in kept)
    count = len(outputs)
    if stay.is_depthwise(name):  # its inputs are its outputs
        return count, left
    groups = stay.groups(name)
    columns = units.inputs if len(units.inputs) == groups else units.inputs * groups
    for group, (part, stayed) in enumerate(zip(pairs.chunk(groups), columns, strict=True)):
        unread = (~part.any(0)).nonzero().flatten().tolist()
        count += len(unread)
        left.update(stay.input(name, group, position) for position in sorted({*unread} & {*stayed}))
    return count, left


class Stay:
    """Says why a unit stayed."""

    def __init__(self, coupling: Coupling, removal: Removal, lost: Mapping[str, Tensor]) -> None:
        """``lost``: by depthwise weight, the units whose constants its padding ends at the border."""
        self._coupling = coupling
        self._reasons = removal.reasons
        self._lost: dict[int, str] = {}
        for name, which in lost.items():
            ids = coupling.axes[name][0]
            ids = ids[:: max(1, len(ids) // len(which))]
            for unit in ids[which.numpy()]:
                self._lost[coupling.units.root(int(unit))] = name.removesuffix(".weight")
        self._readers = {reader.weight: reader for reader in coupling.readers}

    def is_depthwise(self, name: str) -> bool:
        return name in self._coupling.depthwise

    def groups(self, name: str) -> int:
        reader = self._readers.get(name)
        return 1 if reader is None else reader.groups

    def output(self, name: str, unit: int) -> Reason:
        axis = self._coupling.axes.get(name, {}).get(0)
        return self._why(name, axis, unit, constant=True)

    def input(self, name: str, group: int, position: int) -> Reason:
        reader = self._readers.get(name)
        return self._why(name, None if reader is None else reader.by_group(reader.inputs)[group], position, constant=False)

    def _why(self, name: str, ids: Ids | None, position: int, *, constant: bool) -> Reason:
        if ids is None:
            return Reason(_UNKNOWN, name)
        root = self._coupling.units.root(int(ids[position]))
        first, *_ = self._reasons.get(root, [Reason(_UNKNOWN, name)])
        if first.kind != READ or not constant:
            return first
        if root in self._lost:
            return Reason(AT_THE_BORDER, self._lost[root])
        return Reason(_WITH_ACTIVE, first.where)
