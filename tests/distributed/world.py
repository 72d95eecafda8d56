"""Worlds of ranks that live as long as the test session, so that a test on several processes costs no start of any.

A world is a gloo group of processes. Each of them waits for a function and its arguments, runs it, and sends back the result
or the traceback. The functions must be importable by name: they stand in modules of their own, without pytest.
"""

import contextlib
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import Any

from tests.command import PATIENCE
from tests.distributed.forks import forking

_GRACE = 20.0
"""Seconds for the other ranks to answer once one has failed. They need few: it leaves the group, so their collectives fail."""


class RankError(Exception):
    """A function has failed on some ranks. ``tracebacks`` holds theirs by rank, and of those that waited for them."""

    def __init__(self, tracebacks: dict[int, str]) -> None:
        super().__init__("\n".join(f"--- rank {rank}\n{text}" for rank, text in sorted(tracebacks.items())))
        self.tracebacks = tracebacks


class World:
    """One group of ``size`` ranks; its processes start at the first call, and anew at the next one after a failure."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._ranks: list[tuple[Any, connection.Connection]] = []
        self._folder = contextlib.ExitStack()

    def run(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> list[Any]:
        """``function(*arguments, **keywords)`` on every rank; returns the ranks' results in order.

        Raises:
            RankError: the function raised on some rank, or a process died.
        """
        if not self._ranks:
            self._start()
        for _, link in self._ranks:
            link.send(partial(function, *arguments, **keywords))
        answers = self._collect()
        failures = {rank: text for rank, (good, text) in answers.items() if not good}
        if failures:
            self.close()
            raise RankError(failures)
        return [answers[rank][1] for rank in range(self.size)]

    def close(self) -> None:
        """End the processes: those that still listen on their own, the others by force."""
        for _, link in self._ranks:
            link.close()
        for process, _ in self._ranks:
            process.join(_GRACE)
            if process.is_alive():
                process.kill()
                process.join()
        self._ranks = []
        self._folder.close()

    def _start(self) -> None:
        context = forking()
        # A file of its own for every group: unlike a port, nobody else can take it in between.
        rendezvous = Path(self._folder.enter_context(tempfile.TemporaryDirectory())) / "rendezvous"
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.size, str(rendezvous), theirs), daemon=True)
            process.start()
            theirs.close()
            self._ranks.append((process, ours))

    def _collect(self) -> dict[int, tuple[bool, Any]]:
        answers: dict[int, tuple[bool, Any]] = {}
        waiting = {link: rank for rank, (_, link) in enumerate(self._ranks)}
        while waiting:
            failed = not all(good for good, _ in answers.values())
            ready = connection.wait(waiting, timeout=_GRACE if failed else None)
            if not ready:
                break
            for link in [each for each in waiting if each in ready]:
                rank = waiting.pop(link)
                try:
                    answers[rank] = link.recv()
                except EOFError:
                    answers[rank] = (False, "the process has died")
        return answers


def _serve(rank: int, size: int, rendezvous: str, link: connection.Connection) -> None:
    """The life of one rank: join the group, then do what is asked until the other end of the link is closed, or it fails."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(rendezvous, size), rank=rank, world_size=size, timeout=timedelta(seconds=PATIENCE)
    )
    good = True
    with contextlib.suppress(EOFError):
        while good:
            function = link.recv()
            good, answer = _answer(function)
            link.send((good, answer))
    dist.destroy_process_group()


def _answer(function: Callable[[], Any]) -> tuple[bool, Any]:
    try:
        return True, function()
    except BaseException:
        return False, traceback.format_exc()
