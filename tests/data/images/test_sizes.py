"""Progressive resizing and the evaluation size."""

import pytest
import torch

from dist_sparse.config.data import DataConfig, ProgressiveConfig
from dist_sparse.config.duration import Length, parse_length
from dist_sparse.data.images.sizes import sizes_of
from tests.data.compare import message_of, same

PUBLIC = ProgressiveConfig(start_size=160, start=parse_length("65 epochs"), end=parse_length("76 epochs"))


def sizes(progressive: ProgressiveConfig, epochs: int, steps: int = 10, **keys: int) -> list[int]:
    found = sizes_of(DataConfig(progressive=progressive, **keys), epochs=epochs, steps_per_epoch=steps)
    return [found.at(epoch) for epoch in range(epochs)]


def test_without_it_the_size_is_always_the_same():
    assert set(sizes(ProgressiveConfig(), 20)) == {224}


def test_the_ramp_of_the_public_recipe():
    """160 up to epoch 65, 192 from epoch 76 on, and multiples of 32 between."""
    found = sizes(PUBLIC, 88, image_size=192)
    assert found[:70] == [160] * 70
    assert found[71:] == [192] * 17


def test_the_size_grows_evenly_in_multiples():
    ramp = ProgressiveConfig(start_size=96, start=Length(0, "epochs"), end=Length(1.0, "run"))
    assert sizes(ramp, 8, image_size=224) == [96, 128, 128, 160, 160, 192, 192, 224]
    fine = ProgressiveConfig(start_size=97, start=Length(20, "steps"), end=Length(50, "steps"), multiple=1)
    assert sizes(fine, 7, image_size=127) == [97, 97, 97, 107, 117, 127, 127]
    sudden = ProgressiveConfig(start_size=33, start=Length(2, "epochs"), end=Length(2, "epochs"))
    assert sizes(sudden, 4, image_size=65) == [33, 33, 65, 65]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"progressive": ProgressiveConfig(multiple=16)}, "data.progressive does nothing without data.progressive.start_size"),
        (
            {"progressive": ProgressiveConfig(start_size=256)},
            "data.progressive.start_size=256 should be at most data.image_size=224",
        ),
        (
            {"progressive": ProgressiveConfig(start_size=128, start=Length(0.9, "run")), "epochs": 100},
            "data.progressive.start=90% should not be after data.progressive.end=85%",
        ),
        ({"eval_size": 256, "resize": 255}, "data.resize=255 should be at least data.eval_size=256"),
        ({"name": "digits", "eval_size": 256}, "data.eval_size is for image_folder; digits lies on the device as it is"),
        ({"name": "digits", "min_scale": 0.5}, "data.min_scale is for image_folder; digits lies on the device as it is"),
        ({"name": "digits", "resize": 9}, "data.resize is for image_folder; digits lies on the device as it is"),
    ],
)
def test_mistakes_are_one_clear_line(load, imagenet_photos, keys, message):
    assert message_of(lambda: load(**{"name": "image_folder", "root": str(imagenet_photos), **keys})) == message


@pytest.mark.parametrize("backend", ["torchvision", "dali"])
def test_images_grow_with_the_epochs_and_validation_has_its_own_size(load, imagenet_photos, backend):
    def build(**keys):
        return load("image_folder", root=str(imagenet_photos), backend=backend, image_size=64, epochs=3, workers=1, **keys)

    ramp = ProgressiveConfig(start_size=32, start=Length(0, "epochs"), end=Length(2, "epochs"), multiple=16)
    data = build(eval_size=80, progressive=ramp)
    epochs = [list(data.train.epoch(epoch)) for epoch in range(3)]
    assert [{batch.images.shape[-2:] for batch in epoch} for epoch in epochs] == [{(32, 32)}, {(48, 48)}, {(64, 64)}]
    assert {batch.images.shape[-1] for batch in data.val} == {80} == {data.info.image_size}
    assert (data.train_sizes, data.train_side) == ({32, 48, 64}, 64)
    assert build(eval_size=48, progressive=ramp).train_sizes == {32, 48, 64}
    assert same(build(progressive=ramp).train.epoch(1), epochs[1])
    ((small,), (large,)) = epochs[1], build().train.epoch(1)
    shrunk = torch.nn.functional.interpolate(large.images, size=48, mode="bilinear", antialias=True)
    assert (small.images - shrunk).abs().mean() < 0.15, "the same window, at another size"
