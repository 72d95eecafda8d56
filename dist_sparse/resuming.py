"""Which checkpoint a run goes on from, and whether it can."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from dist_sparse import distributed
from dist_sparse.build import Parts
from dist_sparse.checkpoint import CheckpointStore, check_data, check_resumable, check_same_storage, check_world
from dist_sparse.checkpoint_content import check_fits, check_networks
from dist_sparse.config import Config, to_flat
from dist_sparse.data.images.resizing import as_it_was
from dist_sparse.data.normalisation import check_kept
from dist_sparse.distributed import Ranks
from dist_sparse.engines.build import capabilities_of
from dist_sparse.inputs import expand
from dist_sparse.run_folder import RunFolder
from dist_sparse.stored import check_shards

_log = logging.getLogger(__name__)


def choose_checkpoint(config: Config, folder: RunFolder, ranks: Ranks) -> Path | None:
    """The first rank chooses the checkpoint to go on from, so that no rank goes on from another one. Collective."""
    path = None
    with distributed.agreeing_on_errors():
        if ranks.is_first and (config.resume == "auto" or folder.restarted):
            found = CheckpointStore(folder.checkpoints, config.checkpoint.keep).newest(check=check_networks)
            path = None if found is None else found[0]
        if ranks.is_first and path is None and config.resume not in ("auto", "never"):
            path = expand(config.resume)
    return distributed.from_first_rank(path)


def accepted(state: dict[str, Any], path: Path, parts: Parts, folder: RunFolder) -> dict[str, Any]:
    """The state that was read from a checkpoint. It must be of the same computation; the number of ranks may have changed.

    Raises:
        UserError: it is not, or its contents cannot be gone on from.
    """
    check_state(state, path, parts)
    if "tables" not in state:
        _log.warning("%s was written by an earlier version: not all that could be wrong with it, or its run, is noticed", path)
    if path.parent.resolve() != folder.checkpoints.resolve():
        state.pop("tables", None)  # of another run's folder
    return {**state, "shards": check_shards(path, state)}


def check_state(state: dict[str, Any], path: Path, parts: Parts) -> None:
    """Refuse with a UserError the state of another computation, or one that makes no sense; warn of what may differ."""
    check_networks(state, path)
    saved = as_it_was(state["config"], parts.config.data)
    check_kept(saved, parts.config.data)
    unknown = check_data(state["data"], dataclasses.asdict(parts.data.info))
    changes = check_resumable(saved, to_flat(parts.config))
    check_same_storage(saved, to_flat(parts.config), capabilities_of(parts.config.engine))
    check_fits(
        state,
        path,
        model=parts.model,
        optimizer=parts.optimizer,
        averaged=parts.config.train.ema is not None,
        total_steps=parts.clock.total,
    )
    ranks = check_world(state["world_size"], parts.ranks.world_size, capabilities_of(parts.config.engine))
    for warning in (*unknown, *changes, *ranks):
        _log.warning(warning)
