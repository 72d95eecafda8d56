"""Turn a masked network into a smaller dense one with equal outputs."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dist_sparse.errors import UserError
from dist_sparse.shrinking.coupling import Coupling
from dist_sparse.shrinking.examine import check_equal, examine
from dist_sparse.shrinking.narrow import apply_plan, make_plan
from dist_sparse.shrinking.plan import OriginalUnits, Plan, original_units
from dist_sparse.shrinking.report import Report, Stay, make_report
from dist_sparse.shrinking.trace import masked_copy
from dist_sparse.shrinking.units import Reason
from dist_sparse.sparsity.layers import weight_layers


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """A network without the units that it does not need."""

    model: nn.Module
    """In evaluation mode, dense, of the original's classes and names; narrower."""
    plan: Plan
    """What is kept, in the original's coordinates."""
    report: Report

    def original_units(self) -> dict[str, OriginalUnits]:
        """By weight: which units of the original each layer keeps."""
        return to_original(self.plan, self.model)


def to_original(plan: Plan, model: nn.Module) -> dict[str, OriginalUnits]:
    """By weight of a shrunk network: which outputs and inputs of the original each layer keeps."""
    return {
        name: original_units(plan, name, plan.shapes.get(name, weight.shape)) for name, weight in weight_layers(model).items()
    }


def shrink(
    model: nn.Module, masks: Mapping[str, Tensor], example_input: Tensor, *, keep: Sequence[str] = (), multiple: int = 1
) -> Shrunk:
    """A smaller dense network whose outputs equal the masked network's, in evaluation mode.

    The given network is left as it was. The result was compared with it on random images of the example's shape.

    Args:
        masks: bool masks by parameter name; True is active. A layer that is not named is dense.
        example_input: images [B, channels, height, width] such as the network will see. Their values do not matter.
        keep: patterns (with shell wildcards) of weights whose units all stay.
        multiple: leave so many units that could go that widths stay multiples of this number, which kernels are faster with.

    Raises:
        UserError: nothing can be removed, or the network's operations cannot be followed.
    """
    masked = masked_copy(model, masks)
    examined = examine(masked, masks, example_input)
    coupling = examined.coupling
    _keep(coupling, keep)
    removal = examined.search(multiple=multiple)
    lost = {name: examined.lost[node] for name, node in coupling.depthwise.items() if node in examined.lost}
    stay = Stay(coupling, removal, lost)
    plan = make_plan(coupling, removal, examined.traced)
    channels, height, width = example_input.shape[1:]
    image = channels, height, width
    if not plan.kept:
        raise UserError(_nothing(make_report(model, masks, model, plan, stay, image)))
    check_equal(examined, plan, removal, example_input)
    small = masked
    apply_plan(small, plan, removal, examined.traced)
    return Shrunk(model=small, plan=plan, report=make_report(model, masks, small, plan, stay, image))


def _keep(coupling: Coupling, keep: Sequence[str]) -> None:
    weights = {reader.weight for reader in coupling.readers} | set(coupling.depthwise)
    for pattern in keep:
        names = fnmatch.filter(sorted(weights), pattern)
        if not names:
            raise UserError(f"keep={pattern!r} fits no layer; the layers are {', '.join(sorted(weights))}")
        for name in names:
            for ids in coupling.axes[name].values():
                coupling.units.pin(ids, Reason("kept by", pattern))
            for reader in coupling.readers:
                if reader.weight == name:
                    coupling.units.pin(reader.inputs, Reason("kept by", pattern))


def _nothing(report: Report) -> str:
    """What would be needed for a network to shrink."""
    said = "nothing can be removed from the network: "
    for layer in report.layers:
        if layer.dead:
            return f"{said}of {layer.name}'s {layer.dead} dead units {layer.why()}"
    return (
        f"{said}every output of every layer has an active weight, and every input is read; "
        "it takes units that are wholly inactive, as sparsity.structure=filter or channel leaves them"
    )
