"""The kernels' library: compiled once, made anew where it is damaged, and one line where it cannot be had."""

import ctypes
from pathlib import Path

import pytest

from dist_sparse.execution.compiling import NoKernels, compiled
from dist_sparse.execution.kernels import Kernels


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for one that cannot compile."""
    path = folder / "cxx"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit\n{script}\n')
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


def test_a_library_is_kept_and_one_that_is_damaged_made_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried on a source of one line, since the kernels take seconds each time."""
    (cache / "native").mkdir()
    (cache / "native" / "kernels.cpp").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr("dist_sparse.execution.compiling.SOURCES", cache / "native")

    def answer(library: Path) -> int:
        return ctypes.CDLL(str(library)).answer()

    path = compiled()
    assert path.parent == cache / "dist_sparse"
    made, whole = path.stat().st_mtime_ns, path.read_bytes()
    assert compiled() == path and path.stat().st_mtime_ns == made
    assert answer(path) == 42
    for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + b"?"):
        other = path.with_suffix(".other")  # and not in place, for this process has loaded the one that is there
        other.write_bytes(damaged)
        other.replace(path)
        assert compiled() == path
        assert answer(path) == 42
    path.with_suffix(".sum").unlink()
    assert answer(compiled()) == 42
    assert {each.suffix for each in path.parent.iterdir()} == {".so", ".sum"}


def test_a_compiler_may_have_a_wrapper_and_options(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "native").mkdir()
    (cache / "native" / "kernels.cpp").write_text('extern "C" int answer() { return ANSWER; }\n')
    monkeypatch.setattr("dist_sparse.execution.compiling.SOURCES", cache / "native")
    libraries = []
    for answer in (41, 42):
        monkeypatch.setenv("CXX", f"env c++ -DANSWER={answer}")
        libraries.append(compiled())
        assert ctypes.CDLL(str(libraries[-1])).answer() == answer
    assert libraries[0] != libraries[1]
    monkeypatch.setenv("CXX", "no'such")
    with pytest.raises(NoKernels, match=r"^there is no C\+\+ compiler \(no'such; CXX names another\)$"):
        compiled()


def test_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NoKernels, match=r"^there is no C\+\+ compiler \(no-such-compiler; CXX names another\)$"):
        compiled()


ERROR = "k.cpp:1: error: no such vector"


@pytest.mark.parametrize(
    ("script", "said"), [(f"echo '{ERROR}' >&2; exit 1", ERROR), ("exit 1", "it ends with 1 and says nothing")]
)
def test_a_compiler_that_fails(cache: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str) -> None:
    compiler(cache, script, monkeypatch)
    with pytest.raises(NoKernels) as caught:
        compiled()
    assert str(caught.value) == f"{cache}/cxx cannot compile the kernels: {said}"


def test_a_compiler_that_makes_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(cache, "exit 0", monkeypatch)
    with pytest.raises(NoKernels):
        compiled()


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NoKernels, match=r"/file/dist_sparse cannot be written: Not a directory \(XDG_CACHE_HOME names"):
        compiled()


def test_what_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "k.so").write_bytes(b"not one")
    with pytest.raises(NoKernels, match="cannot be loaded"):
        Kernels(tmp_path / "k.so")
