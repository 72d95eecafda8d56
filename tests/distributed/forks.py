"""Ranks that live as under torchrun, from their variables to their exit codes, without the time that imports take."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from tests.command import PATIENCE

_PRELOAD = ["tests.distributed.preload"]


@dataclass(frozen=True)
class Ended:
    """A rank that is over."""

    pid: int | None
    code: int | None
    said: str


def forking() -> ForkServerContext:
    """A server that has imported torch once forks every process off itself."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def live(size: int, main: Callable[..., int], *arguments: Any, folder: Path) -> list[Ended]:
    """``main(*arguments)`` on every rank; the store where they meet outlives them, as torchrun's does."""
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    outputs = [folder / f"rank_{rank}.out" for rank in range(size)]
    ranks = [
        forking().Process(target=_live, args=(rank, size, store.port, output, main, arguments))
        for rank, output in enumerate(outputs)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(PATIENCE)
        rank.kill()
        rank.join()
    return [Ended(rank.pid, rank.exitcode, output.read_text()) for rank, output in zip(ranks, outputs, strict=True)]


def _live(rank: int, size: int, port: int, output: Path, main: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    os.environ.update(dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)))
    os.environ.update(dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(size)))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
    with output.open("w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(main(*arguments))
