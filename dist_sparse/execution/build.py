"""From ``execution.compute`` to the execution of a run: what is measured, and what ranks agree on."""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any

from torch import Size, Tensor, nn

from dist_sparse import distributed
from dist_sparse.config.execution import Compute
from dist_sparse.errors import UserError
from dist_sparse.execution.available import find_backend
from dist_sparse.execution.backends import Backend
from dist_sparse.execution.choose import Fastest, NetworkCost, Sparsest
from dist_sparse.execution.costs import Costs
from dist_sparse.execution.current import Current
from dist_sparse.execution.execution import Execution
from dist_sparse.execution.layers import Layer, layers_of
from dist_sparse.execution.prepare import lay_out, prepare
from dist_sparse.execution.setting import Setting
from dist_sparse.execution.survey import measured_costs
from dist_sparse.preemption import StopAsked
from dist_sparse.sparsity.masks import Masks

_log = logging.getLogger(__name__)

_SMALL = 3e8
"""Multiply-accumulates of a micro-batch in the layers that could be sparse: with fewer, calls cost more than is gained."""


def build_execution(setting: Setting, model: nn.Module, masks: Masks, saved: Mapping[str, Any] | None) -> Execution:
    """Prepare a network, which no engine has taken apart yet, for the execution that the run is to have. Collective.

    A run that is asked to stop meanwhile has a dense one for what is left of it, and chooses anew when it goes on.

    Args:
        saved: what :meth:`.Execution.state_dict` has given where the run goes on from a checkpoint.

    Raises:
        UserError: sparse execution is asked for and cannot be had.
    """
    if setting.compute == "dense" or not len(masks):
        return Execution()
    try:
        return _build(setting, model, masks, saved)
    except StopAsked:
        return Execution(reason="the run is asked to stop", state=saved)


def _build(setting: Setting, model: nn.Module, masks: Masks, saved: Mapping[str, Any] | None) -> Execution:
    forced = setting.compute == "sparse"
    if saved is not None and "dense" in saved and not forced:
        return Execution(reason=saved["dense"], state=saved)
    began = None if saved is None else saved.get("backend")
    if saved is not None and "costs" not in saved:  # a forced run's
        saved = None
    reason = setting.impossible or ("" if forced else setting.pointless)
    layers = {} if reason else layers_of(model, masks, setting.shape)
    final = functools.cache(lambda: _final_masks(masks, setting.final_masks()))
    found = find_backend(
        reason or _nothing_in(layers, forced=forced),
        layers,
        fits=lambda backend: bool(Current(backend, final(), Sparsest(backend, layers)).chosen()),
        only=None if forced else _began_with(saved),
        until_asked=setting.until_asked,
    )
    if found.backend is None:
        if forced:
            raise _refused(found.reason)
        if saved is not None:
            _log.warning("resuming without sparse execution, which the run had before: %s", found.reason)
        return Execution(reason=found.reason, state={"dense": found.reason})
    if forced:
        choose, name = Sparsest(found.backend, layers), found.backend.name
        if began not in (None, name):
            told = "goes on with the backend %r, where the run had %r before: results differ by rounding"
            _log.warning(f"execution.compute=sparse {told}", name, began)
        return _prepared(model, Current(found.backend, masks, choose), choose, setting.images, found.how, {"backend": name})
    return _measured(setting, model, masks, final(), found.backend, found.how, layers, saved)


def build_for_evaluation(
    compute: Compute,
    model: nn.Module,
    masks: Masks,
    saved: Mapping[str, Any] | None,
    *,
    impossible: str,
    shape: Size,
    images: Tensor,
    channels_last: bool,
) -> Execution:
    """Prepare a network that is only to be run forward. ``auto`` computes as its run did, and measures nothing. Collective.

    Args:
        shape: of a micro-batch of the run.
        images: as :attr:`.Setting.images`.

    Raises:
        UserError: as :func:`build_execution`.
    """
    measured = saved is not None and "costs" in saved
    if compute == "dense" or not len(masks) or (compute == "auto" and not measured):
        return Execution()
    layers = {} if impossible else layers_of(model, masks, shape)
    only = None if compute == "sparse" else _began_with(saved)
    found = find_backend(impossible or _nothing_in(layers, forced=True), layers, only=only)
    if (backend := found.backend) is None:
        if compute == "sparse":
            raise _refused(found.reason)
        return Execution(reason=found.reason)
    if compute == "sparse" or saved is None:
        choose = Sparsest(backend, layers)
    else:
        costs, network = Costs.from_state(saved["costs"]), NetworkCost(**saved["network"])
        choose = Fastest(backend, layers, costs, channels_last=channels_last, network=network)
    return _prepared(model, Current(backend, masks, choose), choose, images, found.how)


def build_to_infer(model: nn.Module, masks: Masks, images: Tensor) -> Execution:
    """Prepare a network that this process alone runs forward, outside of any run: sparse wherever a layer can be.

    Args:
        images: a few, as the network takes them.

    Returns:
        An execution that is in use; where no layer can be computed sparsely it has a reason, and the model is as it was.
    """
    layers = layers_of(model, masks, images.shape) if len(masks) else {}
    choosing = functools.partial(Sparsest, layers=layers)
    found = find_backend(
        _nothing_in(layers, forced=True) if len(masks) else "no layer has a mask",
        layers,
        fits=lambda backend: bool(Current(backend, masks, choosing(backend)).chosen()),
        everyones=lambda text: [text],
    )
    if (backend := found.backend) is None:
        return Execution(reason=found.reason)
    choose = choosing(backend)
    execution = _prepared(model, Current(backend, masks, choose), choose, images, found.how)
    execution.use(masks, masks)
    return execution


def _began_with(saved: Mapping[str, Any] | None) -> str | None:
    """The name of the backend with which a run has begun, if it has begun."""
    return None if saved is None else saved.get("backend", "compiled")  # none: saved when there was but that one


def _refused(reason: str) -> UserError:
    return distributed.AgreedError(f"execution.compute=sparse: {reason}; execution.compute=auto goes on densely")


def _nothing_in(layers: Mapping[str, Layer], *, forced: bool) -> str:
    """Why layers need no other way than torch's; empty if they may."""
    if not layers:
        return "no masked layer is a convolution of one group or a linear layer"
    if not forced and sum(layer.products for layer in layers.values()) < _SMALL:
        return "the network is too small to gain by another way"
    return ""


def _measured(
    setting: Setting,
    model: nn.Module,
    masks: Masks,
    final: Masks,
    backend: Backend,
    how: str,
    layers: Mapping[str, Layer],
    saved: Mapping[str, Any] | None,
) -> Execution:
    costs, network = (Costs.from_state(saved["costs"]), NetworkCost(**saved["network"])) if saved else (Costs(), None)
    if network is None or not costs.know(layer.key for layer in layers.values()):  # of another micro-batch
        costs, network = measured_costs(setting, model, backend, layers, final)
    choose = Fastest(backend, layers, costs, channels_last=setting.channels_last, network=network)
    costs = costs.only([layer.key for layer in layers.values()])
    state = {
        "backend": backend.name,
        "side": setting.shape[-1],
        "costs": costs.state_dict(),
        "network": dataclasses.asdict(network),
    }
    current = Current(backend, masks, choose)
    if not current.chosen(masks) and not current.chosen(final):
        sparse, dense = choose.step_seconds(current.layer_masks(final))
        reason = f"a sparse step would take {sparse:.3g} s, a dense one {dense:.3g} s (measured{how})"
        return Execution(reason=reason, state=state)
    return _prepared(model, current, choose, setting.images, how, state)


def _prepared(
    model: nn.Module,
    current: Current,
    choose: Fastest | Sparsest,
    images: Tensor | None,
    how: str,
    state: Mapping[str, Any] | None = None,
) -> Execution:
    prepare(model, current, images)
    current.masks.lie_as(lay_out(model, current.masks.names))
    return Execution(how=how, current=current, choose=choose, state=state)


def _final_masks(masks: Masks, final: Mapping[str, Tensor]) -> Masks:
    made = Masks({name: masks[name] for name in masks.names})
    made.replace(final)
    return made
