"""The training loop, validation and checkpoints of one run."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from dist_sparse import saving, validation
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.config import Config, to_flat
from dist_sparse.cost import Cost
from dist_sparse.data import Batch, Data
from dist_sparse.data.clock import Clock
from dist_sparse.data.forgetting import Forgetting
from dist_sparse.distributed import Ranks
from dist_sparse.engines import replicas
from dist_sparse.engines.base import Engine
from dist_sparse.errors import UserError
from dist_sparse.execution.execution import Execution
from dist_sparse.finite import Soundness
from dist_sparse.meter import Meter, peak_memory
from dist_sparse.optim import Predictions, SeededMixup
from dist_sparse.preemption import CommonStop, StopAsked
from dist_sparse.progress import Progress
from dist_sparse.seeding import seed_torch
from dist_sparse.shrinker import Shrinker
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.base import Decision, Method
from dist_sparse.step import TrainStep
from dist_sparse.tracking import Tracker

_log = logging.getLogger(__name__)


class Moment(Enum):
    """When a run calls its hooks, on every rank alike."""

    STARTED = "the masks are in force and all ranks agree; the first step of this process is to come"
    GRADIENTS_READY = "the gradients of a step are averaged; masks, weights and ``progress`` are still those before it"
    STEPPED = "a step is made; nothing of it has been logged, validated or saved yet"
    STEP_ENDED = "whatever was due after a step is done"


Hook = Callable[[Moment, "Trainer"], None]
"""Something that a program of one's own, or a test, does within a run: it may look at the trainer's parts, or raise."""


class Diverged(UserError):
    """The loss has not been finite for too many steps in a row."""

    on_all_ranks = True


@dataclass(kw_only=True)
class Trainer:
    """One run, put together by :mod:`dist_sparse.build`."""

    config: Config
    ranks: Ranks
    data: Data
    engine: Engine
    method: Method
    scheduler: Scheduler
    mixup: SeededMixup | None
    ema: ModelEmaV3 | None
    execution: Execution
    tracker: Tracker
    store: CheckpointStore
    clock: Clock
    forgetting: Forgetting | None = None
    predictions: Predictions | None = None
    """What the loss was last computed from; there where forgetting is counted."""
    progress: Progress = dataclasses.field(default_factory=Progress)
    work_by_side: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """What a dense step on images of each side costs, of one on the largest; empty where all cost the same."""
    cost: Cost | None = None
    """The FLOPs of the network's layers; None where sparse execution computes nothing, so that nothing is saved."""
    shrinker: Shrinker | None = None
    stop: CommonStop = dataclasses.field(default_factory=CommonStop)
    hooks: Sequence[Hook] = ()

    def __post_init__(self) -> None:
        train = self.config.train
        self.steps_per_epoch, self.total_steps = self.clock.whole, self.clock.total
        self._checkpoint_every = max(1, self.config.checkpoint.every.steps(self.steps_per_epoch, self.total_steps))
        self._check_loss_every = min(train.nan_limit, self.config.tracking.log_every)
        self._meter = Meter(self.ranks)
        self._verified = -1  # the step at which ranks were found to agree
        self._step = TrainStep(self.engine, self.method, self.execution)
        self._soundness = Soundness(self.engine)

    def fit(self) -> Progress:
        """Train from where the progress is to the end. Collective.

        Raises:
            StopAsked: by a signal; a checkpoint of the last step has been written.
        """
        self._verified = -1
        self.method.start()
        self._mask_average()
        self._verify_ranks()
        self._shrink()
        self._set_learning_rate()
        self._call_hooks(Moment.STARTED)
        if self.progress.step == 0:
            self._log(self._sparsity(self.method.masks))
        started = time.perf_counter() - self.progress.seconds
        if self.ranks.is_first:
            self.store.tidy(self.progress.step)
        # At its end a run may have gone on from best.pt, because that step's checkpoint is gone.
        self._finish_step(save=self.progress.validation_pending or self.progress.step == self.total_steps)
        for epoch in range(self.clock.place(self.progress.step)[0], self.config.train.epochs):
            _, start_step = self.clock.place(self.progress.step)
            among = self.forgetting.positions(epoch) if self.forgetting else None
            for number, batch in enumerate(self.data.train.epoch(epoch, start_step, among)):
                learning_rate, previous = self.engine.learning_rate, self.progress.step
                decision = self.train_on(batch, number)
                if decision is not None:
                    self.progress.seconds = time.perf_counter() - started
                    self._end_epoch_of_forgetting()
                    self._after_step(decision, learning_rate, previous)
                    self._call_hooks(Moment.STEP_ENDED)
        self.progress.seconds = time.perf_counter() - started
        return self.progress

    def train_on(self, batch: Batch, number: int) -> Decision | None:
        """Train on a micro-batch, of this number in its epoch; returns the decision of the optimizer step if it ends one."""
        step = self.clock.after(self.progress.step)
        self._forward_backward(batch, number, step)
        return self._optimizer_step(step) if self.engine.at_step_boundary else None

    def _forward_backward(self, batch: Batch, number: int, step: int) -> None:
        seed_torch("forward", self.config.seed, step, number % self.config.train.accumulation, self.ranks.rank)
        images, targets = batch.images, batch.labels
        if self.mixup is not None:
            images, targets = self.mixup(images, targets, step)
        self._work = self.work_by_side.get(images.shape[-1], 1.0)
        self._meter.add(self._step.forward_backward(step, images, targets), len(images))
        if self.forgetting and self.predictions and self.forgetting.counts_in(self.clock.place(self.progress.step)[0]):
            self.forgetting.see(batch.indices, self.predictions.last == batch.labels)

    def _end_epoch_of_forgetting(self) -> None:
        """Before the step's checkpoint, which is to hold the epoch's counts."""
        epochs, rest = divmod(self.progress.step, self.steps_per_epoch)
        if self.forgetting and not rest:
            self.forgetting.end_epoch(epochs - 1, save=self.ranks.is_first)

    def _optimizer_step(self, step: int) -> Decision:
        """From averaged gradients to new weights; a step that must not count moves neither masks nor weights."""
        self._call_hooks(Moment.GRADIENTS_READY)
        seed_torch("step", self.config.seed, step)  # some optimizers draw; on all ranks alike
        self.progress.add_step(self.method.masks, self.method.gradient_masks(step), self.execution, work=self._work)
        outcome = self._step.optimizer_step(step)
        if outcome.decision.updates_masks:
            self._mask_average()
        self._meter.end_step(undone=outcome.undone)
        if self.ema is not None and not outcome.undone:
            with self.engine.full_parameters():
                self.ema.update(self.engine.model, step=step)
        self.progress.step = step
        self._shrink()
        self._set_learning_rate()
        self._call_hooks(Moment.STEPPED)
        return outcome.decision

    def _call_hooks(self, moment: Moment) -> None:
        for hook in self.hooks:
            hook(moment, self)

    def _mask_average(self) -> None:
        """Zero what the averaged weights remember of inactive ones: they are the same sparse network."""
        if self.ema is not None:
            self.engine.mask_copy(self.ema.module, self.method.masks)

    def _shrink(self) -> None:
        """Let the network lose its dead units, if that is asked for and worth while now."""
        if self.shrinker is not None and self.shrinker.shrink_if_worthwhile(self.progress.step):
            self._step.undoing.follow_model()

    def _set_learning_rate(self) -> None:
        """The rate for the next step; a pure function of the steps that were made."""
        self.scheduler.step_update(self.progress.step)

    def _after_step(self, decision: Decision, learning_rate: float, previous: int) -> None:
        """Log, validate and save, whatever is due since step ``previous``."""
        step, tracking = self.progress.step, self.config.tracking
        last = step == self.total_steps
        if _due(self._check_loss_every, previous, step) or last:
            self._stop_if_diverged(last=last)
        if decision.updates_masks:
            self._log_update(step)
        if _due(tracking.log_every, previous, step) or last:
            self._log_training(learning_rate)
        epoch_loss = self._meter.read_epoch() if step % self.steps_per_epoch == 0 else None
        self.progress.validation_pending = self._validation_due(step)
        self._finish_step(save=last or _due(self._checkpoint_every, previous, step))
        if epoch_loss is not None:
            self.tracker.end_epoch(step, epoch_loss)

    def _log_training(self, learning_rate: float) -> None:
        values = self._meter.read()
        self.progress.seconds_per_step = values["time/seconds_per_step"]
        if self.cost is not None:
            values["execution/flops_saved"] = self.progress.flops_saved(self.cost)
        values["execution/sparse_layers"] = self.execution.sparse_layers(self.method.masks)
        self._log({**values, "train/lr": learning_rate, "memory/peak_bytes": peak_memory(self.ranks.device)})

    def _finish_step(self, *, save: bool) -> None:
        """Validate if it is due, and save if that or the accuracy is a reason; but first of all stop if asked to.

        A validation that is cut short is made again by the run that goes on from here.
        """
        pending, progress = self.progress.validation_pending, self.progress
        best_before = (progress.best_top1, progress.best_step)
        with self._meter.paused(), self.tracker.pausing(validates=pending):
            try:
                self.stop.check()
                improved = pending and self._validate()
            except StopAsked:
                self._save(best=False)
                raise
            progress.validation_pending = False
            if improved or save:
                saved = self._save(best=improved)
                if improved and not saved:  # the best is what best.pt holds
                    progress.best_top1, progress.best_step = best_before
        self.tracker.advance(progress.step)

    def _log_update(self, step: int) -> None:
        """Log what the update of a network has changed; of several, the overall figures stay those of the last."""
        networks, changed = self.method.networks(), self.method.changed
        moved = next(network for network in networks if network.masks is self.method.masks)
        own = {f"sparsity/{moved.label}_density": moved.masks.density()} if moved.label else {}
        self._log({**self._sparsity(networks[-1].masks), **own, "sparsity/changed": moved.masks.share(changed)})
        densities, changes = (
            {f"{moved.label} {name}".lstrip(): value for name, value in values.items()}
            for values in (moved.masks.densities(), moved.masks.shares(changed))
        )
        self.tracker.log_layers(step, densities=densities, changed=changes)

    def _validation_due(self, step: int) -> bool:
        epochs, rest = divmod(step, self.steps_per_epoch)
        return rest == 0 and (epochs % self.config.train.validate_every == 0 or step == self.total_steps)

    def _validate(self) -> bool:
        """Log the validation metrics; True if the accuracy is the best so far of a network at its final density."""
        self._verify_ranks()
        values, top1 = validation.of_networks(self.engine, self.method, self.execution, self._scores)
        if self.ema is not None:
            averaged, top1 = validation.of_average(self.ema.module, self.ranks.device, self._scores)
            values |= averaged
        self._log({**values, **self._sparsity(self.method.networks()[-1].masks)})
        self.progress.last_top1 = top1
        if improved := top1 > self.progress.best_top1 and self.method.at_final_density():
            self.progress.best_top1, self.progress.best_step = top1, self.progress.step
        return improved

    def _verify_ranks(self) -> None:
        """Stop all ranks if their masks, weights or optimizer states differ; before anything is made of them. Collective.

        Raises:
            Disagreement: on every rank, naming what differs.
        """
        if self._verified != self.progress.step:
            self.method.verify_masks()
            averaged = {} if self.ema is None else dict(self.ema.module.named_parameters())
            replicas.verify({**self.engine.replicas(), "averaged": averaged}, self.ranks.device)
            self._verified = self.progress.step

    def _scores(self, model: nn.Module) -> dict[str, float]:
        return validation.validate(model, self.stop.until_asked(self.data.val), self.engine.precision)

    def _sparsity(self, masks: Masks) -> dict[str, float | str]:
        return {
            "sparsity/density": masks.density(),
            "sparsity/mean_density": self.progress.mean_density,
            "sparsity/peak_density": self.progress.peak_density,
            "sparsity/mask_digest": self.method.digest(),
            "sparsity/exploration": masks.exploration(),
        }

    def _log(self, values: Mapping[str, float | str]) -> None:
        self.tracker.log(self.progress.step, values)

    def _stop_if_diverged(self, *, last: bool) -> None:
        train = self.config.train
        bad, undone = self._meter.bad_losses(), self._step.undoing.in_a_row
        if max(bad, undone * train.accumulation) >= train.nan_limit * train.accumulation or (last and self._meter.diverging()):
            what = "loss has" if bad else "gradients have"
            good = self.store.paths()
            advice = f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
            steps = max(undone, -(-bad // train.accumulation))
            raise Diverged(
                f"the {what} not been finite for {steps} steps in a row, up to step {self.progress.step}; "
                f"{advice}; a new run with a lower optim.lr, a longer scheduler.warmup or train.clip_norm may fare better"
            )

    def _save(self, *, best: bool) -> bool:
        """Write a checkpoint, unless the run has diverged: the good ones before must stay. Collective; tells if it did."""
        diverging = self._meter.diverging()
        if not diverging:
            self._verify_ranks()
        parts = (self.store, self.engine, self._soundness, self.state_dict)
        return saving.save(*parts, step=self.progress.step, best=best, diverging=diverging)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the run's future. Collective."""
        return {
            "arch": self.config.model.name,
            **self.engine.state_dict(),
            "state_dict_ema": None if self.ema is None else self.engine.plain_state(self.ema.module),
            "method": self.method.state_dict(),
            "meter": self._meter.state_dict(),
            "forgetting": self.forgetting.state_dict() if self.forgetting else None,
            "progress": dataclasses.asdict(self.progress),
            "config": to_flat(self.config),
            "execution": self.execution.state_dict(),
            "shrinker": None if self.shrinker is None else self.shrinker.state_dict(),
            "data": dataclasses.asdict(self.data.info),
            "world_size": self.ranks.world_size,
            "wandb_id": self.tracker.wandb_id,
            "tables": self.tracker.tables(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken."""
        self.engine.load_state_dict(state)
        if self.ema is not None:
            self.engine.mask_copy(self.ema.module, self.method.masks)
            self.engine.load_plain_state(self.ema.module, state["state_dict_ema"])
        self.method.load_state_dict(state["method"])
        self._meter.load_state_dict(state["meter"])
        if self.shrinker is not None and (shrinker := state.get("shrinker")) is not None:
            self.shrinker.load_state_dict(shrinker)
        if self.forgetting:
            self.forgetting.load_state_dict(state["forgetting"])
        self.progress = Progress.of(state["progress"])
        self._step.undoing.follow_model()  # loading may have made it narrow


def _due(every: int, previous: int, step: int) -> bool:
    """A multiple of ``every`` lies after ``previous`` and up to ``step`` (which need not be neighbours)."""
    return step // every > previous // every
