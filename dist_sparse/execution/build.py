"""From ``execution.compute`` to the execution of a run: what is measured, and what ranks agree on."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dist_sparse import distributed
from dist_sparse.execution.choose import Fastest, NetworkCost, Sparsest
from dist_sparse.execution.compiling import NoKernels
from dist_sparse.execution.costs import Costs
from dist_sparse.execution.current import Current
from dist_sparse.execution.execution import Execution
from dist_sparse.execution.kernels import Kernels, kernels
from dist_sparse.execution.layers import Layer, layers_of
from dist_sparse.execution.prepare import prepare, qualifying
from dist_sparse.execution.setting import Setting
from dist_sparse.execution.survey import measured_costs
from dist_sparse.sparsity.masks import Masks

_log = logging.getLogger(__name__)

_SMALL = 3e8
"""Multiply-accumulates of a micro-batch in the layers that could be sparse: with fewer, calls cost more than is gained."""


def build_execution(setting: Setting, model: nn.Module, masks: Masks, saved: Mapping[str, Any] | None) -> Execution:
    """Prepare a network, which no engine has taken apart yet, for the execution that the run is to have. Collective.

    Args:
        saved: what :meth:`.Execution.state_dict` has given where the run goes on from a checkpoint.

    Raises:
        UserError: sparse execution is asked for and cannot be had.
    """
    if setting.compute == "dense" or not len(masks):
        return Execution()
    forced = setting.compute == "sparse"
    if saved is not None and "dense" in saved and not forced:
        return Execution(reason=saved["dense"], state=saved)
    library, reason = _library(setting, model, masks, forced=forced)
    if library is None:
        if forced:
            raise distributed.AgreedError(f"execution.compute=sparse: {reason}; execution.compute=auto goes on densely")
        if saved is not None:
            _log.warning("resuming without sparse execution, which the run had before: %s", reason)
        return Execution(reason=reason, state={"dense": reason})
    layers = layers_of(model, masks, setting.images)
    if forced:
        choose = Sparsest(layers)
        current = Current(library, masks, choose)
        prepare(model, current, setting.images[:2])
        return Execution(current=current, choose=choose)
    if not layers or sum(layer.products for layer in layers.values()) < _SMALL:
        reason = "the network is too small to gain by another way"
        return Execution(reason=reason, state={"dense": reason})
    return _measured(setting, model, masks, library, layers, saved)


def _library(setting: Setting, model: nn.Module, masks: Masks, *, forced: bool) -> tuple[Kernels | None, str]:
    """The kernels, or why they are not used; alike on all ranks. Collective."""
    library, reason = None, setting.impossible or ("" if forced else setting.pointless)
    if not reason and not qualifying(model, masks.names):
        reason = "no masked layer is a convolution of one group or a linear layer"
    if not reason:
        try:
            library = kernels()
        except NoKernels as error:
            reason = str(error)
    reasons = [each for each in distributed.everyones(reason) if each]
    return (None, reasons[0]) if reasons else (library, "")


def _measured(
    setting: Setting,
    model: nn.Module,
    masks: Masks,
    library: Kernels,
    layers: Mapping[str, Layer],
    saved: Mapping[str, Any] | None,
) -> Execution:
    final = _final_masks(masks, setting.final_masks())
    if saved is not None:
        costs, network = Costs.from_state(saved["costs"]), NetworkCost(**saved["network"])
    else:
        costs, network = measured_costs(setting, model, library, layers, final)
    choose = Fastest(layers, costs, channels_last=setting.channels_last, network=network)
    state = {"costs": costs.only([layer.key for layer in layers.values()]).state_dict(), "network": dataclasses.asdict(network)}
    current = Current(library, masks, choose)
    if not current.chosen(masks) and not current.chosen(final):
        sparse, dense = choose.step_seconds(current.layer_masks(final))
        return Execution(reason=f"a sparse step would take {sparse:.3g} s, a dense one {dense:.3g} s (measured)", state=state)
    prepare(model, current, setting.images[:2])
    return Execution(current=current, choose=choose, state=state)


def _final_masks(masks: Masks, final: Mapping[str, Tensor]) -> Masks:
    made = Masks({name: masks[name].to("cpu", copy=True) for name in masks.names})
    made.replace(final)
    return made
