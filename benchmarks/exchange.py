"""What exchanging the gradients of active weights only saves: of the exchange itself, and of a training step of ResNet-50.

Two ranks on this machine; with ``--rate`` they are joined by a link of that rate (root only, see :mod:`benchmarks.slow_link`).
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch.futures import Future, wait_all

from benchmarks import timing
from benchmarks.resnet50 import Trainee, build, start
from benchmarks.slow_link import slow_link
from dist_sparse.engines.precision import Precision
from dist_sparse.step import TrainStep

Candidates = dict[str, Callable[[], object]]


def main() -> None:
    args = _arguments()
    if "RANK" in os.environ:
        _measure(args)
    else:
        with contextlib.ExitStack() as stack:
            _run_ranks(stack, args.rate)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rate", help="of the link between the ranks, such as 1gbit; without it they use the loopback")
    parser.add_argument("--rounds", type=int, default=15, help="times each exchange is measured")
    parser.add_argument("--steps", type=int, default=7, help="times each training step is measured; 0 leaves them out")
    parser.add_argument("--density", type=float, nargs="+", default=[0.1], help="active weights over all weights")
    parser.add_argument("--batch", type=int, default=8, help="images a step and rank")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    return parser.parse_args()


def _run_ranks(stack: contextlib.ExitStack, rate: str | None) -> None:
    """This program again as two ranks, at the ends of a slow link if one is asked for."""
    ends = stack.enter_context(slow_link(rate)) if rate else ()
    common = {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "MASTER_ADDR": ends[0].address if ends else "127.0.0.1"}
    common["MASTER_PORT"] = str(_free_port())
    ranks = []
    for rank in range(2):
        command = [sys.executable, "-m", "benchmarks.exchange", *sys.argv[1:]]
        environment = {**os.environ, **common, "RANK": str(rank)}
        if ends:
            command, environment = [*ends[rank].prefix, *command], {**environment, **ends[rank].environment}
        ranks.append(stack.enter_context(_ended(subprocess.Popen(command, env=environment))))
    codes = [rank.wait() for rank in ranks]
    if any(codes):
        raise SystemExit("a rank has failed")


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _measure(args: argparse.Namespace) -> None:
    device = start("cpu")
    torch.set_num_threads(1)
    precision = Precision(device=device)
    images = torch.rand(args.batch, 3, args.size, args.size)
    labels = torch.randint(1000, (args.batch,))
    trainees = {
        "dense exchange": build("static", args.density[0], precision, keep_dense=["last"], exchange="dense"),
        **{
            f"masked, density {density:g}": build("static", density, precision, keep_dense=["last"], exchange="masked")
            for density in args.density
        },
    }
    steps = {name: _step(trainee, images, labels) for name, trainee in trainees.items()}
    for step in steps.values():
        step()  # after which DDP has filled its buckets for good
    exchanges = {name: _exchange(trainee) for name, trainee in trainees.items()}
    _print(_timed(exchanges, args.rounds).table("exchange of ResNet-50's gradients"))
    timings = timing.interleaved(exchanges, args.rounds, prepare=dist.barrier, clock=time.process_time)
    _print(timings.table("the same, processor's time of a rank"))
    if args.steps:
        _print(_timed(steps, args.steps).table(f"training step, {args.batch} images a rank at {args.size} x {args.size}"))
    shares = {name: trainee.engine.exchange for name, trainee in trainees.items() if trainee.engine.exchange}
    for name, exchange in shares.items():
        _print(f"{name}: {exchange.sent:,} of {exchange.total:,} elements ({exchange.sent / exchange.total:.3f})")
    link = f"over a link of {args.rate}" if args.rate else "over the loopback"
    _print(f"2 ranks, gloo, {link}; {timing.setting(device)}")
    dist.destroy_process_group()


def _step(trainee: Trainee, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    train_step = TrainStep(trainee.engine, trainee.method)

    def run() -> None:
        train_step.forward_backward(1, images, labels)
        train_step.optimizer_step(1)

    return run


def _exchange(trainee: Trainee) -> Callable[[], object]:
    """The exchange of one step without its backward, of the very buckets that DDP has made."""
    exchange, masks = trainee.engine.exchange, trainee.method.masks
    buckets = trainee.engine._ddp.reducer._get_zeros_like_grad_buckets()
    for bucket in buckets:
        bucket.buffer().normal_()

    def dense() -> None:
        wait_all([_all_reduce(bucket.buffer()) for bucket in buckets])

    def masked() -> None:
        assert exchange is not None
        exchange.begin(masks)
        wait_all([exchange.average(None, bucket) for bucket in buckets])

    return dense if exchange is None else masked


def _all_reduce(buffer: torch.Tensor) -> Future[list[torch.Tensor]]:
    work = dist.all_reduce(buffer.mul_(1 / dist.get_world_size()), async_op=True)
    assert work is not None, "asynchronous"
    return work.get_future()


def _timed(candidates: Candidates, rounds: int) -> timing.Timings:
    return timing.interleaved(candidates, rounds, prepare=dist.barrier)


def _print(text: str) -> None:
    if dist.get_rank() == 0:
        print(text, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
