"""From a configuration to the parts of a run.

What one rank can do alone comes first (:func:`build_parts`), so that every mistake of the user is found before ranks depend on
one another; what needs all ranks comes after (:func:`build_trainer`).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from dist_sparse import distributed
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.checks import check_config, check_plan, check_state_exchange
from dist_sparse.config import Config
from dist_sparse.config.data import DataConfig
from dist_sparse.cost import dense_flops_by_side
from dist_sparse.data import Data, DataInfo, Loading, build_data
from dist_sparse.data.clock import Clock
from dist_sparse.data.efficient import EfficientPlan, make_clock, plan_efficient
from dist_sparse.data.images.resizing import Resizing, resizing_from, with_expected
from dist_sparse.data.normalisation import Normalisation, chosen
from dist_sparse.data.readers import SMALL_SETS
from dist_sparse.distributed import Ranks
from dist_sparse.engines.base import closed_on_failure
from dist_sparse.engines.build import build_engine, capabilities_of, check_installed, resolve_engine
from dist_sparse.engines.precision import Precision
from dist_sparse.executing import execution_of
from dist_sparse.execution.execution import Execution
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.guards import check_sync_batch_norm, check_training_mode
from dist_sparse.models import build_model, check_sizes
from dist_sparse.models.training import checkpoint_gradients, synchronise_batch_norms
from dist_sparse.optim import (
    Predictions,
    SeededMixup,
    build_ema,
    build_loss,
    build_mixup,
    build_optimizer,
    build_scheduler,
)
from dist_sparse.planning import plan_masks
from dist_sparse.preemption import CommonStop
from dist_sparse.run_folder import RunFolder
from dist_sparse.shrinker import build_shrinker
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.build import begin
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.starting import start_from
from dist_sparse.tracking import Tracker, build_tracker
from dist_sparse.tracking.columns import columns_of
from dist_sparse.tracking.tensorboard import check_tensorboard
from dist_sparse.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that a rank builds without the others."""

    config: Config
    ranks: Ranks
    data: Data
    precision: Precision
    model: nn.Module
    optimizer: Optimizer
    scheduler: Scheduler
    plan: Plan
    mixup: SeededMixup | None
    keeps_zeros: bool
    clock: Clock
    efficient: EfficientPlan | None
    work_by_side: Mapping[int, float]


def resolved(config: Config) -> Config:
    """The configuration with the defaults of method, engine and pixels filled in: what a run uses, and its folder holds."""
    return dataclasses.replace(
        config, sparsity=resolve(config.sparsity), engine=resolve_engine(config.engine), data=_as_expected(config)
    )


class Expected(NamedTuple):
    """What weights expect of images."""

    normalisation: Normalisation
    resizing: Resizing


def expected_of_images(config: Config) -> Expected | None:
    """What the weights that a run starts from expect, where it starts from such.

    A file of weights does not tell: with folders it is taken for one of timm's, with a small set for one of that set's.
    """
    of_file = config.model.checkpoint is not None and config.data.name not in SMALL_SETS
    if not config.model.pretrained and not of_file:
        return None
    from dist_sparse.models.pretrained import expected_images

    expected = expected_images(config.model)
    if expected is None:
        return None
    return Expected(Normalisation(expected.mean, expected.std), resizing_from(expected.others))


def _as_expected(config: Config) -> DataConfig:
    expected = expected_of_images(config)
    mean, std = chosen(config.data, expected and expected.normalisation)
    data = dataclasses.replace(config.data, mean=list(mean), std=list(std))
    return with_expected(data, expected and expected.resizing)


def load_data(config: Config, ranks: Ranks) -> Data:
    """This rank's share of the data set."""
    return build_data(config.data, loading_of(config, ranks))


def loading_of(config: Config, ranks: Ranks) -> Loading:
    """How this rank loads."""
    train = config.train
    return Loading(
        batch_size=train.batch_size,
        accumulation=train.accumulation,
        eval_batch_size=train.eval_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        device=ranks.device,
        seed=config.seed,
        epochs=train.epochs,
        channels_last=train.channels_last,
    )


def load_model(config: Config, info: DataInfo, precision: Precision, *, fresh: bool = True) -> nn.Module:
    """The network for a data set, placed on the device; unless it is ``fresh``, its weights are still to come."""
    settings = config.model if fresh else dataclasses.replace(config.model, pretrained=False, checkpoint=None)
    model = build_model(settings, classes=info.classes, channels=info.channels, image_size=info.image_size, seed=config.seed)
    if settings.checkpoint is not None:
        start_from(settings, model)
    if config.train.grad_checkpointing:
        checkpoint_gradients(config.model.name, model)
    return precision.place_model(model)


def load_precision(config: Config, ranks: Ranks) -> Precision:
    """How the network is held and run."""
    return Precision(
        name=config.train.precision,
        device=ranks.device,
        channels_last=config.train.channels_last,
        flattens_weights=capabilities_of(config.engine).flattens_weights,
    )


def build_parts(config: Config, ranks: Ranks, saved: Mapping[str, Any] | None = None) -> Parts:
    """Build what needs no other rank, from a resolved configuration, and the ``saved`` state of a run that goes on.

    That state is only looked at: it is to be checked, and loaded, once the parts are there.

    Raises:
        UserError: whatever in the configuration or the data cannot be used.
    """
    keeps = check_config(config, ranks.world_size, ranks.device)
    check_installed(config)
    check_tensorboard(config.tracking)
    check_sync_batch_norm(config, ranks.device)
    data, precision = load_data(config, ranks), load_precision(config, ranks)
    model = load_model(config, data.info, precision, fresh=saved is None)
    check_state_exchange(config, model)
    check_sizes(
        config.model,
        model,
        classes=data.info.classes,
        channels=data.info.channels,
        sizes=data.train_sizes - {data.info.image_size},
    )
    check_training_mode(config, model, data.info, data.train_sizes, ranks.world_size)
    optimizer = build_optimizer(config.optim, model, config.train.batch_size)
    efficient = plan_efficient(config.data.forgetting, config.train, data.info)
    clock = make_clock(config.data.forgetting, config.train, data.info, data.train.steps_per_epoch)
    scheduler = build_scheduler(config.scheduler, optimizer, steps_per_epoch=clock.whole, total_steps=clock.total)
    plan = plan_masks(config, ranks, model, clock, saved)
    check_plan(config, plan, scheduler, clock)
    return Parts(
        config=config,
        ranks=ranks,
        data=data,
        precision=precision,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        plan=plan,
        mixup=build_mixup(config.train, data.info.classes, seed=config.seed, world_size=ranks.world_size),
        keeps_zeros=keeps.weights and keeps.state,
        clock=clock,
        efficient=efficient,
        work_by_side=_work_by_side(model, data),
    )


def _work_by_side(model: nn.Module, data: Data) -> dict[int, float]:
    """What a dense step on training images of each side costs, of one on the largest."""
    if len(data.train_sizes) < 2:
        return {}
    flops = dense_flops_by_side(model, data.info.channels, data.train_sizes)
    return {side: count / max(flops.values()) for side, count in flops.items()}


def build_trainer(parts: Parts, folder: RunFolder, state: dict[str, Any] | None, *, stop: CommonStop | None = None) -> Trainer:
    """Put the parts together, and take over a checkpoint's ``state`` if there is one. Collective.

    Args:
        stop: what the trainer will obey; what takes long here is cut short by it.
    """
    stop = stop or CommonStop()
    config, ranks = parts.config, parts.ranks
    if config.train.sync_batch_norm and ranks.world_size > 1:  # not before: shapes cannot be learnt of it
        parts = dataclasses.replace(parts, model=synchronise_batch_norms(parts.model))
    loss, forgetting, predictions = build_loss(config.train), None, None
    if parts.efficient:
        forgetting = parts.efficient.build(folder.path, ranks.device)
        loss = predictions = Predictions(loss)
    begun = begin(parts.plan)  # before an engine takes the model apart, as the moving average
    execution = _build_execution(parts, begun.masks, state, stop)
    packed = PackedWeights(parts.model, begun.masks) if config.execution.storage == "packed" and len(begun.masks) else None
    ema = build_ema(config.train, parts.model)
    if packed is not None and ema is not None:
        packed.copied()
    engine = build_engine(config, parts.model, parts.optimizer, loss, parts.precision, packed)
    with closed_on_failure(engine):
        method = begun.bind(engine, remask=not parts.keeps_zeros)
        with distributed.agreeing_on_errors():
            tracker = _build_tracker(parts, folder, method, state)
        trainer = Trainer(
            config=config,
            ranks=ranks,
            data=parts.data,
            engine=engine,
            method=method,
            scheduler=parts.scheduler,
            mixup=parts.mixup,
            ema=ema,
            execution=execution,
            tracker=tracker,
            store=CheckpointStore(folder.checkpoints, config.checkpoint.keep, packed=config.checkpoint.format == "packed"),
            clock=parts.clock,
            forgetting=forgetting,
            predictions=predictions,
            work_by_side=parts.work_by_side,
            shrinker=build_shrinker(config, engine, method, execution, ema, parts.data.info),
        )
        trainer.stop = stop
        if state:
            take_over(trainer, state)
        return trainer


def _build_execution(parts: Parts, masks: Masks, state: Mapping[str, Any] | None, stop: CommonStop) -> Execution:
    return execution_of(
        parts.config,
        parts.model,
        plan=parts.plan,
        masks=masks,
        precision=parts.precision,
        data=parts.data,
        clock=parts.clock,
        world_size=parts.ranks.world_size,
        saved=state.get("execution") if state else None,
        until_asked=stop.until_asked,
    )


def _build_tracker(parts: Parts, folder: RunFolder, method: Method, state: Mapping[str, Any] | None) -> Tracker:
    return build_tracker(
        parts.config,
        folder.path,
        parts.ranks.rank,
        columns=columns_of(method),
        resume_step=state["progress"]["step"] if state else None,
        wandb_id=state["wandb_id"] if state else None,
        tables=state.get("tables", {}) if state else {},
        total_steps=parts.clock.total,
        steps_per_epoch=parts.clock.whole,
        validation_images=parts.data.info.val_size * (len(method.networks()) + (parts.config.train.ema is not None)),
        patience=60 * parts.config.engine.timeout if parts.ranks.world_size > 1 else None,
    )


def take_over(trainer: Trainer, state: dict[str, Any]) -> None:
    """Load a state that has been checked; whatever is wrong with it even so is a mistake of the file, alike on all ranks."""
    try:
        trainer.load_state_dict(state)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or "?"
        raise distributed.AgreedError(
            f"the checkpoint of step {state['progress']['step']} cannot be gone on from: {type(error).__name__} {reason[:300]}"
        ) from error
