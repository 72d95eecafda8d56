"""Turn a masked network into a smaller dense one with equal outputs."""

import copy
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dist_sparse.errors import UserError, one_line
from dist_sparse.shrinking.constants import Constants
from dist_sparse.shrinking.coupling import Coupling
from dist_sparse.shrinking.narrow import apply_plan, make_plan
from dist_sparse.shrinking.plan import OriginalUnits, Plan, original_units
from dist_sparse.shrinking.removal import Search
from dist_sparse.shrinking.report import Report, Stay, make_report
from dist_sparse.shrinking.trace import masked_copy, trace
from dist_sparse.shrinking.units import Reason
from dist_sparse.shrinking.walk import Walk
from dist_sparse.sparsity.layers import weight_layers

_TOLERANCE = 1e-11


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
    traced = trace(masked, example_input)
    constants = Constants(traced, masks)
    constants.find()
    coupling = Walk(traced).run()
    _keep(coupling, keep)
    removal = Search(coupling, masks, traced.tensors, constants.read, multiple).run()
    lost = {name: constants.lost[node] for name, node in coupling.depthwise.items() if node in constants.lost}
    stay = Stay(coupling, removal, lost)
    plan = make_plan(coupling, removal, traced)
    channels, height, width = example_input.shape[1:]
    image = channels, height, width
    if not plan.kept:
        raise UserError(_nothing(make_report(model, masks, model, plan, stay, image)))
    double = copy.deepcopy(traced.model)
    apply_plan(double, plan, removal, traced)
    _compare(traced.model, double, example_input)
    small = masked
    apply_plan(small, plan, removal, traced)
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


def _compare(masked: nn.Module, small: nn.Module, example: Tensor) -> None:
    """Both on the same random images, in double precision.

    Raises:
        UserError: the network's own code counts on a number of units that is gone.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *example.shape[1:], generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = masked(images)
        try:
            found = small(images)
        except Exception as error:  # the network's own code
            reason = one_line((str(error).strip() or type(error).__name__).splitlines()[0])
            raise UserError(
                f"the network's code cannot run with fewer units: {reason}; name the layers whose units have to stay in keep"
            ) from error
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    assert error <= _TOLERANCE, f"the shrunk network differs by {error}"
