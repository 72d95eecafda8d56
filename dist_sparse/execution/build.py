"""From ``execution.compute`` to the execution of a run: what is measured, and what ranks agree on."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Size, Tensor, nn

from dist_sparse import distributed
from dist_sparse.config.execution import Compute
from dist_sparse.errors import UserError
from dist_sparse.execution import self_test
from dist_sparse.execution.backends import Backend, compiled_backend
from dist_sparse.execution.choose import Fastest, NetworkCost, Sparsest
from dist_sparse.execution.compiling import NoKernels, compiling
from dist_sparse.execution.costs import Costs
from dist_sparse.execution.current import Current
from dist_sparse.execution.execution import Execution
from dist_sparse.execution.kernels import kernels
from dist_sparse.execution.layers import Layer, layers_of
from dist_sparse.execution.prepare import lay_out, prepare
from dist_sparse.execution.setting import Setting
from dist_sparse.execution.survey import measured_costs
from dist_sparse.preemption import StopAsked, UntilAsked
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
    reason = setting.impossible or ("" if forced else setting.pointless)
    layers = {} if reason else layers_of(model, masks, setting.shape)
    backend, reason = _backend(reason or _nothing_in(layers, forced=forced), setting.until_asked)
    if backend is None:
        if forced:
            raise _refused(reason)
        if saved is not None:
            _log.warning("resuming without sparse execution, which the run had before: %s", reason)
        return Execution(reason=reason, state={"dense": reason})
    if forced:
        return _prepared(model, Current(backend, masks, choose := Sparsest(backend, layers)), choose, setting.images)
    return _measured(setting, model, masks, backend, layers, saved)


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
    backend, reason = _backend(impossible or _nothing_in(layers, forced=True), iter)
    if backend is None:
        if compute == "sparse":
            raise _refused(reason)
        return Execution(reason=reason)
    if compute == "sparse" or saved is None:
        choose = Sparsest(backend, layers)
    else:
        costs, network = Costs.from_state(saved["costs"]), NetworkCost(**saved["network"])
        choose = Fastest(backend, layers, costs, channels_last=channels_last, network=network)
    return _prepared(model, Current(backend, masks, choose), choose, images)


def _refused(reason: str) -> UserError:
    return distributed.AgreedError(f"execution.compute=sparse: {reason}; execution.compute=auto goes on densely")


def _nothing_in(layers: Mapping[str, Layer], *, forced: bool) -> str:
    """Why layers need no other way than torch's; empty if they may."""
    if not layers:
        return "no masked layer is a convolution of one group or a linear layer"
    if not forced and sum(layer.products for layer in layers.values()) < _SMALL:
        return "the network is too small to gain by another way"
    return ""


def _backend(reason: str, until_asked: UntilAsked) -> tuple[Backend | None, str]:
    """What computes layers here, unless there is a reason against it; or why nothing does. Alike on all ranks. Collective."""
    backend = None

    def making() -> Iterator[None]:
        nonlocal backend, reason
        try:
            for _ in compiling():
                yield
            backend = compiled_backend(kernels())
            self_test.check(backend)
        except NoKernels as error:
            reason = str(error)

    for _ in until_asked(() if reason else making()):
        pass
    reasons = [each for each in distributed.everyones(reason) if each]
    return (None, reasons[0]) if reasons else (backend, "")


def _measured(
    setting: Setting,
    model: nn.Module,
    masks: Masks,
    backend: Backend,
    layers: Mapping[str, Layer],
    saved: Mapping[str, Any] | None,
) -> Execution:
    final = _final_masks(masks, setting.final_masks())
    costs, network = (Costs.from_state(saved["costs"]), NetworkCost(**saved["network"])) if saved else (Costs(), None)
    if network is None or not costs.know(layer.key for layer in layers.values()):  # of another micro-batch
        costs, network = measured_costs(setting, model, backend, layers, final)
    choose = Fastest(backend, layers, costs, channels_last=setting.channels_last, network=network)
    state = {"costs": costs.only([layer.key for layer in layers.values()]).state_dict(), "network": dataclasses.asdict(network)}
    current = Current(backend, masks, choose)
    if not current.chosen(masks) and not current.chosen(final):
        sparse, dense = choose.step_seconds(current.layer_masks(final))
        return Execution(reason=f"a sparse step would take {sparse:.3g} s, a dense one {dense:.3g} s (measured)", state=state)
    return _prepared(model, current, choose, setting.images, state)


def _prepared(
    model: nn.Module,
    current: Current,
    choose: Fastest | Sparsest,
    images: Tensor | None,
    state: Mapping[str, Any] | None = None,
) -> Execution:
    prepare(model, current, images)
    current.masks.lie_as(lay_out(model, current.masks.names))
    return Execution(current=current, choose=choose, state=state)


def _final_masks(masks: Masks, final: Mapping[str, Tensor]) -> Masks:
    made = Masks({name: masks[name] for name in masks.names})
    made.replace(final)
    return made
