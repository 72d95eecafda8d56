"""What tells a process from others that have had its number: when it began, and in which boot of the machine."""

import contextlib
from pathlib import Path


def boot() -> str | None:
    """The kernel's name of this boot; None where it cannot be read."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None if there is none, or its parent has only to hear of its end yet."""
    with contextlib.suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    return None
