"""The facts for a plan: those that the run would find, and refused where it would be."""

from pathlib import Path

import pytest

from dist_sparse.config.data import DataConfig
from dist_sparse.data.expected import expected_info
from dist_sparse.data.images.shards.webdataset import write
from dist_sparse.errors import UserError


def test_a_damaged_shard_is_skipped_as_in_the_run(tmp_path: Path) -> None:
    for split in ("train", "val"):
        shard = tmp_path / split / "0.tar"
        shard.parent.mkdir()
        with shard.open("wb") as file:
            write(((f"{number}.jpg", b"\xff" * 2_000, number % 2) for number in range(8)), file)
    shard = tmp_path / "train" / "0.tar"
    shard.write_bytes(shard.read_bytes()[: 4 * 4_096])
    with pytest.raises(UserError, match=r"set data\.bad_images=skip$"):
        expected_info(DataConfig(name="image_folder", root=str(tmp_path)))
    info, _ = expected_info(DataConfig(name="image_folder", root=str(tmp_path), bad_images="skip"))
    assert (info.train_size, info.val_size, info.classes) == (4, 8, 2)
