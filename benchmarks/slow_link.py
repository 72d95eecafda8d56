"""A slow network on one machine: two network namespaces, joined by a pair of virtual interfaces whose rate is limited.

Needs Linux, root, and the commands ``ip`` and ``tc`` (Debian: iproute2). The addresses are of the range for documentation
(RFC 5737) and exist inside the namespaces only; the machine's own network is left as it is.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

_INTERFACE = "slow"
_ADDRESSES = ("192.0.2.1", "192.0.2.2")


@dataclass(frozen=True)
class End:
    """One end of the link."""

    namespace: str
    address: str

    @property
    def prefix(self) -> list[str]:
        """What a command begins with that is to run here."""
        return ["ip", "netns", "exec", self.namespace]

    @property
    def environment(self) -> dict[str, str]:
        """Makes gloo use the link."""
        return {"GLOO_SOCKET_IFNAME": _INTERFACE}


@contextlib.contextmanager
def slow_link(rate: str) -> Iterator[tuple[End, End]]:
    """Two ends with a link of ``rate`` (as tc reads it, such as ``1gbit``) between them, taken down whatever happens within.

    Raises:
        SystemExit: not root, or a command is missing.
    """
    if os.geteuid() or not all(map(shutil.which, ("ip", "tc"))):
        raise SystemExit("a link of a given rate needs root and the commands ip and tc (Debian: iproute2)")
    first, second = (End(f"slow_link_{os.getpid()}_{number}", address) for number, address in enumerate(_ADDRESSES))
    with contextlib.ExitStack() as undo:
        before = signal.signal(signal.SIGTERM, lambda *_: exit(143))  # which unwinds the stack, as Ctrl-C does
        undo.callback(signal.signal, signal.SIGTERM, before)
        for end in (first, second):
            _run("ip", "netns", "add", end.namespace)
            undo.callback(_run, "ip", "netns", "delete", end.namespace)  # its interface goes with it
        peer = ("peer", "name", _INTERFACE, "netns", second.namespace)
        _run("ip", "-n", first.namespace, "link", "add", _INTERFACE, "type", "veth", *peer)
        for end in (first, second):
            _run("ip", "-n", end.namespace, "address", "add", f"{end.address}/30", "dev", _INTERFACE)
            for interface in ("lo", _INTERFACE):
                _run("ip", "-n", end.namespace, "link", "set", interface, "up")
            limit = ("tbf", "rate", rate, "burst", "256kb", "latency", "50ms")
            _run("tc", "-n", end.namespace, "qdisc", "add", "dev", _INTERFACE, "root", *limit)
        yield first, second


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
