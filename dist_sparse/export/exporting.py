"""From a run to files."""

import dataclasses
from pathlib import Path

from dist_sparse.errors import UserError
from dist_sparse.export.formats import FORMATS, Format
from dist_sparse.export.source import Networks, Source, networks
from dist_sparse.inputs import is_folder, is_there
from dist_sparse.run_folder import RunFolder


def export(
    run: Path,
    kind: Format,
    *,
    subnet: str,
    checkpoint: str,
    output: Path | None,
    averaged: bool,
    shrink: bool,
    overwrite: bool,
) -> list[str]:
    """Write a file for each network that is chosen, without its dead units if it is to ``shrink``; returns lines about them.

    Raises:
        UserError: what is asked for cannot be had; the message says what can.
    """
    write = kind.load()
    if shrink and not kind.takes_shrunk:
        takers = " or ".join(each.name for each in FORMATS.values() if each.takes_shrunk)
        raise UserError(f"--shrink goes with --format={takers}; --format=shrunk writes a smaller network for dist_sparse.load")
    if not is_folder(run):
        raise UserError(f"{run} is not the folder of a run")
    chosen = networks(RunFolder(path=run).checkpoint(checkpoint), run, subnet, averaged=averaged)
    places, lines = _places(chosen, kind, output or run), []
    for file in (each for place in places.values() for each in kind.files(place)):
        if is_there(file) and not overwrite:
            raise UserError(f"{file} exists already; --overwrite replaces it")
    for source, file in zip(chosen.sources(), places.values(), strict=True):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            more = write(_shrunk(source) if shrink else source, file)
        except OSError as error:
            raise UserError(f"--output={output or run} cannot be written: {error.strerror or error}") from error
        facts = f"density {source.about.density:.2%} of the sparse layers, step {source.about.step}"
        lines += [f"{file}  {facts}, {file.stat().st_size / 1e6:,.2f} MB", *(f"  {line}" for line in more)]
    return lines


def _shrunk(source: Source) -> Source:
    from dist_sparse.export.formats.shrunk import shrunk

    try:
        return dataclasses.replace(source, model=shrunk(source).model)
    except UserError as error:
        raise UserError(f"--shrink: {error}; without it the network is exported as it is") from error


def _places(chosen: Networks, kind: Format, output: Path) -> dict[int, Path]:
    """The file of each network: in a folder, or what a name with the format's ending says."""
    if output.suffix != f".{kind.suffix.rpartition('.')[2]}" or is_folder(output):
        return {number: output / f"subnet{number}{kind.suffix}" for number in chosen.stored}
    if len(chosen.stored) > 1:
        raise UserError(f"--output={output} is one file for {len(chosen.stored)} networks: --subnet=N takes one, a folder all")
    return dict.fromkeys(chosen.stored, output)
