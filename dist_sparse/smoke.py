"""A smoke run: any recipe in a few steps on a handful of images, with its own network, method, engine and arithmetic.

For a first try on a new machine or cluster, and for the tests of all recipes. What is shortened:

- two images a rank and micro-batch, small ones where images are files and the network takes them, and as few from the data
  set as the run needs; where the data set is not there, random images stand in for it;
- about ten steps. Every length keeps its share of the run, but for the interval of updates: one in two steps. So ramps come to
  their end, phases follow one another, and masks really move;
- timm's pretrained weights are not fetched: the network begins anew, as where the file of ``model.checkpoint`` is missing;
- a ranking by forgetting is of all samples: the run counts for itself, or leaves out none where its keys allow no counting;
- the learning rate follows the batch; nothing is sent to W&B, and the run's folder has a name of its own, where it goes on
  with ``resume=auto``.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from dist_sparse import distributed
from dist_sparse.build import resolved
from dist_sparse.config import Config, with_values
from dist_sparse.config.data import USUAL_FOR_FOLDERS, DataConfig
from dist_sparse.config.duration import Length
from dist_sparse.config.tree import flat
from dist_sparse.data.batch import DataInfo
from dist_sparse.data.expected import expected_info, is_there
from dist_sparse.data.images.sizes import DEFAULT_IMAGE_SIZE
from dist_sparse.data.readers import SMALL_SETS
from dist_sparse.effects import warn_of_idle
from dist_sparse.errors import UserError
from dist_sparse.inputs import expand
from dist_sparse.models import build_meta_model
from dist_sparse.preemption import StopSignals
from dist_sparse.run import train
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.start_file import HUB
from dist_sparse.tracking import say
from dist_sparse.trainer import Hook

_STEPS = 10
_IMAGES = 2
"""A rank and micro-batch. Batch norms need two."""
_EPOCHS = 2
_INTERVAL = 2
_SIDE = 64
_MULTIPLE = 32
"""Other sides of images are multiples of this, the stride of most networks."""


def smoke(
    config: Config, signals: StopSignals | None = None, *, typed: Collection[str] = (), hooks: Sequence[Hook] = ()
) -> dict[str, Any]:
    """Train what :func:`shortened` leaves, and return its summary; keys without effect are those of the recipe. Collective.

    Raises:
        UserError: as :func:`dist_sparse.run.train`.
    """
    ranks = distributed.start(config.engine)
    short = None
    try:
        with distributed.agreeing_on_errors():  # the first rank looks for the data, so that all go the same way
            if ranks.is_first:
                there = is_there(config.data)
                short = shortened(config, ranks.world_size, data_is_there=there)
                say(_notice(config, short, there))
                warn_of_idle(config, ranks.world_size, typed)
    except UserError:
        distributed.stop(failed=True)
        raise
    return train(distributed.from_first_rank(short), signals, typed=None, hooks=hooks)


def _notice(config: Config, short: Config, there: bool) -> str:
    origin = f"of {config.data.name}" if there else f"random ones, since {config.data.root} does not hold {config.data.name}"
    weights = (config.model.pretrained, config.model.checkpoint)
    has_them = weights == (short.model.pretrained, short.model.checkpoint)
    anew = "" if has_them else f", from new weights instead of {config.model.checkpoint or 'pretrained ones'}"
    return (
        f"smoke run of {config.name}: {short.train.epochs} epochs of a few steps of {short.train.batch_size} images each "
        f"({origin}){anew}; neither accuracy nor time mean anything"
    )


def shortened(config: Config, world_size: int, *, data_is_there: bool) -> Config:
    """The configuration of the smoke run.

    Raises:
        UserError: what also stops the whole run.
    """
    if config.resume not in ("auto", "never"):
        raise UserError(f"resume={config.resume}: a smoke run has another length than the checkpoint's; never or auto goes")
    config = _without_missing_weights(resolved(config))
    expected, _ = expected_info(config.data)
    whole = max(1, expected.train_size // config.train.batch_size)  # a folder may be smaller than the batch
    if not data_is_there:
        side = max(expected.image_size, SMALL_SETS["noise"].side)
        config = replace(
            config, data=replace(config.data, name="noise", image_size=side, mean=None, std=None, **USUAL_FOR_FOLDERS)
        )
    accumulation = min(config.train.accumulation, 2)
    batch = world_size * accumulation * _IMAGES
    wanted = max(_STEPS, 4 * len(config.sparsity.ast.densities or config.sparsity.ast.structures))
    config = with_values(config, {"data.limit": batch * math.ceil(wanted / _EPOCHS)})
    info, _ = expected_info(config.data)
    steps = max(1, info.train_size // batch)
    epochs = max(_EPOCHS, math.ceil(wanted / steps))
    values = _sizes(config, batch, accumulation) | _images(config, info)
    values |= {"train.epochs": epochs, "train.validate_every": epochs}
    values |= _lengths(config, whole, whole * config.train.epochs, steps * epochs)
    values |= _forgetting(config, expected, info, epochs)
    return with_values(config, values)


def _without_missing_weights(config: Config) -> Config:
    """New weights in the place of those that would have to be fetched, or trained, first."""
    model, start = config.model, config.model.checkpoint
    missing = start is not None and (start.startswith(HUB) or not expand(start).exists())
    if missing and config.sparsity.init == "checkpoint":
        return config  # there are no masks without the file: the run says so
    return replace(config, model=replace(model, pretrained=False, checkpoint=None if missing else start))


def _sizes(config: Config, batch: int, accumulation: int) -> dict[str, Any]:
    return {
        "name": f"{config.name}-smoke",
        "output": None if config.output is None else f"{config.output}-smoke",
        "train.batch_size": batch,
        "train.eval_batch_size": _IMAGES,
        "train.accumulation": accumulation,
        "optim.lr_batch_size": config.optim.lr_batch_size or config.train.batch_size,
        "data.workers": min(config.data.workers, 1),
        "checkpoint.keep": 1,
        "tracking.wandb": "disabled",
        "tracking.log_every": 1,
    }


def _images(config: Config, info: DataInfo) -> dict[str, Any]:
    """Smaller images of files, if the network takes them."""
    if config.data.name not in ("image_folder", "noise") or info.image_size <= _SIDE:
        return {}
    try:
        build_meta_model(config.model, classes=info.classes, channels=info.channels, image_size=_SIDE)
    except UserError:
        return {}
    return {"data.image_size": _SIDE, **(_folder_sizes(config.data) if config.data.name == "image_folder" else {})}


def _folder_sizes(data: DataConfig) -> dict[str, Any]:
    """Those beside ``data.image_size``, which becomes ``_SIDE``."""

    def side(pixels: int) -> int:
        return max(1, round(pixels * _SIDE / (data.image_size or DEFAULT_IMAGE_SIZE) / _MULTIPLE)) * _MULTIPLE

    evaluation, first = data.eval_size and side(data.eval_size), data.progressive.start_size
    values: dict[str, Any] = {"data.eval_size": evaluation, "data.resize": evaluation or _SIDE}
    return values if first is None else {**values, "data.progressive.start_size": min(side(first), _SIDE)}


def _lengths(config: Config, epoch: int, total: int, steps: int) -> dict[str, Any]:
    """Every length of the configuration as its share of ``steps``, which ``total`` steps become."""

    def share(length: Length) -> Length:
        return Length(int(length.steps(epoch, total) * steps / total + 1e-9), "steps")

    values: dict[str, Any] = {}
    for key, value in flat(config):
        if key.startswith("data.progressive.") and config.data.progressive.start_size is None:
            continue
        if isinstance(value, Length):
            values[key] = share(value)
        elif isinstance(value, list) and value and isinstance(value[0], Length):
            values[key] = [share(each) for each in value]
    values["checkpoint.every"] = Length(steps, "steps")
    if "scheduler.decay_every" in values:
        values["scheduler.decay_every"] = max(values["scheduler.decay_every"], Length(1, "steps"), key=lambda each: each.value)
    return values | _update_lengths(config, values)


def _update_lengths(config: Config, values: dict[str, Any]) -> dict[str, Any]:
    if config.sparsity.update.interval is None:
        return {}
    values = {
        "sparsity.update.interval": Length(_INTERVAL, "steps"),
        "sparsity.update.gradient_steps": min(config.sparsity.update.gradient_steps, _INTERVAL),
        **{key: values[key] for key in ("sparsity.ramp.start", "sparsity.ramp.end") if key in values},
    }
    if "sparsity.ramp.end" in values:  # long enough for an update
        start = int(values["sparsity.ramp.start"].value) // _INTERVAL * _INTERVAL if "sparsity.ramp.start" in values else 0
        end = max(int(values["sparsity.ramp.end"].value), start + _INTERVAL)
        values["sparsity.ramp.end"] = Length(end, "steps")
    if "ast.offset" in METHODS[config.sparsity.method].uses:
        values["sparsity.ast.offset"] = Length(0, "steps")
    return values


def _forgetting(config: Config, expected: DataInfo, info: DataInfo, epochs: int) -> dict[str, Any]:
    """What is left out as its share of the set. A ranking is of the whole set: the run counts for itself, where it can."""
    forgetting = config.data.forgetting
    if not forgetting.remove:
        return {}
    ranked = forgetting.ranking is not None
    mixed = config.train.mixup or config.train.cutmix
    if ranked and (mixed or config.data.repeated_augment > 1 or config.data.bad_images == "skip"):  # which counting refuses
        return {"data.forgetting.ranking": None, "data.forgetting.epochs": 0, "data.forgetting.remove": 0}
    counted = max(1, epochs * forgetting.epochs // config.train.epochs) if forgetting.epochs or ranked else 0
    return {
        "data.forgetting.ranking": None,
        "data.forgetting.epochs": counted,
        "data.forgetting.remove": max(1, info.train_size * forgetting.remove // expected.train_size),
    }
