"""DALI's decoder on a GPU (``mixed``) against torchvision on the CPU."""

import contextlib
import importlib.util
from pathlib import Path

import pytest
import torch

from dist_sparse.config import load_config
from dist_sparse.data import Loading, build_data
from tests.photos import write_photos

pytestmark = pytest.mark.gpu

_LEVEL = 1 / 255 / 0.224
"""One of the 256 levels of a pixel in a normalised image."""


def test_dali_on_the_device_shows_the_same_images(tmp_path: Path, device: str) -> None:
    """Other decoders and resizers round in other places: a few levels on average, and the same windows in the same order."""
    if importlib.util.find_spec("nvidia.dali") is None:
        pytest.skip("needs DALI")
    write_photos(tmp_path, side=160)
    batches = []
    for backend, place in (("dali", device), ("torchvision", "cpu")):
        values = {"data.name": "image_folder", "data.image_size": 64, "data.resize": 80}
        config = load_config(None, {**values, "data.root": str(tmp_path), "data.backend": backend, "data.workers": 1})
        loading = Loading(
            batch_size=8, accumulation=1, eval_batch_size=8, rank=0, world_size=1, device=torch.device(place), seed=0
        )
        data = build_data(config.data, loading)
        with contextlib.closing(data):
            batches.append([*data.train.epoch(0), *data.val])
    assert len(batches[0]) == len(batches[1]) > 2
    for ours, expected in zip(*batches, strict=True):
        assert ours.images.device.type == device
        assert torch.equal(ours.indices.cpu(), expected.indices) and torch.equal(ours.labels.cpu(), expected.labels)
        difference = (ours.images.cpu() - expected.images).abs()
        assert difference.mean() <= 2 * _LEVEL
