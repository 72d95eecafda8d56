"""Evaluate a run: ``python -m dist_sparse.evaluate RUN_DIR [--checkpoint=best|last|FILE] [--key=value ...]``.

Prints top-1, top-5, loss, density and FLOPs of a checkpoint: of every sub-net if it has several, and of its averaged weights
where it has them. Keys of the run's configuration can be set anew, such as ``--data.root=DIR``, ``--engine.device=cpu`` or
``--train.eval_batch_size=64``. torchrun spreads it over ranks.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_sparse.arguments import Parser
from dist_sparse.command import given_words, is_first_process, speaking_once
from dist_sparse.config import Config
from dist_sparse.config.data import ForgettingConfig, ProgressiveConfig
from dist_sparse.config.engine import EngineConfig
from dist_sparse.errors import ToldElsewhere, UserError, refuse
from dist_sparse.inputs import expand
from dist_sparse.leaving import importing, leave
from dist_sparse.loading_errors import loading_explained
from dist_sparse.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

    from dist_sparse.data.batch import Data
    from dist_sparse.distributed import Ranks
    from dist_sparse.engines.precision import Precision
    from dist_sparse.execution.execution import Execution


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate and print; 2 for a mistake of the user."""
    parser = Parser(prog="python -m dist_sparse.evaluate", description=__doc__)
    parser.add_argument("run_dir", type=expand, help="folder of a run")
    parser.add_argument("--checkpoint", default="best", help="best (the default), last, or a checkpoint file")
    is_first = is_first_process()
    try:
        with speaking_once():
            arguments, overrides = parser.parse_known_args(given_words(argv))
        folder = RunFolder(path=arguments.run_dir)
        config, checkpoint = folder.config(overrides), folder.checkpoint(arguments.checkpoint)
    except UserError as error:  # the same on every rank
        return refuse(error, reports=is_first)
    try:
        lines = evaluate(config, checkpoint)
    except ToldElsewhere as error:
        return refuse(error, reports=False)
    except UserError as error:
        return refuse(error, reports=is_first or not error.on_all_ranks)
    if is_first:
        print("\n".join(lines))
    return 0


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A checkpoint's ``state``, the data set that it was trained on, and its model, whose weights are still to come."""

    state: dict[str, Any]
    data: "Data"
    precision: "Precision"
    model: "nn.Module"
    execution: "Execution"


@contextlib.contextmanager
def opened(config: Config, path: Path) -> Iterator[Opened]:
    """The checkpoint at ``path``, to be evaluated on the validation set of ``config`` within the context. Collective.

    Raises:
        UserError: it cannot be read, or does not go with the data set or the model of ``config``.
        Incomplete: another rank, or a process that loads images, has died.
    """
    with importing():
        from dist_sparse import distributed
        from dist_sparse.build import load_data, load_model, load_precision
        from dist_sparse.checkpoint_content import check_networks
        from dist_sparse.data.identity import check_classes, check_same_on_all_ranks
        from dist_sparse.executing import execution_to_evaluate
        from dist_sparse.stored import read_checkpoint

    with _group(config.engine) as ranks, contextlib.ExitStack() as closing:
        with distributed.agreeing_on_errors():
            state = read_checkpoint(path)
            check_networks(state, path)
            data = closing.enter_context(contextlib.closing(load_data(_without_training(config, ranks.world_size), ranks)))
            precision = load_precision(config, ranks)
            check_classes(state["data"], dataclasses.asdict(data.info))
            model = load_model(config, data.info, precision)
        check_same_on_all_ranks(dataclasses.asdict(data.info))
        execution = execution_to_evaluate(config, model, state, precision=precision, info=data.info)
        yield Opened(state=state, data=data, precision=precision, model=model, execution=execution)


@contextlib.contextmanager
def _group(config: EngineConfig) -> Iterator["Ranks"]:
    """The ranks, of which each learns what has become of another that fails within the context. Collective."""
    from dist_sparse import distributed, peers

    ranks = distributed.start(config)
    try:
        with peers.watched(), loading_explained():
            yield ranks
    except BaseException:
        distributed.stop(failed=True)
        raise
    distributed.stop()


def _without_training(config: Config, ranks: int) -> Config:
    """The configuration with nothing that a data set could be refused for on account of its training images alone.

    Raises:
        UserError: fewer images than ranks.
    """
    if config.data.limit is not None and config.data.limit < ranks:
        raise UserError(f"data.limit={config.data.limit} should be at least {ranks}, one image for each of the ranks")
    train = dataclasses.replace(config.train, batch_size=ranks, accumulation=1)
    data = dataclasses.replace(config.data, forgetting=ForgettingConfig(), progressive=ProgressiveConfig())
    return dataclasses.replace(config, train=train, data=data)


def evaluate(config: Config, path: Path) -> list[str]:
    """Validate the checkpoint at ``path`` on the validation set of ``config``; returns the lines to print. Collective."""
    with importing():
        from dist_sparse import distributed
        from dist_sparse.networks import networks_of
        from dist_sparse.stored import load_weights, step_of
        from dist_sparse.validation import validate

    with opened(config, path) as it:
        info = it.data.info
        image = (info.channels, info.image_size, info.image_size)
        lines, costs = [f"checkpoint        {path} (step {step_of(it.state, path)})"], []
        for averaged in (False, True) if it.state.get("state_dict_ema") is not None else (False,):
            for network in networks_of(it.state, averaged=averaged):
                with distributed.agreeing_on_errors():
                    load_weights(it.model, network.weights, path)
                it.execution.use_packed(network.masks)
                scores = validate(it.model, it.data.val, it.precision)
                label = "averaged weights" if averaged else network.label or "weights"
                lines.append(f"{label:<18}top-1 {scores['top1']:.2%}  top-5 {scores['top5']:.2%}  loss {scores['loss']:.4f}")
                costs = _costs(it.model, image, network.active, config)
                if network.label:
                    lines, costs = [*lines, *(f"  {line}" for line in costs)], []
        return [*lines, *costs]


def _costs(model: Any, image: tuple[int, int, int], active: dict[str, int], config: Config) -> list[str]:
    from dist_sparse.cost import measure

    cost = measure(model, image, active, config.sparsity.structure)
    masked = sum(row.weights for row in cost.rows if row.name in active)
    density = sum(active.values()) / masked if active else 1.0
    return [
        f"density           {density:.2%} of the sparse layers",
        f"parameters        {cost.active_parameters:,} of {cost.parameters:,} ({cost.active_parameters / cost.parameters:.2%})",
        f"FLOPs             {cost.flops:,.0f} of {cost.dense_flops:,.0f} ({cost.flops / cost.dense_flops:.2%}) an image",
    ]


if __name__ == "__main__":
    leave(main, on_all_ranks=True)
