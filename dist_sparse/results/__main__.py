"""Print the results of runs: ``python -m dist_sparse.results FOLDER... [--csv=FILE] [--plot=FILE]``.

Takes all runs in the folders and below them. Those that differ in nothing but their seeds (and in where they lie and what
they report) are one row: mean and sample standard deviation of their top-1 at the end and at their best, the density
reached, and the FLOPs of inference and of training relative to dense. Rows are told apart by method, density and whatever else
differs; of image_folder another path (data.root) is another data set. Of several sub-nets the figures are the sparsest one's.
Runs that have not finished are named and not counted.
"""

from collections.abc import Sequence
from pathlib import Path

from dist_sparse.arguments import Parser
from dist_sparse.errors import UserError, refuse
from dist_sparse.files import write_output
from dist_sparse.grid import read_grid
from dist_sparse.inputs import expand
from dist_sparse.leaving import leave
from dist_sparse.results.groups import group
from dist_sparse.results.runs import find_runs
from dist_sparse.results.table import as_csv, as_text

PLOT_FORMATS = ("png", "pdf", "svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write what is asked for; 2 for a mistake of the user."""
    parser = Parser(prog="python -m dist_sparse.results", description=__doc__)
    parser.add_argument("folders", type=expand, nargs="+", metavar="FOLDER", help="folder of a run, or one with runs below it")
    parser.add_argument("--grid", type=expand, metavar="FILE", help="name the runs of this grid file that are not there, too")
    parser.add_argument("--csv", type=expand, metavar="FILE", help="write the table as CSV, in fractions, with every deviation")
    parser.add_argument(
        "--plot", type=expand, metavar="FILE", help=f"draw last top-1 against density: {', '.join(PLOT_FORMATS)}"
    )
    try:
        arguments = parser.parse_args(argv)
        report(arguments.folders, arguments.grid, arguments.csv, arguments.plot)
    except UserError as error:
        return refuse(error)
    return 0


def report(folders: Sequence[Path], grid: Path | None, csv: Path | None, plot: Path | None) -> None:
    """Print the table of the runs below the folders, and write it to the files that are given.

    Raises:
        UserError: a folder without runs, or a file that cannot be read or written.
    """
    suffix = plot.suffix.removeprefix(".").lower() if plot else ""
    if plot and suffix not in PLOT_FORMATS:
        raise UserError(f"--plot={plot}: should end in .{', .'.join(PLOT_FORMATS)}")
    wanted = [run.name for run in read_grid(grid)] if grid else []
    runs = find_runs(folders)
    groups = group(runs)
    print(as_text(groups))
    if absent := sorted(set(wanted) - {run.values["name"] for run in runs}):
        print("\n".join([f"\nnot begun, {len(absent)} of {len(wanted)} runs of {grid}:", *(f"  {name}" for name in absent)]))
    if csv:
        write_output("--csv", csv, as_csv(groups).encode())
    if plot:
        from dist_sparse.results.plot import draw

        write_output("--plot", plot, draw(groups, suffix))


if __name__ == "__main__":
    leave(main)
