"""Training commands in processes of their own, on one rank or on several, as torchrun would start and end them."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT = 150.0
"""Seconds for a command that takes three when nothing else runs: one that takes longer hangs."""
GRACE = 30.0
"""Seconds from torchrun's SIGTERM to its SIGKILL, and for what a command leaves running to go."""


class Server:
    """A :mod:`tests.faults.server`; it ends with the context."""

    def __init__(self, *, hash_seed: int = 0) -> None:
        self._hash_seed, self._folder = hash_seed, contextlib.ExitStack()

    def __enter__(self) -> "Server":
        self.address = f"{self._folder.enter_context(tempfile.TemporaryDirectory())}/socket"
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline",
            "PYTHONHASHSEED": str(self._hash_seed),
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.faults.server", self.address]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        return self

    def ready(self) -> None:
        """Wait until it can fork."""
        assert self._process.stdout is not None
        if self._process.poll() is None and not Path(self.address).exists():
            assert self._process.stdout.readline() == "ready\n", "the server has not come up"

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.close()

    def start(self, request: dict[str, Any]) -> "Child":
        self.ready()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        connection.sendall(json.dumps(request).encode() + b"\n")
        return Child(connection, request["log"])


class Child:
    """One process that runs the command."""

    def __init__(self, connection: socket.socket, log: str) -> None:
        self._connection, self._answers, self._log = connection, connection.makefile("rb", buffering=0), log
        self.pid = int(self._answers.readline())
        self.code: int | None = None

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None if it still runs after so many seconds."""
        if self.code is None:
            ready, _, _ = select.select([self._connection], [], [], seconds)
            if ready:
                self.code = int(self._answers.readline())
        return self.code

    def send(self, number: int) -> None:
        """A signal to the process and to all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @property
    def left_running(self) -> bool:
        """Something of its process group is still alive."""
        return any(_group(entry) == self.pid for entry in Path("/proc").iterdir() if entry.name.isdecimal())

    @property
    def out(self) -> str:
        return self._said("out")

    @property
    def err(self) -> str:
        return self._said("err")

    def _said(self, stream: str) -> str:
        """Nothing, of a process that was killed before it could open its file."""
        file = Path(f"{self._log}.{stream}")
        return file.read_text(errors="replace") if file.exists() else ""


def _group(process: Path) -> int | None:
    """The process group of a process that is no zombie."""
    try:
        state, _, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
    except (OSError, ValueError):
        return None
    return int(group) if state not in "ZX" else None


@dataclass
class Ended:
    """How a start of the command ended."""

    codes: list[int]
    out: str
    err: str
    seconds: float
    struck: bool = False
    """A signal from outside or inside has ended some rank, and the others may say so."""
    findings: list[str] = field(default_factory=list)
    """What may not be, whatever happened: a hang, a process left behind."""

    @property
    def code(self) -> int:
        """That of the first rank that failed, as torchrun sees it."""
        return next((code for code in self.codes if code), 0)

    @property
    def errors(self) -> list[str]:
        return re.findall(r"^error: (.*)", self.err, re.MULTILINE)

    @property
    def warnings(self) -> list[str]:
        return re.findall(r"^WARNING: (.*)", self.err, re.MULTILINE)

    @property
    def tracebacks(self) -> int:
        return self.err.count("Traceback (most recent call last)")


class Start:
    """One start of the command on some ranks. Leaving the context ends what still runs."""

    def __init__(
        self, server: Server, arguments: Sequence[str], ranks: int, log: Path, faults: dict[int, dict[str, Any]] | None = None
    ) -> None:
        self._began, self.children, self._store = time.monotonic(), [], None
        environments: list[dict[str, str]] = [{}]
        if ranks > 1:
            import torch.distributed as dist

            # As torchrun does: the store is the launcher's, so that no rank has to win a port.
            self._store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            environments = [_environment(rank, ranks, self._store.port) for rank in range(ranks)]
        for rank, environment in enumerate(environments):
            request = {
                "arguments": list(arguments), "environment": environment, "log": f"{log}.{rank}",
                "faults": (faults or {}).get(rank, {}),
            }  # fmt: skip
            self.children.append(server.start(request))

    def __enter__(self) -> "Start":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.send(signal.SIGKILL)
            child.wait(GRACE)

    def end(self, limit: float = LIMIT) -> Ended:
        """Wait for all ranks; once one has failed the others are asked to stop, and killed if they do not."""
        findings, deadline, failed = [], time.monotonic() + limit, False
        while any(child.code is None for child in self.children):
            for child in self.children:
                child.wait(0.02)
            if not failed and any(child.code for child in self.children):
                failed, deadline = True, min(deadline, time.monotonic() + GRACE)
                self._ask_to_stop()
            if time.monotonic() > deadline:
                running = [rank for rank, child in enumerate(self.children) if child.code is None]
                findings.append(f"hang: ranks {running} do not end{' although another has' if failed else ''}")
                for child in self.children:
                    child.send(signal.SIGKILL)
                    child.wait(GRACE)
        if any(not _gone(child) for child in self.children):
            findings.append("left processes running")
        codes = [child.code if child.code is not None else -1 for child in self.children]
        out, err = ("".join(getattr(child, stream) for child in self.children) for stream in ("out", "err"))
        struck = any(code < 0 for code in codes)
        return Ended(codes, out, err, time.monotonic() - self._began, struck, findings)

    def _ask_to_stop(self) -> None:
        for child in self.children:
            if child.code is None:
                child.send(signal.SIGTERM)


def _gone(child: Child) -> bool:
    until = time.monotonic() + GRACE
    while child.left_running:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    fixed = {"MASTER_ADDR": "localhost", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    return {**{name: str(value) for name, value in values.items()}, **fixed}


@contextlib.contextmanager
def servers(number: int) -> Iterator[list[Server]]:
    """So many servers, which order their sets in different ways; they come up side by side."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(Server(hash_seed=seed)) for seed in range(number)]
        for server in started:
            server.ready()
        yield started
