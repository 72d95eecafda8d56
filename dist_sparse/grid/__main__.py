"""Make and read grid files: the arguments of one run on each line, for slurm/array.sbatch or any other list of runs.

  python -m dist_sparse.grid make --config=configs/digits/rigl.yaml,configs/digits/gmp.yaml sparsity.density=0.2,0.1 seed=1,2
  python -m dist_sparse.grid count FILE
  python -m dist_sparse.grid show FILE 3

make combines lists of values, those of the last key varying fastest, and gives every run a name. Any key of
`python -m dist_sparse.train --help` may be listed, and --config as well, for methods whose keys differ. A comma in brackets
does not separate: optim.kwargs.betas=[0.9,0.95],[0.9,0.999] are two values. Every run is checked before anything is written.

Empty lines of a grid file and those that begin with # do not count. Run K, counted from 1, is index K of a Slurm array.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dist_sparse.arguments import Parser
from dist_sparse.errors import UserError, refuse
from dist_sparse.files import write_output
from dist_sparse.grid.gridfile import GridRun, format_grid, read_grid
from dist_sparse.inputs import expand
from dist_sparse.leaving import importing, leave


def main(argv: Sequence[str] | None = None) -> int:
    """Make a grid file, or print what is asked of one; 2 for a mistake of the user."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments, rest = _parser().parse_known_args(words)
        if arguments.command == "make":
            _make(words, rest, arguments.output)
            return 0
        if rest:
            raise UserError(f"{rest[0]!r} is not understood; --help tells what is")
        runs = read_grid(arguments.file)
        if arguments.command == "count":
            print(len(runs))
        else:
            run = _run(runs, arguments.index, arguments.file)
            print("\n".join(run.arguments if arguments.into is None else run.in_folder(arguments.into)))
    except UserError as error:
        return refuse(error)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m dist_sparse.grid", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="make|count|show")
    make = commands.add_parser(
        "make",
        help="make a grid file from lists of values",
        usage="python -m dist_sparse.grid make [--output=FILE] [--config=FILE,FILE,...] [KEY=VALUE,VALUE,... ...]",
    )
    make.add_argument("--output", type=expand, metavar="FILE", help="the grid file; default: the screen")
    count = commands.add_parser("count", help="print the number of runs")
    show = commands.add_parser("show", help="print the arguments of one run, one on a line")
    for command in (count, show):
        command.add_argument("file", type=expand, metavar="FILE", help="a grid file")
    show.add_argument("index", metavar="K", help="number of the run, from 1 on")
    show.add_argument(
        "--into",
        metavar="FOLDER",
        help="add --output=FOLDER/NAME and --resume=auto: a folder of the run's own, where it goes on if it was cut off",
    )
    return parser


def _make(words: Sequence[str], lists: Sequence[str], output: Path | None) -> None:
    with importing():
        from dist_sparse.grid.make import make_grid

    grid = make_grid(lists)
    count, file = len(grid.runs), shlex.quote(str(output)) if output else "THIS_FILE"
    heading = [
        shlex.join(["python", "-m", "dist_sparse.grid", *words]),
        f"{count} runs; eight at a time: sbatch --array=1-{count}%8 slurm/array.sbatch {file}",
    ]
    text = format_grid(grid.runs, heading)
    for warning in grid.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if output is None:
        sys.stdout.write(text)
        return
    write_output("--output", output, text.encode())
    print(f"{output}: {count} runs")


def _run(runs: Sequence[GridRun], index: str, file: Path) -> GridRun:
    number = int(index) if re.fullmatch("[0-9]{1,9}", index) else 0
    if not 1 <= number <= len(runs):
        raise UserError(f"{index}: no such run; {file} holds runs 1 to {len(runs)}")
    return runs[number - 1]


if __name__ == "__main__":
    leave(main)
