"""Evaluate a run: ``python -m dist_sparse.evaluate RUN_DIR [--checkpoint=best|last|FILE] [--key=value ...]``.

Prints top-1, top-5, loss, density and FLOPs of a checkpoint, and of its averaged weights where it has them. Keys of the run's
configuration can be set anew, such as ``--data.root=DIR``, ``--engine.device=cpu`` or ``--train.eval_batch_size=64``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dist_sparse.config import Config, load_config, with_values
from dist_sparse.errors import EXIT_USER_ERROR, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate and print; 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(
        prog="python -m dist_sparse.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, help="folder of a run")
    parser.add_argument("--checkpoint", default="best", help="best (the default), last, or a checkpoint file")
    arguments, overrides = parser.parse_known_args(argv)
    try:
        config = _run_config(arguments.run_dir, overrides)
        for line in evaluate(config, _checkpoint_path(arguments.run_dir, arguments.checkpoint)):
            print(line)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def evaluate(config: Config, path: Path) -> list[str]:
    """Validate the checkpoint at ``path`` on the validation set of ``config``; returns the lines to print."""
    from dist_sparse import distributed
    from dist_sparse.build import load_data, load_model, load_precision
    from dist_sparse.checkpoint import CheckpointStore, check_whole
    from dist_sparse.cost import measure
    from dist_sparse.sparsity.bits import popcount
    from dist_sparse.validation import validate

    state = CheckpointStore.load(path)
    check_whole(state, path)
    ranks = distributed.start(config.engine)
    try:
        data, precision = load_data(config, ranks), load_precision(config, ranks)
        model = load_model(config, data.info, precision)
        lines = [f"checkpoint        {path} (step {state['progress']['step']})"]
        for label, key in (("", "state_dict"), ("averaged ", "state_dict_ema")):
            if state[key] is not None:
                _load_weights(model, state[key], path)
                scores = validate(model, data.val, precision)
                lines.append(
                    f"{label + 'weights':<18}top-1 {scores['top1']:.2%}  top-5 {scores['top5']:.2%}  loss {scores['loss']:.4f}"
                )
    finally:
        distributed.stop()
    active = {name: popcount(packed) for name, packed in state["method"]["masks"].items()}
    cost = measure(model, (data.info.channels, data.info.image_size, data.info.image_size), active, config.sparsity.structure)
    masked = sum(row.active / row.density for row in cost.rows if row.name in active)
    density = sum(active.values()) / masked if active else 1.0
    return [
        *lines,
        f"density           {density:.2%} of the sparse layers",
        f"parameters        {cost.active_parameters:,} of {cost.parameters:,} ({cost.active_parameters / cost.parameters:.2%})",
        f"FLOPs             {cost.flops:,.0f} of {cost.dense_flops:,.0f} ({cost.flops / cost.dense_flops:.2%}) an image",
    ]


def _run_config(folder: Path, overrides: Sequence[str]) -> Config:
    path = folder / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml")
    # The weights come from the checkpoint: nothing is to be downloaded.
    return with_values(load_config(str(path), overrides), {"model.pretrained": False})


def _checkpoint_path(folder: Path, which: str) -> Path:
    if which not in ("best", "last"):
        return Path(which)
    from dist_sparse.checkpoint import CheckpointStore

    store = CheckpointStore(folder / "checkpoints", keep=1)
    paths = store.paths() if which == "last" else [path for path in [store.best_path] if path.exists()]
    if not paths:
        raise UserError(f"{folder / 'checkpoints'} holds no {which} checkpoint")
    return paths[-1]


def _load_weights(model: Any, weights: dict[str, Any], path: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the run's model: {' '.join(str(error).split())}") from error


if __name__ == "__main__":
    sys.exit(main())
