"""Report on runs: ``python -m dist_sparse.report RUN_DIR|FOLDER... [--output=FILE] [--images] [--key=value ...]``.

Writes one HTML file that needs no network and no scripts. Of one run it shows accuracy, loss and learning rate, density and
change by layer over time, layers and FLOPs, speed and memory, accuracy by class and the configuration. Of several, or of a
folder with runs below it, it shows accuracy over density and over training FLOPs, means and deviations over seeds, and a table
of the runs. A run need not have finished. Default output: report.html in the folder, if one is given, or else here.

The classes are those of the best checkpoint on the run's validation set. Keys of the run's configuration can be set anew for
that, such as --data.root=DIR or --engine.device=cpu.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dist_sparse.arguments import Parser
from dist_sparse.errors import UserError, refuse
from dist_sparse.files import write_output
from dist_sparse.inputs import expand, is_folder, is_there
from dist_sparse.leaving import leave
from dist_sparse.report import NAME
from dist_sparse.results.runs import Run, find_runs

if TYPE_CHECKING:
    from dist_sparse.report.page import Page


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; 2 for a mistake of the user."""
    parser = Parser(prog="python -m dist_sparse.report", description=__doc__)
    parser.add_argument("folders", type=expand, nargs="+", metavar="FOLDER", help="folder of a run, or one with runs below it")
    parser.add_argument("--output", type=expand, metavar="FILE", help="the HTML file; default: see above")
    parser.add_argument("--images", action="store_true", help="write the figures as PNG files, too, into FILE's name + _images")
    parser.add_argument("--each", action="store_true", help="of several runs, write the report of each into its folder first")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    parser.add_argument("--no-evaluate", action="store_true", help="leave out the classes: no data set is read")
    try:
        arguments, overrides = parser.parse_known_args(argv)
        runs = find_runs(arguments.folders)
        single = len(runs) == 1
        _check_overrides(runs, overrides, evaluate=not arguments.no_evaluate and (single or arguments.each))
        output = arguments.output or (arguments.folders[0] / NAME if len(arguments.folders) == 1 else Path(NAME))
        _check_free(output, images=arguments.images, overwrite=arguments.overwrite)
        if not single and arguments.each:
            for run in runs:
                if arguments.overwrite or not is_there(run.path / NAME):
                    write(_single(run, overrides, evaluate=not arguments.no_evaluate), run.path / NAME, images=False)
        page = _single(runs[0], overrides, evaluate=not arguments.no_evaluate) if single else _several(runs, output)
        for line in write(page, output, images=arguments.images):
            print(line)
    except UserError as error:
        return refuse(error)
    return 0


def write(page: "Page", output: Path, *, images: bool) -> list[str]:
    """Write a report, and its figures if ``images``; returns a line about each place.

    Raises:
        UserError: a file cannot be written.
    """
    lines, folder = [str(output)], images_of(output)
    write_output("--output", output, page.html().encode())
    if images:
        for picture in page.pictures:
            write_output("--output", folder / f"{picture.name}.png", picture.png())
        lines.append(f"{folder}: {len(page.pictures)} figures")
    return lines


def images_of(output: Path) -> Path:
    """The folder of a report's figures."""
    return output.with_name(f"{output.stem}_images")


def _single(run: Run, overrides: Sequence[str], *, evaluate: bool) -> "Page":
    from dist_sparse.report.single import page_of_run

    return page_of_run(run, overrides, evaluate=evaluate)


def _several(runs: Sequence[Run], output: Path) -> "Page":
    from dist_sparse.report.several import page_of_runs

    return page_of_runs(runs, output.parent)


def _check_overrides(runs: Sequence[Run], overrides: Sequence[str], *, evaluate: bool) -> None:
    """Refuse words that nothing would be done with, or that are no keys."""
    if overrides and not evaluate:
        raise UserError(f"{overrides[0]}: is for the evaluation of a run, and none is made; --help tells what is accepted")
    if overrides:
        from dist_sparse.run_folder import RunFolder

        RunFolder(path=runs[0].path).config(overrides)


def _check_free(output: Path, *, images: bool, overwrite: bool) -> None:
    """Refuse before the work what would be overwritten, or cannot be written."""
    if is_folder(output):
        raise UserError(f"--output={output} is a folder: give the name of a file, such as {output / NAME}")
    for path in (output, images_of(output)) if images else (output,):
        if is_there(path) and not overwrite:
            raise UserError(f"{path} is there already: --overwrite replaces it, --output=FILE writes another")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output.parent).close()  # a folder that is there may still not be one to write to
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    leave(main)
