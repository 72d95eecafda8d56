"""Probe a run's pruning plasticity: ``python -m dist_sparse.plasticity RUN_DIR [options] [--key=value ...]``.

Prunes a checkpoint at once, in each of the ways that --probe names and at each --rate (the fraction of the active weights, or
output filters, that go), and prints the top-1 accuracy before, directly after, and after --recovery-epochs of training on with
the masks fixed. The table is saved in the run's folder under plasticity/, beside earlier ones. torchrun spreads it over ranks.

Every probe starts from the checkpoint's weights (not their average) with a fresh optimizer, sees the batches of the run's first
epochs, and trains at one constant learning rate: that of the checkpoint's moment, but no less than 1% of the run's peak.
Keys of the run's configuration can be set anew, such as --engine.device=cpu; layers that --sparsity.keep_dense names are left
as they are (--sparsity.keep_dense=last spares the classifier, whose output filters are the classes). Of several sub-nets the
sparsest is probed, or that of --subnet.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dist_sparse.arguments import Parser
from dist_sparse.command import given_words, is_first_process, speaking_once
from dist_sparse.config import Config
from dist_sparse.errors import ToldElsewhere, UserError, refuse
from dist_sparse.inputs import expand
from dist_sparse.leaving import importing, leave
from dist_sparse.loading_errors import loading_explained
from dist_sparse.run_folder import RunFolder

if TYPE_CHECKING:
    from dist_sparse.plasticity.conditions import Request

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Probe, print and save; 2 for a mistake of the user."""
    is_first = is_first_process()
    try:
        with speaking_once():
            arguments, overrides = _parser().parse_known_args(given_words(argv))
        folder = RunFolder(path=arguments.run_dir)
        config, request = folder.config(overrides), _request(arguments, folder)
    except UserError as error:  # the same on every rank
        return refuse(error, reports=is_first)
    try:
        with loading_explained():
            _probe(config, request, folder.path / "plasticity")
    except ToldElsewhere as error:
        return refuse(error, reports=False)
    except UserError as error:
        return refuse(error, reports=is_first or not error.on_all_ranks)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m dist_sparse.plasticity", description=__doc__)
    parser.add_argument("run_dir", type=expand, help="folder of a run")
    parser.add_argument("--checkpoint", default="best", help="best (the default), last, or a checkpoint file")
    parser.add_argument("--subnet", help="number of the sub-net to probe, 1 being the densest; default: the sparsest")
    parser.add_argument("--probe", default="all", help="names, separated by commas; all of them by default")
    parser.add_argument("--rate", default="0.2,0.5,0.8", help="above 0 and below 1, separated by commas; default 0.2,0.5,0.8")
    parser.add_argument("--recovery-epochs", default="1", help="epochs of training after pruning; 0 for none, default 1")
    parser.add_argument("--gradient-batches", default="1", help="batches whose mean gradient scores growth; default 1")
    parser.add_argument("--lr", help="learning rate of the recovery; default see above")
    return parser


def _request(arguments: argparse.Namespace, folder: RunFolder) -> "Request":
    with importing():
        from dist_sparse.plasticity.conditions import Request
        from dist_sparse.sparsity.plasticity import PROBES

    if arguments.probe == "all":
        arguments.probe = ",".join(PROBES)
    return Request(
        checkpoint=folder.checkpoint(arguments.checkpoint),
        subnet=None
        if arguments.subnet is None
        else _read("subnet", arguments, _at_least(1), "the number of a sub-net, from 1 on"),
        probes=_read("probe", arguments, _each(PROBES.get), f"all, or of {', '.join(PROBES)}, separated by commas"),
        rates=_read("rate", arguments, _each(_rate), "above 0 and below 1, such as 0.2,0.5"),
        recovery_epochs=_read("recovery_epochs", arguments, _at_least(0), "a whole number of 0 or more"),
        gradient_batches=_read("gradient_batches", arguments, _at_least(1), "a whole number of 1 or more"),
        learning_rate=None if arguments.lr is None else _read("lr", arguments, _learning_rate, "a number above 0"),
    )


def _probe(config: Config, request: "Request", place: Path) -> None:
    with importing():
        from dist_sparse import peers
        from dist_sparse.distributed import agreeing_on_errors
        from dist_sparse.plasticity.probing import probing
        from dist_sparse.plasticity.report import Report, heading, line

    with probing(config, request, place) as (prober, is_first), peers.watched():
        report = Report(place, prober.facts) if is_first else None
        for text in heading(prober.facts) if report else ():
            print(text, flush=True)
        for row in prober.rows():
            with agreeing_on_errors():  # or the other ranks would wait for the first at the next row
                if report:
                    report.add(row)
            if report:
                print(line(row), flush=True)
        if report:
            print("\nsaved in " + " and ".join(map(str, report.paths)))


def _read(name: str, arguments: argparse.Namespace, parse: Callable[[str], T | None], accepted: str) -> T:
    """The value of an option; a UserError that says what is ``accepted`` if ``parse`` fails or returns None."""
    text = getattr(arguments, name)
    try:
        value = parse(text)
    except (ValueError, ZeroDivisionError):
        value = None
    if value is None:
        raise UserError(f"--{name.replace('_', '-')}={text}: should be {accepted}")
    return value


def _each(parse: Callable[[str], T | None]) -> Callable[[str], tuple[T, ...] | None]:
    """Reads the parts between commas, each once; None if one of them is not understood."""

    def read(text: str) -> tuple[T, ...] | None:
        values = [parse(part.strip()) for part in text.split(",")]
        known = tuple(dict.fromkeys(value for value in values if value is not None))
        return None if None in values else known

    return read


def _at_least(least: int) -> Callable[[str], int | None]:
    return lambda text: int(text) if int(text) >= least else None


def _rate(text: str) -> Fraction | None:
    rate = Fraction(text)
    return rate if 0 < rate < 1 else None


def _learning_rate(text: str) -> float | None:
    return float(text) if 0 < float(text) < math.inf else None


if __name__ == "__main__":
    leave(main, on_all_ranks=True)
