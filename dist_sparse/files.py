"""Files that are either whole or not there: written beside their place, flushed to the disk, then renamed into it."""

import contextlib
import errno
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from dist_sparse.errors import UserError
from dist_sparse.inputs import kind_of

_SUFFIX = ".partial"
_FOLDER = 0x10
"""In the attributes of a record of a zip file."""


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Fill ``path`` through ``write(file)``. Until that is done, and if it fails, the path keeps what it had.

    Raises:
        OSError: as the file system says; nothing is left behind.
    """
    if (other := _other_kind(path)) is not None:  # a pipe or a device such as /dev/null, which would be replaced
        raise FileExistsError(errno.EEXIST, f"is {other}, not a file")
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_output(option: str, path: Path, content: bytes) -> None:
    """Write the file that a command's ``option`` names, and make its folder.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda file: file.write(content))
    except OSError as error:
        raise UserError(f"{option}={path} cannot be written: {error.strerror}") from error


def atomic_link(source: Path, path: Path) -> None:
    """Make ``path`` a second name of the file ``source``, or a copy of it where the file system has no hard links.

    Raises:
        OSError: as the file system says; ``path`` keeps what it had.
    """
    temporary = _beside(path)
    try:
        temporary.hardlink_to(source)
    except OSError:
        atomic_write(path, lambda file: _copy(source, file))
        return
    temporary.replace(path)
    # Renaming does nothing, and leaves both names, where they already are one file.
    temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` at the end of the block. If that fails, nothing of it is left behind.

    What a killed process had not finished there is deleted first, so a path may have one writer only.

    Raises:
        OSError: as the file system says; also if ``path`` is there already and is no empty folder.
    """
    temporary = unfinished(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process had not finished writing. Only for a folder's one writer, between two writes."""
    for path in folder.glob(f".*{_SUFFIX}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def unfinished(folder: Path) -> Path:
    """Where to fill a folder that :func:`replace_folder` is to put in its place; nothing is left there by a killed process."""
    temporary = folder.with_name(f".{folder.name}{_SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)
    return temporary


def replace_folder(temporary: Path, folder: Path) -> None:
    """Put a filled folder into its place; what is there already is moved aside, and deleted only then."""
    old = folder.with_name(f".{folder.name}.old{_SUFFIX}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def dump(state: object, file: BinaryIO) -> None:
    """``torch.save`` with the file system's own words where it refuses.

    Raises:
        OSError: as the file system says.
    """
    import torch

    try:
        torch.save(state, file)
    except RuntimeError as error:
        # While it closes an archive that could not be written, torch raises again, over the error that says why.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _other_kind(path: Path) -> str | None:
    try:
        return kind_of(path)
    except FileNotFoundError:
        return None


def _beside(path: Path) -> Path:
    temporary = path.with_name(f".{path.name}{_SUFFIX}")
    temporary.unlink(missing_ok=True)
    return temporary


def _copy(source: Path, file: BinaryIO) -> None:
    with source.open("rb") as original:
        while chunk := original.read(1 << 20):
            file.write(chunk)


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only when the folder itself is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damaged_record(archive: zipfile.ZipFile) -> str | None:
    """The name of a record of a file of torch's that is not what was written, or None. torch itself looks at no checksum.

    zipfile reads as many bytes as the archive's table says, and compares no checksum where those are too few. torch takes a
    record that is marked as a folder for an empty one. Nothing that it writes is compressed or a folder.
    """
    for record in archive.infolist():
        stored = record.compress_type == zipfile.ZIP_STORED
        if (stored and record.file_size != record.compress_size) or record.external_attr & _FOLDER:
            return record.filename
    return archive.testzip()
