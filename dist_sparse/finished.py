"""A run that has reached its last step, and what a second start there may mean: the same run, or another one by mistake.

``python -m dist_sparse.finished --output=RUN_DIR [--key=value ...]``, with the words that training would get, asks without
starting ranks: 0 for a run that is finished and is this one, 2 and one line for another one, 1 for one that is not finished.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from dist_sparse.build import resolved
from dist_sparse.checkpoint import decisive_changes
from dist_sparse.completeness import gap_of_finished
from dist_sparse.config import Config, load_config, parse_args, to_flat
from dist_sparse.errors import UserError, refuse
from dist_sparse.leaving import leave
from dist_sparse.run_folder import RunFolder

NOT_FINISHED = 1


def check_same(folder: RunFolder, config: Config) -> None:
    """Refuse with a UserError to take the finished run in ``folder`` for that of a configuration which computes another one."""
    try:
        trained = load_config(str(folder.path / "config.yaml"), [])
    except UserError:  # another version of this program has written it
        return
    changes = decisive_changes(to_flat(trained), to_flat(resolved(config)))
    if changes:
        raise UserError(
            f"{folder.path} is finished, and was trained with another {', '.join(changes)}: give the run another output "
            "(or move the old one away) to train it so, or the keys of the old one"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Tell whether the run is finished."""
    try:
        config = parse_args(sys.argv[1:] if argv is None else argv).config
        if config.output is None or not (folder := RunFolder(path=Path(config.output))).finished or gap_of_finished(folder):
            return NOT_FINISHED
        check_same(folder, config)
    except UserError as error:
        return refuse(error)
    return 0


if __name__ == "__main__":
    leave(main)
