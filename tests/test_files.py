"""Files that are either whole or not there."""

import errno
import io
import zipfile
from pathlib import Path

import pytest
import torch

from dist_sparse import files


def _fail(file) -> None:
    file.write(b"half")
    raise OSError(errno.ENOSPC, "no space")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.atomic_write(path, lambda file: file.write(b"old"))
    with pytest.raises(OSError, match="no space"):
        files.atomic_write(path, _fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_takes_no_second_space_and_outlives_the_first_name(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"content")
    second.write_bytes(b"old")
    files.atomic_link(first, second)
    assert first.samefile(second)
    files.atomic_link(first, second)
    assert sorted(tmp_path.iterdir()) == [first, second]
    first.unlink()
    assert second.read_bytes() == b"content"


def test_without_hard_links_it_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    # Every file system that tests can count on has hard links.
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"content" * 300_000)
    files.atomic_link(first, second)
    assert not first.samefile(second)
    assert second.read_bytes() == first.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    for name in (".a.pt.partial", ".hidden", "b.partial"):
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "b.partial"]


def test_a_folder_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    folder, left = tmp_path / "a", files.unfinished(tmp_path / "a")
    for content in ("old", "new"):
        temporary = files.unfinished(folder)
        assert temporary == left and not temporary.exists()
        temporary.mkdir()
        (temporary / "file").write_text(content)
        assert content == "old" or (folder / "file").read_text() == "old"
        files.replace_folder(temporary, folder)
        assert (folder / "file").read_text() == content
    left.mkdir()
    (left / "half").write_text("")
    files.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [folder]


def test_no_flipped_bit_of_the_table_of_records_goes_unnoticed() -> None:
    """Or it changes nothing. A length that is too short, or a record marked as a folder, leaves a tensor without values."""
    saved = {"a": torch.ones(3, dtype=torch.float64), "b": torch.arange(4)}
    file = io.BytesIO()
    torch.save(saved, file)
    content, unnoticed = file.getvalue(), []
    for position in range(content.find(b"PK\x01\x02"), len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            try:
                with zipfile.ZipFile(io.BytesIO(damaged)) as archive:
                    if files.damaged_record(archive) is not None:
                        continue
                loaded = torch.load(io.BytesIO(damaged), weights_only=True)
            except Exception:  # as the readers of checkpoints take whatever broken bytes make zipfile and torch trip over
                continue
            if not all(torch.equal(loaded[key], value) for key, value in saved.items()):
                unnoticed.append((position, bit))
    assert not unnoticed
