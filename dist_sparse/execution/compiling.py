"""Compiling the kernels: once on each machine, into a cache folder, by the C++ compiler that is there."""

import contextlib
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from dist_sparse.errors import one_line

SOURCES = Path(__file__).parent / "native"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC")
_SECONDS = 600
_POLL = 0.1


class NoKernels(Exception):
    """There are no kernels on this machine; the message says why, for a line of the log."""


def compiled(flags: tuple[str, ...] = ()) -> Path:
    """The library, compiled now if the cache has none of these sources, compiler, processor and further ``flags``.

    Raises:
        NoKernels: as :func:`compiling`.
    """
    for made in compiling(flags):
        if made is not None:
            return made
    raise AssertionError("compiling ends with a library")


def compiling(flags: tuple[str, ...] = ()) -> Iterator[Path | None]:
    """The library, as :func:`compiled`, and None over and over while the compiler works, which ends with the iterator.

    Raises:
        NoKernels: there is no compiler, it cannot compile the sources, or the cache cannot be written.
    """
    first, *options = compiler()
    if (program := shutil.which(first)) is None:
        raise NoKernels(f"there is no C++ compiler ({first}; CXX names another)")
    flags = (*_FLAGS, *flags)
    folder = cache_folder()
    command = (program, *options)
    path = folder / f"kernels-{_digest(command, flags)}.so"
    if not _is_whole(path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            yield from _compile(command, flags, path)
        except OSError as error:
            raise NoKernels(f"{folder} cannot be written: {error.strerror} (XDG_CACHE_HOME names another place)") from error
    yield path


def compiler() -> list[str]:
    """The C++ compiler's words: those of ``CXX``, which may begin with a wrapper and hold options, or c++."""
    words = os.environ.get("CXX") or "c++"
    try:
        return shlex.split(words) or ["c++"]
    except ValueError:  # a quotation without an end, which no program's name has
        return [words]


def _is_whole(path: Path) -> bool:
    """Whether a library is there, and is the one that was compiled: to load a damaged one could end the process."""
    try:
        return _sum_of(path).read_text(encoding="ascii") == _sum(path)
    except (OSError, ValueError):
        return False


def _sum_of(path: Path) -> Path:
    return path.with_suffix(".sum")


def _sum(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def cache_folder() -> Path:
    """Where what was made for this machine is kept, as the XDG directories have it."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dist_sparse"


def _digest(compiler: tuple[str, ...], flags: tuple[str, ...]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in (version_of(compiler), *compiler[1:], processor(), *flags, sources_digest()):
        digest.update(part.encode())
    return digest.hexdigest()


def sources_digest() -> str:
    """Another one for other kernels."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(SOURCES.glob("*.[ch]*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def version_of(compiler: tuple[str, ...]) -> str:
    """The first line in which a compiler tells of itself."""
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False, timeout=_SECONDS)
    return done.stdout.partition("\n")[0]


@functools.cache
def processor() -> str:
    """The processor and what it can do, as far as it can be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))))


def _compile(compiler: tuple[str, ...], flags: tuple[str, ...], path: Path) -> Iterator[None]:
    """Compile beside the path and put the whole file in its place: several processes may do so at once."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [*compiler, *flags, "-o", str(made), str(SOURCES / "kernels.cpp")]
        said = Path(folder) / "errors"
        code = yield from _wait(command, said)
        if code:
            lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
            errors = [line for line in lines if "error" in line] or lines or [f"it ends with {code} and says nothing"]
            raise NoKernels(f"{compiler[0]} cannot compile the kernels: {one_line(errors[0])[:200]}")
        noted = _sum_of(made)
        noted.write_text(_sum(made), encoding="ascii")
        made.replace(path)
        noted.replace(_sum_of(path))


def _wait(command: list[str], errors: Path) -> Generator[None, None, int]:
    """Run a command whose errors go to a file, and return its exit code; it is killed if nobody waits for that."""
    until = time.monotonic() + _SECONDS
    with errors.open("wb") as file:
        # In a session of its own: a signal to the process group asks the run to end in good order, not the compiler to fail.
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True)
        try:
            while process.poll() is None:
                if time.monotonic() > until:
                    raise NoKernels(f"{command[0]} has not compiled the kernels within {_SECONDS} s")
                yield
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL)
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return process.returncode
