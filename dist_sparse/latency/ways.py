"""The ways to compute a network that are measured side by side. Another one is a function here and its line in ``ALL_WAYS``."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dist_sparse.errors import UserError
from dist_sparse.export.description import Description
from dist_sparse.export.formats import FORMATS
from dist_sparse.export.loading import compute_sparsely, read_smaller
from dist_sparse.export.source import Source
from dist_sparse.export.tracing import first_line
from dist_sparse.inputs import check_file

DENSE, MASKED, SHRUNK = "dense", "masked", "shrunk"


class Unavailable(Exception):
    """A network cannot be computed in a way; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A network that computes in one way."""

    compute: Callable[[Tensor], object]
    note: str = ""
    """What is to be said of it."""


Way = Callable[[Source], Ready]
"""Raises :class:`Unavailable`."""


def dense(source: Source) -> Ready:
    """torch's kernels, of a network of the same shapes whose masked layers have random weights everywhere."""
    model, generator = copy.deepcopy(source.model), torch.Generator().manual_seed(0)
    for name in source.masks:
        weight = model.get_parameter(name).detach()
        weight.normal_(
            std=float(weight.std(correction=0)), generator=generator
        )  # so that activations stay as large as they are
    return Ready(compute=model)


def masked(source: Source) -> Ready:
    """torch's kernels, which multiply zeros too."""
    return Ready(compute=source.model)


def sparse(source: Source) -> Ready:
    """Sparse kernels wherever a layer can have them."""
    model = copy.deepcopy(source.model)
    execution = compute_sparsely(model, source)
    if execution.current is None:
        raise Unavailable(execution.reason)
    count = execution.sparse_layers(execution.current.masks)
    return Ready(compute=model, note=f"{count} of {len(source.masks)} masked layers are computed sparsely{execution.how}")


def onnx_runtime(source: Source) -> Ready:
    """The same as ``--format=onnx`` writes."""
    try:
        FORMATS["onnx"].load()
        from dist_sparse.export.formats.onnx import translate
        from dist_sparse.export.onnx_session import Session

        return Ready(compute=Session(translate(source)))
    except UserError as error:
        raise Unavailable(str(error)) from None


def shrunk(source: Source) -> Ready:
    """Dense kernels, of the network without its dead units."""
    from dist_sparse.export.formats import shrunk as smaller

    try:
        small = smaller.shrunk(source)
    except UserError as error:
        raise Unavailable(str(error)) from None
    report = small.report
    parameters, flops = report.parameters_after / report.parameters_before, report.flops_after / report.flops_before
    return Ready(compute=small.model, note=f"{parameters:.0%} of the parameters and {flops:.0%} of the FLOPs are left")


ALL_WAYS: Mapping[str, Way] = {
    DENSE: dense,
    MASKED: masked,
    "sparse kernels": sparse,
    SHRUNK: shrunk,
    "ONNX Runtime": onnx_runtime,
}


def shrunk_file(path: Path) -> tuple[Ready, Description]:
    """A shrunk network and the description of its original.

    Raises:
        UserError: it is not a sound one.
    """
    model, about = read_smaller(path)
    return Ready(compute=model), about


def onnx_file(path: Path) -> tuple[Ready, Description]:
    """An exported ONNX model and its description.

    Raises:
        UserError: it is not a sound one.
    """
    FORMATS["onnx"].load()
    from dist_sparse.export.onnx_session import Session

    check_file(path)
    try:
        session = Session(path)
    except Exception as error:  # of ONNX Runtime's own kinds
        raise UserError(f"{path}: not a sound ONNX model: {first_line(error)}") from None
    return Ready(compute=session), Description.from_texts(session.metadata, path)


def program_file(path: Path) -> tuple[Ready, Description]:
    """An exported program and its description.

    Raises:
        UserError: it is not a sound one.
    """
    from dist_sparse.export.formats.program import read

    computed, about = read(path)
    return Ready(compute=computed), about
