"""Latency of a network: ``python -m dist_sparse.latency RUN_DIR|FILE [--batch=1,32] [--threads=N] [options]``.

Prints a table with the ways to compute it on the CPU side by side: a dense network of the same shapes; the masked one by the
same kernels, which multiply zeros as any other weight; by the sparse kernels of dist_sparse.execution; the smaller network that
is left without dead units; ONNX Runtime. Figures are the median and the quartiles of the wall-clock time of one batch. The ways
take turns.

FILE is one of ``python -m dist_sparse.export``: .safetensors is computed in all ways, .onnx by ONNX Runtime, .pt2 by torch.
"""

import argparse
from collections.abc import Sequence

from dist_sparse.arguments import Parser
from dist_sparse.errors import Incomplete, UserError, refuse
from dist_sparse.inputs import expand
from dist_sparse.leaving import leave


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 2 for a mistake of the user."""
    parser = Parser(prog="python -m dist_sparse.latency", description=__doc__)
    parser.add_argument("path", metavar="RUN_DIR|FILE", type=expand, help="folder of a run, or an exported file")
    parser.add_argument("--batch", default="1,32", help="images at once, separated by commas; default 1,32")
    parser.add_argument("--threads", help="that compute; default: as many as torch takes")
    parser.add_argument("--rounds", default="11", help="times that each way is measured, 2 or more; default 11")
    parser.add_argument("--subnet", help="of a run with several, the number, 1 being the densest; default: the sparsest")
    parser.add_argument("--checkpoint", default="best", help="of a run: best (the default), last, or a checkpoint file")
    try:
        arguments = parser.parse_args(argv)
        batches = [_number(word, "batch", arguments, least=1) for word in arguments.batch.split(",")]
        rounds = _number(arguments.rounds, "rounds", arguments, least=2)
        threads = None if arguments.threads is None else _number(arguments.threads, "threads", arguments, least=1)
        from dist_sparse.latency.measuring import report

        for line in report(
            arguments.path,
            dict.fromkeys(batches),
            subnet=arguments.subnet,
            checkpoint=arguments.checkpoint,
            rounds=rounds,
            threads=threads,
        ):
            print(line, flush=True)
    except (UserError, Incomplete) as error:
        return refuse(error)
    return 0


def _number(word: str, name: str, arguments: argparse.Namespace, *, least: int) -> int:
    number = int(word) if word.strip().isascii() and word.strip().isdecimal() else 0
    if not least <= number < 1 << 20:
        several = " separated by commas" if name == "batch" else ""
        raise UserError(f"--{name}={getattr(arguments, name)}: should be whole numbers of {least} or more{several}")
    return number


if __name__ == "__main__":
    leave(main)
