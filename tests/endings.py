"""Real processes, watched from outside until the last of their descendants is gone."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.command import PATIENCE, ROOT

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
PROMPTLY = 8.0
"""Seconds from a run's last message to the end of all its processes, on a machine that has nothing else to do.

torch's loaders look every five seconds whether the process that they load for is still there, and the kernel brings its counts
of waiting up to date every two.
"""


_SHORT_OF = ("cpu", "io", "memory")


def waiting() -> tuple[float, ...]:
    """Seconds since the machine's start in which some process waited for a core, for a disk, and for memory.

    They are 0 where the kernel does not count them.
    """
    files = [Path("/proc/pressure") / resource for resource in _SHORT_OF]
    return tuple(int(file.read_text().partition("total=")[2].split()[0]) / 1e6 if file.exists() else 0.0 for file in files)


@dataclass
class Watched:
    """A command with all that it starts, known by an environment variable of its own."""

    process: subprocess.Popen[str]
    mark: str
    said: str = ""
    last_word: float = field(default_factory=time.monotonic)
    starved: tuple[float, ...] = field(default_factory=waiting)
    silence: float = 0.0
    """Seconds between the last word and the end of the last process, once it is over."""
    idle: float = 0.0
    """Those of them in which the machine had for everybody what it was shortest of."""

    @property
    def ended_promptly(self) -> bool:
        return self.idle < PROMPTLY and self.silence < PATIENCE

    def until(self, beginning: str) -> "Watched":
        """Read up to the first line that begins like this, which must come."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._hear(line)
            if line.startswith(beginning):
                return self
        raise AssertionError(f"{beginning!r} never came:\n{self.said}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """The exit code, once nothing is left of it: output ends when its last holder has."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._hear(line)
        code = self.process.wait()
        self.silence = time.monotonic() - self.last_word
        self.idle = self.silence - max(now - before for now, before in zip(waiting(), self.starved, strict=True))
        assert not self.left(), self.said
        return code

    def left(self) -> list[int]:
        """Process ids of what is still there."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_ours(pid)]  # noqa: PTH208

    def children(self) -> list[int]:
        return [pid for pid in self.left() if pid != self.process.pid]

    def kill(self) -> None:
        for pid in self.left():
            os.kill(pid, 9)
        self.process.wait()

    def _hear(self, line: str) -> None:
        self.said += line
        self.last_word, self.starved = time.monotonic(), waiting()

    def _is_ours(self, pid: int) -> bool:
        try:
            return self.mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False


def watch(command: Sequence[str], *, cwd: Path = ROOT, prefix: Sequence[str] = ()) -> Watched:
    """Start Python with these words (behind ``prefix``, another command) in a session of its own."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WATCHED_BY_TEST": mark}
    process = subprocess.Popen(
        [*prefix, sys.executable, "-u", *command],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return Watched(process, mark)
