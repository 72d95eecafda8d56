"""A process that has imported everything once and forks off training commands: ``python -m tests.faults.server SOCKET``.

Each connection is one command: its request comes as JSON, its process id goes back at once, and its exit code at its end
(that of a signal negative). The command runs as ``python -m dist_sparse.train`` would, in a session and process group of its
own, and ends by Python's own exit.
"""

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from typing import Any, NoReturn

_IMPORTED = (
    "torch", "torch.distributed", "torch.nn.parallel", "timm", "timm.optim", "timm.scheduler", "tqdm",
    "dist_sparse.run", "dist_sparse.build", "dist_sparse.config.help", "torch._dynamo", "torch.utils.flop_counter",
    "tests.faults.planted",
)  # fmt: skip


def serve(address: str) -> dict[str, Any]:
    """Answer requests for ever; returns, with its request, in each process that is to run a command."""
    for name in _IMPORTED:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for the commands need nobody to wait for them
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            request = json.loads(connection.makefile().readline())
            if (child := os.fork()) == 0:
                connection.close()
                return request
            _wait_for(child, connection)
        connection.close()


def _wait_for(child: int, connection: socket.socket) -> NoReturn:
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def run(request: dict[str, Any]) -> None:
    """Become the command: ``arguments``, ``environment``, a ``log`` for what it says, and the ``faults`` that it is to meet."""
    os.setsid()
    for number, suffix in ((1, "out"), (2, "err")):
        file = os.open(f"{request['log']}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(request["environment"])
    sys.argv = ["train", *request["arguments"]]
    from tests.faults.planted import plant

    for name, values in request["faults"].items():
        plant(name, **values)
    runpy.run_module("dist_sparse.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run(serve(sys.argv[1]))
