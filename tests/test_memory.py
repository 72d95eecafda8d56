"""What a process keeps of the memory that it has no use for any more."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dist_sparse.memory import keep_memory
from tests.command import ROOT

_FREED = """
import ctypes, resource
from pathlib import Path
from dist_sparse.memory import keep_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

keep_memory()
before = resident()
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
piece = library.malloc(ctypes.c_size_t(64 << 20))
ctypes.memset(ctypes.c_void_p(piece), 1, 64 << 20)
library.free(piece)
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that is asked to")
@pytest.mark.parametrize(("threshold", "kept"), [(None, 64), ("131072", 0)])
def test_it_is_kept_unless_the_environment_says_otherwise(threshold: str | None, kept: int) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    if threshold is not None:
        environment["MALLOC_MMAP_THRESHOLD_"] = threshold
    said = subprocess.run([sys.executable, "-c", _FREED], cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    assert int(said.stdout) == pytest.approx(kept, abs=4)


@pytest.mark.parametrize(
    ("most", "accepted"), [(1 << 30, [(-3, 1 << 30), (-1, 1 << 30)]), (32 << 20, [(-3, 32 << 20), (-1, 1 << 30)]), (0, [])]
)
def test_an_older_library_is_asked_for_less(
    monkeypatch: pytest.MonkeyPatch, most: int, accepted: list[tuple[int, int]]
) -> None:
    """Up to glibc 2.34 pieces of 32 MB are the largest for the heap; a trim threshold alone would fix the other at 128 KB."""
    taken: list[tuple[int, int]] = []

    def mallopt(option: int, value: int) -> int:
        if option == -3 and value > most:
            return 0
        taken.append((option, value))
        return 1

    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace(mallopt=mallopt))
    keep_memory()
    assert taken == accepted
