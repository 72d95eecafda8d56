"""Where a tar of samples ends: the module tarfile takes any damaged place behind the first file for it."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_sparse.data.images.shards.entry import TruncatedShard
from dist_sparse.data.images.shards.webdataset import scan, write

BLOCK = tarfile.BLOCKSIZE


@pytest.fixture
def tar(tmp_path) -> Path:
    """Ten samples of 20,000 bytes, in twenty files."""
    path = tmp_path / "0.tar"
    with path.open("wb") as file:
        write(((f"{number}.jpg", b"\xff" * 20_000, number) for number in range(10)), file)
    return path


def heads(tar: Path) -> list[int]:
    with tarfile.open(tar) as archive:
        return [member.offset for member in archive]


@pytest.mark.parametrize(
    ("last", "spoilt", "reason"),
    [
        (-1, lambda data: bytes([data[0] ^ 1, *data[1:]]), "the head of a file is damaged, at byte {}"),
        (-1, lambda data: bytes(len(data)), "zeros stand in the place of the rest, from byte {} on"),
        (6, lambda data: bytes(len(data)), "zeros stand in the place of the rest, from byte {} on"),
    ],
    ids=["a flipped bit", "zeros up to the last file", "zeros for two files"],
)
def test_damage_behind_the_first_files_is_told(tar: Path, last: int, spoilt: Callable[[bytes], bytes], reason: str) -> None:
    places, data = heads(tar), tar.read_bytes()
    start, stop = places[4], places[last]
    tar.write_bytes(data[:start] + spoilt(data[start:stop]) + data[stop:])
    with pytest.raises(TruncatedShard) as error:
        list(scan(tar))
    assert str(error.value) == reason.format(start)


def test_a_long_tail_of_zeros_is_damage(tar: Path) -> None:
    """As a copy leaves it that was interrupted in a file of full length."""
    place, size = heads(tar)[10], tar.stat().st_size
    with tar.open("r+b") as file:
        file.truncate(place)
        file.truncate(size)
    with pytest.raises(TruncatedShard, match=f"^zeros stand in the place of the rest, from byte {place} on$"):
        list(scan(tar))


@pytest.mark.parametrize("blocks", [1, 20, 126, 2048])
def test_records_of_every_usual_size_end_a_tar(tar: Path, blocks: int) -> None:
    """Such as GNU tar's -b sets; with one block nothing is filled up."""
    place, record = heads(tar)[16], BLOCK * blocks
    with tar.open("r+b") as file:
        file.truncate(place)
        file.truncate(-(-(place + 2 * BLOCK) // record) * record)
    assert [entry.label for entry in scan(tar)] == list(range(8))
