"""What is DALI's own: files that it cannot decode."""

import shutil

import pytest
import torch

from dist_sparse.data.images import dali_backend
from tests.data.compare import message_of, same

KEYS = {"batch_size": 2, "eval_batch_size": 4, "image_size": 32, "workers": 2}


@pytest.fixture
def build(load, imagenet_photos):
    return lambda **keys: load("image_folder", **{"root": str(imagenet_photos), "backend": "dali", **KEYS, **keys})


def refusing(monkeypatch: pytest.MonkeyPatch, name: str, spoil) -> None:
    """Let one file reach DALI as ``spoil`` leaves it, as if its head and its end had looked sound."""
    read = dali_backend.read_encoded

    def read_encoded(files, position):
        found = read(files, position)
        if name not in files.name(position):
            return found
        return found._replace(data=spoil(found.data))

    monkeypatch.setattr(dali_backend, "read_encoded", read_encoded)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sound_file_that_dali_refuses_is_decoded_by_pillow(build, monkeypatch, caplog, workers):
    """Its batch and those under way are decoded again, and nothing else changes."""
    expected = [list(build().train.epoch(epoch)) for epoch in (0, 1)]
    refusing(monkeypatch, "imagenet_05", lambda data: data[:5000])
    data = build(workers=workers)
    for epoch in (0, 1):
        assert same(data.train.epoch(epoch), expected[epoch])
    assert not caplog.records


def test_a_file_that_no_decoder_takes_is_found_in_its_batch(build, load, imagenet_photos, tmp_path, caplog):
    """A JPEG with a broken Huffman table: its head and its end look sound."""
    root = tmp_path / "photos"
    shutil.copytree(imagenet_photos, root)
    bad = next(root.glob("train/*/imagenet_05*"))
    data = bytearray(bad.read_bytes())
    table = data.index(b"\xff\xc4")
    data[table + 5 : table + 10] = b"\xff" * 5
    bad.write_bytes(data)
    assert message_of(lambda: list(build(root=str(root)).train.epoch(0))).startswith(f"{bad} cannot be decoded (")
    one, other = (
        load("image_folder", root=str(root), backend=backend, bad_images="skip", **KEYS) for backend in ("dali", "torchvision")
    )
    for epoch in (0, 1):
        for first, second in zip(one.train.epoch(epoch), other.train.epoch(epoch), strict=True):
            assert torch.equal(first.indices, second.indices)
            assert (first.images - second.images).abs().mean() < 0.01
    assert [record.args[0] for record in caplog.records] == [str(bad)] * 2
