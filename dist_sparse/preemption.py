"""Stopping in good order: a signal asks, all ranks agree at a step boundary, and the run ends there with a checkpoint.

SIGUSR1 and SIGTERM (a batch system's warnings) and the first Ctrl-C only set a flag. At every step boundary the ranks start a
reduction of their flags, and read it at the next one: nobody waits for it, and no device is involved, since it runs between
the hosts on a gloo group of its own. So a signal stops all ranks at the same step, at the latest at the end of the step after
the one that it came in (with one process, at the end of that step); validation stops between two batches. What is left then
is to write one checkpoint. A second Ctrl-C stops at once, without one.

Under torchrun (torch 2.15): it hands SIGTERM and SIGINT on to the process group of each rank, waits ``--shutdown-timeout``
seconds (30 by default) and then kills. SIGUSR1 ends torchrun itself and leaves its ranks alone, unless
``--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1`` makes it hand that on, too. A second signal ends torchrun at once
while its ranks still save. It ends with 1 whatever its ranks end with; whether the run wants to be started again is told by the
file ``preempted`` in the run's folder.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from types import FrameType
from typing import Protocol, TypeVar

Item = TypeVar("Item")
_END = object()

ASKING = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class UntilAsked(Protocol):
    """Hands on items: :meth:`CommonStop.until_asked`, or ``iter`` where nobody can ask."""

    def __call__(self, items: Iterable[Item], /) -> Iterator[Item]: ...


class StopAsked(Exception):
    """The ranks have agreed to stop where they are."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")

    @property
    def preempted(self) -> bool:
        """The run wants to be started again. Not so after Ctrl-C: that is a person's wish."""
        return self.signal != signal.SIGINT


class StopSignals:
    """What this process has been asked by signals."""

    def __init__(self) -> None:
        self.asked = 0
        """The highest number among the signals that came: Ctrl-C, 2, gives way to all others. 0: none."""
        self._interrupted = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals note within the context. Only the main thread can; elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in ASKING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self.asked = max(self.asked, number)


def leave_signals_to_parent(_: int = 0) -> None:
    """For a data loader's worker process: signals to the whole process group must not end it before the last step is made."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)


class CommonStop:
    """The signals of all ranks. By itself it knows of none, and asks nobody.

    Args:
        signals: this rank's.
        world_size: with more than one, making this is collective, and so is every method.
        timeout: how long to wait for another rank.
    """

    def __init__(self, signals: StopSignals | None = None, world_size: int = 1, timeout: timedelta | None = None) -> None:
        self._signals = signals or StopSignals()
        self._group = None
        self._vote: Callable[[], tuple[int, bool]] | None = None
        if world_size > 1:
            import torch.distributed as dist

            group = dist.new_group(backend="gloo", timeout=timeout)
            assert isinstance(group, dist.ProcessGroup)
            self._group = group

    def check(self) -> None:
        """At a step boundary: raise :class:`StopAsked` on all ranks if some rank had been asked one boundary ago.

        The first call asks and waits.
        """
        vote, self._vote = self._vote or self._start_vote(), None
        number, _ = vote()
        if number:
            raise StopAsked(number)
        self._vote = self._start_vote()

    def until_asked(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items of each rank, one at a time on all of them; some may have more than others.

        Raises:
            StopAsked: some rank had been asked before its last item.
        """
        iterator, going, item = iter(items), True, None
        while going:
            item = next(iterator, _END) if item is not _END else _END
            vote = self._start_vote(going=item is not _END)
            if item is not _END:
                yield item  # pyright: ignore[reportReturnType]
            number, going = vote()
            if number:
                raise StopAsked(number)

    def __enter__(self) -> "CommonStop":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until every rank is here, unless the run has failed: torchrun ends the others when one leaves with a code."""
        if self._group is not None and kind in (None, StopAsked):
            import torch.distributed as dist

            if self._vote is not None:
                self._vote()
            dist.barrier(self._group)
            dist.destroy_process_group(self._group)

    def _start_vote(self, *, going: bool = False) -> Callable[[], tuple[int, bool]]:
        """Ask all ranks for their signal, and whether they are ``going`` on; returns what waits for the highest of each."""
        if self._group is None:
            return lambda: (self._signals.asked, going)
        import torch
        import torch.distributed as dist

        values = torch.tensor([self._signals.asked, going])
        work = dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None

        def result() -> tuple[int, bool]:
            work.wait()
            number, more = values.tolist()
            return number, bool(more)

        return result
