"""The two backends show the same of real ImageNet photographs, and which one runs is the user's to say."""

import logging
import sys

import pytest
import torch

from dist_sparse.data.normalisation import IMAGENET_STD
from dist_sparse.errors import UserError

LEVEL = 1 / 255 / min(IMAGENET_STD)
"""One of the 256 levels of a pixel, in a normalised image (at most)."""
SIZES = {"batch_size": 10, "workers": 2, "min_scale": 0.2}


@pytest.fixture
def both(load, imagenet_photos):
    """The data set of either backend."""
    return lambda **keys: [
        load("image_folder", root=str(imagenet_photos), backend=backend, **{**SIZES, **keys})
        for backend in ("torchvision", "dali")
    ]


@pytest.mark.parametrize("keys", [{}, {"image_size": 96, "resize": 100}, {"image_size": 160, "eval_size": 448}])
def test_evaluation_agrees_to_two_levels(both, by_index, keys):
    """And to a fifth of one level on average: the filters are the same, their arithmetic is not."""
    one, other = (by_index(data.val) for data in both(**keys))
    assert one.keys() == other.keys() == set(range(10))
    for index, (image, label) in one.items():
        assert label == other[index][1] == (index >= 5)
        difference = (image - other[index][0]).abs()
        assert difference.max() <= 2.01 * LEVEL
        assert difference.mean() <= 0.2 * LEVEL


def test_training_shows_the_same_windows(both):
    one, other = (list(data.train.epoch(3)) for data in both())
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first.indices, second.indices)
        assert torch.equal(first.labels, second.labels)
        difference = (first.images - second.images).abs()
        assert difference.mean() <= 0.3 * LEVEL
        assert difference.max() <= 16 * LEVEL
    assert torch.cat([batch.indices for batch in one]).sort().values.tolist() == list(range(10))


def test_channels_last_is_a_memory_format_only(load, imagenet_photos):
    plain, last = (
        next(iter(load("image_folder", root=str(imagenet_photos), backend="dali", channels_last=each, **SIZES).train.epoch(0)))
        for each in (False, True)
    )
    assert plain.images.is_contiguous()
    assert last.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain.images, last.images)


@pytest.mark.parametrize(("backend", "says"), [("auto", "torchvision decodes the images"), ("torchvision", None)])
def test_without_dali_torchvision_decodes(load, imagenet_photos, monkeypatch, caplog, backend, says):
    without_dali(monkeypatch)
    with caplog.at_level(logging.INFO):
        data = load("image_folder", root=str(imagenet_photos), backend=backend, **SIZES)
    assert [record.getMessage() for record in caplog.records] == (
        [f"data.backend=auto: NVIDIA DALI is not installed, {says}"] if says else []
    )
    assert list(data.val)


def test_dali_that_is_not_there_is_one_line(load, imagenet_photos, monkeypatch):
    without_dali(monkeypatch)
    with pytest.raises(UserError, match=r"^data.backend=dali needs NVIDIA DALI, which is not installed here: pip install .*"):
        load("image_folder", root=str(imagenet_photos), backend="dali", **SIZES)


def test_auto_takes_dali(load, imagenet_photos, caplog):
    with caplog.at_level(logging.INFO):
        load("image_folder", root=str(imagenet_photos), backend="auto", **SIZES)
    assert [record.getMessage() for record in caplog.records] == ["data.backend=auto: NVIDIA DALI decodes the images"]


def without_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.delitem(sys.modules, "dist_sparse.data.images.dali_backend", raising=False)
