"""All checks in order, and what they found as a table."""

import functools
import os
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dist_sparse
from dist_sparse.doctor import machine, packages
from dist_sparse.doctor.child import found_by_child
from dist_sparse.doctor.finding import Check, Finding, look
from dist_sparse.doctor.native import CHECKS
from dist_sparse.doctor.reading import reading
from dist_sparse.tracking.provenance import git_state

_WIDTH = 120
_SYSTEM: dict[str, Check] = {
    "system": machine.system,
    "cores": machine.cores,
    "memory": machine.memory,
    "shared memory": machine.shared_memory,
    "limits": machine.open_files,
    "disk space": machine.disk_space,
    "host name": machine.host_name,
    "compilers": machine.compilers,
    "packages": packages.requirements,
}


def examine(data: Path | None = None) -> Iterator[Finding]:
    """Look at everything; ``data`` is a folder of images whose disk is measured, when nothing else runs."""
    for name, check in _SYSTEM.items():
        yield from look(name, check)
    with ThreadPoolExecutor(max(1, min(4, len(os.sched_getaffinity(0))))) as pool:
        for found in pool.map(_by_child, CHECKS):
            yield from found
    yield from look("Slurm", machine.slurm)
    yield from look("reading images", functools.partial(reading, data))


def _by_child(name: str) -> list[Finding]:
    return list(look(name, lambda: found_by_child(name, CHECKS[name][1])))


def version() -> str:
    """The version of dist_sparse, with the commit where it lies in a clone."""
    git: dict[str, Any] | None = git_state(Path(dist_sparse.__file__).parent)
    commit = f", commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}" if git else ""
    return f"dist_sparse {dist_sparse.__version__}{commit}"


def lines(finding: Finding) -> str:
    """A finding for the screen, with its advice beneath it."""
    mark = "      " if finding.status == "ok" else f"{finding.status:<6}"
    indent = " " * 30
    text = textwrap.fill(f"{mark}  {finding.name:<20}  {finding.text}", _WIDTH, subsequent_indent=indent)
    if not finding.advice:
        return text
    return text + "\n" + textwrap.fill(finding.advice, _WIDTH, initial_indent=indent + "-> ", subsequent_indent=indent + "   ")


def verdict(found: Sequence[Finding]) -> str:
    """The last line."""
    broken, slow = ([each.name for each in found if each.status == status] for status in ("broken", "slow"))
    if broken:
        return f"Broken: {', '.join(broken)}."
    if slow:
        return f"Nothing is broken; worth a look: {', '.join(slow)}."
    return "Nothing is broken."
