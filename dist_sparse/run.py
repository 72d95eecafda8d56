"""One run from its configuration to its summary: find its folder, go on from a checkpoint or begin, train, tell the end."""

import contextlib
import logging
import signal
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from dist_sparse import distributed, peers
from dist_sparse.build import build_parts, build_trainer, expected_of_images, resolved
from dist_sparse.completeness import NotSaved, gap_of, gap_of_finished, settle_best
from dist_sparse.config import Config, dump_config, to_flat
from dist_sparse.cost import Cost, measure
from dist_sparse.data.identity import check_same_on_all_ranks
from dist_sparse.data.images.resizing import RESIZING_KEYS, told, with_expected
from dist_sparse.data.normalisation import chosen
from dist_sparse.distributed import Ranks
from dist_sparse.effects import warn_of_idle
from dist_sparse.engines.base import closed_on_failure
from dist_sparse.errors import Incomplete, UserError
from dist_sparse.files import atomic_write
from dist_sparse.finished import check_same
from dist_sparse.loading_errors import loading_explained
from dist_sparse.memory import keep_memory
from dist_sparse.preemption import CommonStop, StopAsked, StopSignals
from dist_sparse.resuming import accepted, choose_checkpoint
from dist_sparse.run_folder import FINISHED, PREEMPTED, RunFolder, choose_and_lock
from dist_sparse.state_bytes import state_bytes
from dist_sparse.stored import read_checkpoint
from dist_sparse.tracking import say, setup_logging, write_provenance, write_summary
from dist_sparse.trainer import Diverged, Hook, Trainer

_log = logging.getLogger(__name__)


def train(
    config: Config,
    signals: StopSignals | None = None,
    *,
    typed: Collection[str] | None = (),
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    """Train, and return the summary that the run's folder holds. Collective: every rank calls it.

    Args:
        typed: keys of the command line, of which those without effect are told in any case; with None no key is.
        hooks: called at every :class:`.Moment`.

    Raises:
        UserError: whatever the user can mend; before the first step on all ranks alike.
        StopAsked: one of the ``signals`` has stopped the run, in good order.
    """
    ranks = distributed.start(config.engine, signals)
    try:
        with peers.watched():  # a rank that is lost while the group is made is waited for in vain
            stop = CommonStop(signals, ranks.world_size, timedelta(minutes=config.engine.timeout))
        with stop:
            summary = _train(config, ranks, stop, typed, hooks)
    except StopAsked:
        distributed.stop()
        raise
    except BaseException:
        distributed.stop(failed=True)
        raise
    distributed.stop()
    return summary


def _train(
    config: Config, ranks: Ranks, stop: CommonStop, typed: Collection[str] | None, hooks: Sequence[Hook]
) -> dict[str, Any]:
    with peers.watched():
        folder, held = _choose_folder(config, ranks)
    try:
        with held:
            return _train_in(folder, config, ranks, stop, typed, hooks)
    except UserError:
        if ranks.is_first:
            folder.discard_if_unused()
        raise


def _train_in(
    folder: RunFolder,
    config: Config,
    ranks: Ranks,
    stop: CommonStop,
    typed: Collection[str] | None,
    hooks: Sequence[Hook],
) -> dict[str, Any]:
    with distributed.agreeing_on_errors():
        setup_logging(folder.path, ranks.rank)
    if (config.resume == "auto" or folder.restarted) and _is_finished(folder, ranks):
        with distributed.agreeing_on_errors():
            check_same(folder, config)
        _tell(ranks, f"{folder.path} is finished, nothing is left to do")
        return folder.summary()
    if folder.restarted and distributed.from_first_rank(folder.preempted.exists()):
        raise StopAsked(signal.SIGTERM)  # the ranks' exit code made torchrun restart them; that is for another start to do
    with distributed.agreeing_on_errors():
        if ranks.is_first:
            folder.forget_preemption()
    if ranks.device.type == "cpu":
        keep_memory()
    with peers.watched():
        trainer, cost = _prepare(config, folder, ranks, stop, typed)
    trainer.hooks, trainer.cost = hooks, cost
    with contextlib.closing(trainer.data):
        return _fit(trainer, cost, folder)


def _is_finished(folder: RunFolder, ranks: Ranks) -> bool:
    """The first rank looks whether the folder of a run that came to its end holds what it should."""
    said, gap = False, None
    if ranks.is_first and (said := folder.said_finished) and (gap := gap_of_finished(folder)):
        _log.warning("this run was finished, but %s; it goes on from what is there", gap)
    return distributed.from_first_rank(said and gap is None)


def _choose_folder(config: Config, ranks: Ranks) -> tuple[RunFolder, contextlib.ExitStack]:
    """The first rank chooses, since a new folder's name holds the time, and the others follow.

    Returns:
        The folder, and what gives it free again when it is closed: the first rank alone holds its lease.
    """
    folder, held = None, contextlib.ExitStack()
    with distributed.agreeing_on_errors():
        if ranks.is_first:
            folder, lease = choose_and_lock(config)
            held.callback(lease.release)
    return distributed.from_first_rank(folder), held


def _prepare(
    config: Config, folder: RunFolder, ranks: Ranks, stop: CommonStop, typed: Collection[str] | None
) -> tuple[Trainer, Cost]:
    """Build the trainer, at the checkpoint to go on from if there is one, and print what will be trained, and its cost."""
    checkpoint = choose_checkpoint(config, folder, ranks)
    with distributed.agreeing_on_errors():
        given, config = config, resolved(config)
        state = None if checkpoint is None else read_checkpoint(checkpoint, packed=config.execution.storage == "packed")
        parts = build_parts(config, ranks, state)
        if checkpoint is not None and state is not None:
            state = accepted(state, checkpoint, parts, folder)
    check_same_on_all_ranks(asdict(parts.data.info))
    if ranks.is_first and typed is not None:
        warn_of_idle(given, ranks.world_size, typed)
    for line in _pixels(config):
        _tell(ranks, line)
    info = parts.data.info
    image = (info.channels, info.image_size, info.image_size)
    # Before an engine takes the model apart.
    cost = measure(parts.model, image, parts.plan.active, config.sparsity.structure)
    trainer = build_trainer(parts, folder, state, stop=stop)
    with closed_on_failure(trainer.engine):
        with distributed.agreeing_on_errors():
            if ranks.is_first:
                _take_folder(folder, config)
        if checkpoint:
            _settle_best(trainer, checkpoint)
        execution, forward_masks = trainer.execution, trainer.method.networks()[-1].masks
        ways = execution.ways(forward_masks) if execution.current else {}
        _tell(ranks, _with_masks(cost, trainer).with_execution(ways, execution.gains(forward_masks)).table())
        if line := execution.describe(forward_masks):
            _tell(ranks, line)
        masks = trainer.method.gradient_masks(trainer.progress.step + 1)
        if ranks.world_size > 1 and (line := trainer.engine.describe_exchange(masks)):
            _tell(ranks, line)
        if state:
            _tell(ranks, f"going on after step {trainer.progress.step} of {trainer.total_steps}")
    return trainer, cost


def _take_folder(folder: RunFolder, config: Config) -> None:
    """The run begins, or goes on, here."""
    try:
        folder.forget_summary()
        write_provenance(folder.path, dump_config(config))
    except OSError as error:
        raise UserError(f"output={folder.path} cannot be written: {error.strerror}") from error


def _settle_best(trainer: Trainer, checkpoint: Path) -> None:
    """The first rank makes sure of the best checkpoint, and the others believe it."""
    progress = trainer.progress
    if trainer.ranks.is_first:
        last = progress.step == trainer.total_steps
        settle_best(trainer.store, progress, checkpoint, to_flat(trainer.config), last=last)
    trainer.progress = distributed.from_first_rank(progress)


def _pixels(config: Config) -> Iterator[str]:
    """What is done to the images for pretrained weights, which expect it in one way."""
    if (expected := expected_of_images(config)) is None:
        return
    used, whose = chosen(config.data), "timm's pretrained weights of this name expect"
    agrees = f"as {whose}" if used == expected.normalisation else f"but {whose} {expected.normalisation}"
    yield f"images are normalised by {used}, {agrees} (data.mean, data.std)"
    if config.data.name == "image_folder":
        resized = told(config.data)
        usual = told(with_expected(replace(config.data, **dict.fromkeys(RESIZING_KEYS)), expected.resizing))
        agrees = f"as {whose}" if resized == usual else f"but {whose} {usual}"
        yield f"validation images are resized {resized}, {agrees} (data.interpolation, data.resize, data.crop_mode)"


def _with_masks(cost: Cost, trainer: Trainer) -> Cost:
    """What the network costs with the masks of now."""
    return cost.with_active(trainer.method.networks()[-1].masks.active())


def _fit(trainer: Trainer, cost: Cost, folder: RunFolder) -> dict[str, Any]:
    """Train to the end, and leave a summary whatever the end is."""
    reason = "crashed"
    try:
        with peers.watched(), loading_explained():
            trainer.fit()
        _check_saved(trainer, folder)
        reason = FINISHED
    except NotSaved as error:
        reason = f"not saved: {error}"
        raise
    except Diverged:
        reason = "diverged"
        raise
    except (UserError, Incomplete) as error:
        reason = f"stopped: {error}"
        raise
    except StopAsked as asked:
        reason = _note_stop(trainer, folder, asked)
        raise
    except KeyboardInterrupt:
        reason = "interrupted"
        raise
    finally:
        trainer.engine.close()
        summary = _summary(trainer, _with_masks(cost, trainer), reason)
        written = not trainer.ranks.is_first or write_summary(folder.path, summary)
        trainer.tracker.close(exit_code=int(reason != FINISHED), summary=summary, preempted=reason == PREEMPTED)
    if not distributed.from_first_rank(written):
        raise NotSaved(f"{folder.path / 'summary.json'} could not be written; resume=auto completes the run")
    _tell(trainer.ranks, _last_words(summary, folder))
    return summary


def _check_saved(trainer: Trainer, folder: RunFolder) -> None:
    """Raise :class:`NotSaved` unless the run's last state is on the disk and whole. Collective."""
    gap = None
    if trainer.ranks.is_first:
        last = trainer.store.path(trainer.total_steps)
        gap = gap_of(folder, last, trainer.progress.best_step)
        if trainer.store.refusal:
            gap = f"the last checkpoint could not be written: {trainer.store.refusal}"
    if gap := distributed.from_first_rank(gap):
        raise NotSaved(f"{gap}; the run is at its last step, and resume=auto with the same output completes what is missing")


def _note_stop(trainer: Trainer, folder: RunFolder, asked: StopAsked) -> str:
    """Tell of a stop by a signal, and leave the mark that scripts go by; returns the exit reason."""
    name, step = asked.signal.name, trainer.progress.step
    if asked.preempted and trainer.ranks.is_first:
        try:
            atomic_write(folder.preempted, lambda file: file.write(f"{name} at step {step}\n".encode()))
        except OSError as error:
            _log.warning("%s: %s; only the exit code says that the run wants to go on", folder.preempted, error.strerror)
    saved = trainer.store.paths()
    last = f"the last checkpoint is {saved[-1]}" if saved else "there is no checkpoint"
    text = f"stopped by {name} after step {step} of {trainer.total_steps}; {last}"
    _log.info(text)
    _tell(trainer.ranks, text)
    return PREEMPTED if asked.preempted else "interrupted"


def _summary(trainer: Trainer, cost: Cost, reason: str) -> dict[str, Any]:
    progress = trainer.progress
    return {
        "exit_reason": reason,
        "best_top1": progress.best_top1 if progress.best_step else None,
        "best_step": progress.best_step or None,
        "no_best": None if progress.best_step else _why_no_best(trainer),
        "last_top1": progress.last_top1 if progress.last_top1 >= 0 else None,
        "density": trainer.method.networks()[-1].masks.density(),
        "mean_density": progress.mean_density,
        "peak_density": progress.peak_density,
        **cost.summary(),
        "inference_flops_relative": cost.flops / cost.dense_flops,
        "train_flops_relative": progress.training_cost(cost),
        "flops_saved": progress.flops_saved(cost),
        "state_bytes": state_bytes(trainer.engine, trainer.method, trainer.execution),
        "sparse_layers": trainer.execution.sparse_layers(trainer.method.networks()[-1].masks),
        "seconds_per_step": progress.seconds_per_step or None,
        "steps": progress.steps_made,
        "wall_seconds": progress.seconds,
        "last_checkpoint": trainer.store.path(progress.step).name if reason == FINISHED else None,
    }


def _why_no_best(trainer: Trainer) -> str:
    if trainer.progress.last_top1 < 0:
        return "nothing has been validated"
    if not trainer.method.at_final_density():
        return "the density has not come to its final value"
    return "no network at its final density has been validated and saved"


def _last_words(summary: dict[str, Any], folder: RunFolder) -> str:
    last, best = summary["last_top1"], f"no best: {summary['no_best']}"
    if summary["best_top1"] is not None:
        best = f"best {summary['best_top1']:.2%} at step {summary['best_step']}"
    return (
        f"{'no top-1' if last is None else f'top-1 {last:.2%}'} ({best}), "
        f"density {summary['density']:.2%}, trained in {summary['wall_seconds']:.1f} s\n"
        f"run folder: {folder.path}"
    )


def _tell(ranks: Ranks, text: str) -> None:
    if ranks.is_first:
        say(text)
