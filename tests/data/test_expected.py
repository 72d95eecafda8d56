"""The facts for a plan: those that the run would find, and refused where it would be."""

from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"name": "fashion_mnist", "image_size": 16},
            "data.image_size=16 is less than the 28 pixels of fashion_mnist; small sets only grow",
        ),
        (
            {"name": "fashion_mnist", "crop_padding": 32, "image_size": 32},
            "data.crop_padding=32 should be less than the 32 pixels of fashion_mnist's images",
        ),
        ({"crop_padding": 2}, "data.crop_padding is for small data sets; image_folder crops by data.min_scale"),
        ({"padding_mode": "reflect"}, "data.padding_mode is for small data sets; image_folder crops by data.min_scale"),
        ({"download": True}, "data.download: image_folder is not fetched, it is read from data.root"),
    ],
)
def test_keys_that_the_run_refuses_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    """Before it looks for the data."""
    with pytest.raises(UserError) as error:
        expected_info(DataConfig(**{"name": "image_folder", "root": str(tmp_path / "none"), **keys}))
    assert str(error.value) == message


def test_padding_that_is_not_used_may_be_wide() -> None:
    info, _ = expected_info(DataConfig(name="fashion_mnist", crop_padding=40, augment=False))
    assert info.image_size == 28
    info, _ = expected_info(DataConfig(name="fashion_mnist", crop_padding=40, image_size=64))
    assert info.image_size == 64
