"""What is to be measured, and the table of it."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch

from dist_sparse.errors import UserError
from dist_sparse.export.description import Description
from dist_sparse.export.formats import FORMATS
from dist_sparse.export.loading import read_source
from dist_sparse.export.source import Source, networks, random_images
from dist_sparse.export.timing import Latency, latencies
from dist_sparse.inputs import check_file, is_folder
from dist_sparse.latency.ways import ALL_WAYS, DENSE, SHRUNK, Ready, Unavailable, onnx_file, program_file, shrunk_file
from dist_sparse.run_folder import RunFolder
from dist_sparse.shrinking import is_shrunk

_ROW = "{:>5}  {:<16} {:>10} {:>21} {:>8}"


def report(
    path: Path, batches: Iterable[int], *, subnet: str | None, checkpoint: str, rounds: int, threads: int | None
) -> Iterator[str]:
    """The lines of a report about what lies at a path.

    Args:
        subnet: of a run's folder, the number; None for the sparsest.
        threads: None for as many as torch takes.

    Raises:
        UserError: it cannot be read, or is nothing that can be measured.
    """
    with _threads(threads):
        about, ready, notes = _open(path, subnet, checkpoint)
        image = "x".join(map(str, (about.channels, about.image_size, about.image_size)))
        count = torch.get_num_threads()
        yield f"{about.model}, images {image}, density {about.density:.2%}, {count} thread{'s' if count > 1 else ''} of the CPU"
        yield _ROW.format("batch", "computed by", "median ms", "quartiles", "/ dense")
        for batch in batches:
            yield from _rows(batch, _measured(about, ready, batch, rounds))
        yield from notes


def _open(path: Path, subnet: str | None, checkpoint: str) -> tuple[Description, dict[str, Ready], list[str]]:
    if is_folder(path):
        held = networks(RunFolder(path=path).checkpoint(checkpoint), path, subnet or "all")
        return _each_way(held.source(max(held.stored)))
    check_file(path, kind="run's folder or exported file")
    if is_shrunk(path):
        ready, about = shrunk_file(path)
        return about, {SHRUNK: ready}, []
    if path.suffix == ".safetensors":
        return _each_way(read_source(path))
    if path.suffix == FORMATS["onnx"].suffix:
        ready, about = onnx_file(path)
        return about, {"ONNX Runtime": ready}, []
    if path.suffix == FORMATS["program"].suffix:
        ready, about = program_file(path)
        return about, {"exported program": ready}, []
    raise UserError(f"{path}: should be the folder of a run, or an exported file (.safetensors, .onnx, .pt2)")


def _each_way(source: Source) -> tuple[Description, dict[str, Ready], list[str]]:
    ready, notes = {}, []
    for name, way in ALL_WAYS.items():
        try:
            ready[name] = way(source)
        except Unavailable as error:
            notes.append(f"{name}: not measured: {error}")
    return source.about, ready, [*(f"{name}: {each.note}" for name, each in ready.items() if each.note), *notes]


def _measured(about: Description, ready: Mapping[str, Ready], batch: int, rounds: int) -> Mapping[str, Latency]:
    images = random_images(about, batch)
    with torch.no_grad():
        return latencies({name: partial(each.compute, images) for name, each in ready.items()}, rounds)


def _rows(batch: int, measured: Mapping[str, Latency]) -> Iterator[str]:
    for name, each in measured.items():
        against = f"{each.median / measured[DENSE].median:.2f}" if DENSE in measured else ""
        quartiles = f"{1e3 * each.lower:.2f} to {1e3 * each.upper:.2f}"
        yield _ROW.format(batch, name, f"{1e3 * each.median:.2f}", quartiles, against).rstrip()


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch compute with so many threads within the block."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
