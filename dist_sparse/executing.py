"""The execution of a run: what its configuration, its method and its device allow, and what is to be expected of its masks."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dist_sparse.config import Config
from dist_sparse.data.batch import Data, DataInfo
from dist_sparse.data.clock import Clock
from dist_sparse.engines.build import capabilities_of
from dist_sparse.engines.capabilities import Capabilities
from dist_sparse.engines.precision import Precision
from dist_sparse.errors import UserError
from dist_sparse.execution.build import build_execution, build_for_evaluation
from dist_sparse.execution.execution import Execution
from dist_sparse.execution.setting import Setting
from dist_sparse.guards import steps_made
from dist_sparse.networks import networks_of
from dist_sparse.optim.flat import check_flattenable
from dist_sparse.preemption import UntilAsked
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.forecast import Forecast
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.tracking import say

_log = logging.getLogger(__name__)

_OF_UNITS = ("filter", "channel")


def execution_of(
    config: Config,
    model: nn.Module,
    *,
    plan: Plan,
    masks: Masks,
    precision: Precision,
    data: Data,
    clock: Clock,
    world_size: int,
    saved: Mapping[str, Any] | None,
    until_asked: UntilAsked,
) -> Execution:
    """Prepare ``model`` for the execution that ``config`` asks for. Collective.

    Raises:
        UserError: it asks for one that cannot be had.
    """
    if config.execution.compute == "dense" or config.execution.shrink or not len(masks):
        return Execution()
    forecast = plan.forecast(steps_made(clock))
    shape = _micro_batch(config, world_size, data.info, data.train_side)

    def step() -> None:
        images = precision.place_images(torch.rand(shape, device=precision.device))
        with precision.autocast():
            out = model(images)
        out.float().square().mean().backward()

    setting = Setting(
        compute=config.execution.compute,
        channels_last=config.train.channels_last,
        precision=config.train.precision,
        shape=shape,
        # An engine that gathers weights for each module hands on other tensors than the modules have made.
        images=None if "weights" in capabilities_of(config.engine).sharded else _few(precision, shape),
        step=step,
        impossible=impossible(config, precision.device),
        pointless=pointless(forecast, len(steps_made(clock))),
        densities=expected_densities(forecast),
        final_masks=lambda: _final_masks(plan, masks, forecast),
        tell=say,
        until_asked=until_asked,
    )
    return build_execution(setting, model, masks, saved)


def execution_to_evaluate(
    config: Config, model: nn.Module, state: Mapping[str, Any], *, precision: Precision, info: DataInfo
) -> Execution:
    """Prepare ``model`` to be evaluated as the run of a checkpoint's ``state`` has computed it. Collective.

    Raises:
        UserError: ``config`` asks for what cannot be had.
    """
    networks = networks_of(state)
    names = networks[-1].masks
    weights = {name: parameter.detach() for name, parameter in model.named_parameters() if name in names}
    saved = state.get("execution")
    side = (saved or {}).get("side", info.image_size)  # none: saved when layers were measured at that size
    shape = _micro_batch(config, state["world_size"], info, side)
    return build_for_evaluation(
        config.execution.compute,
        model,
        Masks(weights),
        saved,
        impossible=impossible(config, precision.device),
        shape=shape,
        images=_few(precision, shape),
        channels_last=config.train.channels_last,
    )


def _micro_batch(config: Config, world_size: int, info: DataInfo, side: int) -> torch.Size:
    """The shape of a rank's images of so many pixels a side."""
    return torch.Size([config.train.batch_size // (world_size * config.train.accumulation), info.channels, side, side])


def _few(precision: Precision, shape: torch.Size) -> Tensor:
    return precision.place_images(torch.rand(2, *shape[1:], device=precision.device))


def idle_keys(config: Config) -> Iterator[tuple[str, str]]:
    """Keys of the section ``execution`` that do nothing as the configuration is, and why."""
    if config.sparsity.method == "dense":
        yield "compute", "sparsity.method=dense has no masks"
        yield "storage", "sparsity.method=dense has no masks"
        yield "shrink", "sparsity.method=dense has no masks"
    if not config.execution.shrink:
        yield "width_multiple", "execution.shrink=false keeps all widths"
    elif config.sparsity.method != "dense":
        yield "compute", "execution.shrink=true computes what is left densely"


def impossible(config: Config, device: torch.device | None) -> str:
    """Why no layer can be computed sparsely on a device, or on any if that is None; empty if some may."""
    if device is not None and device.type != "cpu" and config.execution.compute == "auto":
        return f"nothing is measured on {device.type.upper()} yet; execution.compute=sparse takes what there is for it"
    if config.train.precision == "fp16":
        return "train.precision=fp16 scales losses beyond what its kernels, of fp32 and fp64, are tested for"
    if config.train.compile:
        return "train.compile=true compiles layers that multiply by all weights"
    return ""


def pointless(forecast: Forecast, steps: int) -> str:
    """Why nothing can be gained in so many steps; empty if something may."""
    if forecast.chosen_every_step:
        return "the masks are chosen anew at every step"
    if len(forecast.dense_gradient_steps) > steps / 2:
        return "the method needs the gradients of all weights at most steps"
    return ""


def check_storage(config: Config) -> None:
    """Refuse with a UserError packed weights that the method, the engine or the optimizer cannot work with."""
    if config.execution.storage == "masked":
        return
    method, engine = METHODS[config.sparsity.method], capabilities_of(config.engine)
    reason = ""
    if method.dense_weights:
        reason = f"cannot go with sparsity.method={config.sparsity.method}, which trains inactive weights too"
    elif not engine.packs_weights:
        reason = f"cannot go with {engine.cause}, which cuts each weight into parts that ranks gather; {engine.otherwise} can"
    elif config.train.compile:
        reason = "cannot go with train.compile=true, which keeps the weights that it has compiled for"
    elif config.train.precision == "fp16":
        reason = "cannot go with train.precision=fp16, whose scale whole gradients would have to be rid of: bf16 or fp32"
    if reason:
        raise UserError(f"execution.storage=packed {reason}; execution.storage=masked takes it")
    check_flattenable(config.optim, Capabilities(cause="execution.storage=packed", otherwise="execution.storage=masked"))


def check_counts(config: Config, plan: Plan) -> None:
    """Refuse with a UserError packed weights whose number changes, where the engine's parameters keep their sizes."""
    engine = capabilities_of(config.engine)
    if config.execution.storage == "packed" and engine.fixes_sizes and not plan.keeps_counts and plan.context.shapes:
        raise UserError(
            f"execution.storage=packed cannot go with {engine.cause}, whose parameters keep their sizes, where "
            f"sparsity.method={config.sparsity.method} changes how many weights of a layer are active; "
            "engine.name=ddp or execution.storage=masked takes it"
        )


def check_shrink(config: Config) -> None:
    """Refuse with a UserError shrinking where no unit dies, or what is asked for beside it keeps the network's shape."""
    if not config.execution.shrink:
        return
    execution, sparsity = config.execution, config.sparsity
    if METHODS[sparsity.method].dense_weights:
        reason = f"cannot go with sparsity.method={sparsity.method}, which trains inactive weights too"
    elif sparsity.method != "dense" and sparsity.structure not in _OF_UNITS:
        reason = f"needs whole dead units: sparsity.structure={' or '.join(_OF_UNITS)}, not {sparsity.structure}"
    elif execution.storage == "packed" or execution.compute == "sparse":
        key = "storage=packed" if execution.storage == "packed" else "compute=sparse"
        reason = f"computes and stores what is left densely: not with execution.{key}"
    elif not capabilities_of(config.engine).loses_units:
        reason = f"needs engine.name=ddp; {config.engine.name} keeps parameters of fixed sizes"
    else:
        check_flattenable(config.optim, Capabilities(cause="execution.shrink=true", otherwise="execution.shrink=false"))
        return
    raise UserError(f"execution.shrink=true {reason}")


def check_settles(config: Config, plan: Plan) -> None:
    """Refuse with a UserError shrinking under a method whose inactive units come back; warn where they do so for long."""
    if not config.execution.shrink:
        return
    after, total = plan.settled_after, plan.context.run.total_steps
    if after is None:
        method = f"sparsity.method={config.sparsity.method}"
        raise UserError(f"execution.shrink=true needs units that stay dead, and those of {method} may come back at any time")
    if after > total / 2:
        _log.warning("execution.shrink=true acts after step %d of %d: until then dead units may come back", after, total)


def expected_densities(forecast: Forecast) -> Sequence[Mapping[str, float]]:
    """The densities of layers during a run: those at the end first, then those at the beginning, then what lies between."""
    networks = forecast.networks
    ends = [network.updates[-1].densities if network.updates else network.initial for network in networks]
    between = [update.densities for network in networks for update in network.updates[:-1]]
    return [*reversed(ends), *(network.initial for network in networks), *between]


def _final_masks(plan: Plan, masks: Masks, forecast: Forecast) -> Mapping[str, Tensor]:
    """Random masks at the run's last densities; the first masks where densities stay."""
    context, final = plan.context, expected_densities(forecast)[0]
    if final == forecast.networks[-1].initial:
        return {name: masks[name] for name in masks.names}
    units = {}
    for name, shape in context.shapes.items():
        sets, most, size = context.structure.counts(shape)
        units[name] = min(most, max(1, round(final[name] * shape.numel() / (sets * size))))
    mask = context.random_masks(units)
    return {name: mask(name) for name in context.shapes}
