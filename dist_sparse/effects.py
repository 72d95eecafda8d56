"""Keys that are set and do nothing in a run: told once, in one line, when it is built and by ``--plan``.

Whoever reads a part of the configuration says beside its code which keys do nothing, and why, as the other keys are: a method
by its ``uses``, and the ``idle_keys`` of the schedule, the optimizer, the data, the engine and tracking. Here they are compared
with the keys that are set. That is a declaration, and not a record of what was read while the run was built: a value that is
read, passed on and then ignored by a library would pass such a record, and a key that is read late would not.

A key is set where it was typed on the command line, or its value differs from the default; a file may repeat a default. What a
method fills in by itself does not count, so that a run's own ``config.yaml`` can be used again without a word.
"""

import fnmatch
import logging
from collections.abc import Collection, Iterator

from dist_sparse.config import Config, with_values
from dist_sparse.config.tree import flat
from dist_sparse.data.idle import idle_keys as idle_in_data
from dist_sparse.engines.build import idle_keys as idle_in_engine
from dist_sparse.errors import UserError
from dist_sparse.executing import idle_keys as idle_in_execution
from dist_sparse.optim.optimizer import idle_keys as idle_in_optim
from dist_sparse.optim.regularise import idle_keys as idle_in_train
from dist_sparse.optim.scheduler import idle_keys as idle_in_scheduler
from dist_sparse.sparsity.methods.resolve import idle_keys as idle_in_sparsity
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.tracking.wandb_run import idle_keys as idle_in_tracking

_log = logging.getLogger(__name__)


def warn_of_idle(config: Config, world_size: int, typed: Collection[str] = ()) -> None:
    """Name the keys without effect and why, in one warning, if there are any.

    Args:
        config: as the user gave it, not resolved.
        typed: keys of the command line.
    """
    reasons: dict[str, list[str]] = {}
    for key, reason in idle_keys(config, world_size, typed).items():
        reasons.setdefault(reason, []).append(key)
    if reasons:
        told = "; ".join(f"{', '.join(keys)} ({reason})" for reason, keys in reasons.items())
        _log.warning("without effect in this run: %s", told)


def idle_keys(config: Config, world_size: int, typed: Collection[str] = ()) -> dict[str, str]:
    """The keys that are set and do nothing, with the first reason for each, in the order of the schema."""
    defaults = dict(flat(Config()))
    found: dict[str, str] = {}
    declared = list(_declared(config, world_size))
    for key, value in flat(config):
        if value == defaults[key] and key not in typed:
            continue
        reason = next((reason for pattern, reason in declared if fnmatch.fnmatchcase(key, pattern)), None)
        if reason is not None and (key in typed or not _filled_in(config, key, defaults[key])):
            found[key] = reason
    return found


def _declared(config: Config, world_size: int) -> Iterator[tuple[str, str]]:
    sections = {
        "data": idle_in_data(config.data),
        "train": [*idle_in_train(config.train), *_idle_on_ranks(world_size)],
        "optim": idle_in_optim(config.optim),
        "scheduler": idle_in_scheduler(config.scheduler),
        "sparsity": idle_in_sparsity(config.sparsity),
        "execution": idle_in_execution(config),
        "engine": idle_in_engine(config, world_size),
        "tracking": idle_in_tracking(config.tracking),
    }
    for section, idle in sections.items():
        for name, reason in idle:
            yield f"{section}.{name}", reason


def _idle_on_ranks(world_size: int) -> Iterator[tuple[str, str]]:
    if world_size == 1:
        yield "sync_batch_norm", "there is one rank"


def _filled_in(config: Config, key: str, default: object) -> bool:
    """The method gives the key its value where the user leaves it out."""
    if not key.startswith("sparsity."):
        return False
    try:
        resolved = resolve(with_values(config, {key: default}).sparsity)
    except UserError:
        return False
    return dict(flat(resolved, "sparsity."))[key] == dict(flat(config))[key]
