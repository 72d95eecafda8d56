"""Small sets on the device: real digits, split, order, augmentation and resume."""

import dataclasses
from itertools import chain, pairwise

import pytest
import torch
import torch.nn.functional as F
from timm.data.random_erasing import RandomErasing

from dist_sparse.config.data import DataConfig, ForgettingConfig
from dist_sparse.data.augment import CropFlip, Draw
from dist_sparse.data.batch import Normalise
from dist_sparse.data.readers import SMALL_SETS
from dist_sparse.data.small_set import Split, read_small
from dist_sparse.errors import UserError
from dist_sparse.seeding import derive_seed, generator, seeded

STEPS = 5


def first_steps(data, epoch=0, accumulation=1):
    return [batch for batch, _ in zip(data.train.epoch(epoch), range(STEPS * accumulation), strict=False)]


def test_digits_are_real_split_by_class_and_normalised(load):
    data = load("digits", augment=False)
    assert (data.info.train_size, data.info.val_size) == (1437, 360)
    assert (data.info.classes, data.info.channels, data.info.image_size) == (10, 1, 8)
    train, val = data.train.split, data.val.split
    assert len({bytes(image.numpy()) for image in chain(train.images, val.images)}) == 1797
    shares = val.labels.bincount() / (train.labels.bincount() + val.labels.bincount())
    assert torch.all((shares - 0.2).abs() < 0.01)
    pixels = torch.cat([batch.images for batch in data.train.epoch(0)])
    assert pixels.dtype == torch.float32
    assert abs(pixels.mean()) < 0.01
    assert abs(pixels.std() - 1) < 0.01


def test_normalise_takes_pixels_to_mean_zero_and_deviation_one():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    result = Normalise((0.5, 0.2, 0.0), (0.25, 0.1, 0.5), torch.device("cpu"))(pixels)
    assert result.dtype == torch.float32
    assert result.flatten().tolist() == pytest.approx([-2.0, 0.0, 2.0], abs=1e-6)


def test_batches_carry_the_samples_they_name(load):
    data = load("digits", augment=False)
    normalise = Normalise((0.3058,), (0.3761,), torch.device("cpu"))
    for loader, split in ((data.train.epoch(0), data.train.split), (iter(data.val), data.val.split)):
        batch = next(loader)
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert torch.equal(batch.labels, split.labels[batch.indices])
        assert torch.equal(batch.images, normalise(split.images[batch.indices]))


ALL = {"vertical_flip": True, "random_erasing": 0.5, "random_erasing_count": 2, "repeated_augment": 3}


@pytest.mark.parametrize("keys", [{}, {"padding_mode": "reflect", "crop_padding": 3, "flip": True}, ALL])
@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 2), (2, 1), (4, 1), (2, 2), (4, 2)])
def test_pixels_do_not_depend_on_ranks_or_accumulation(load, world_size, accumulation, keys):
    alone = first_steps(load("digits", batch_size=16, **keys))
    ranks = [
        first_steps(
            load("digits", batch_size=16, accumulation=accumulation, rank=rank, world_size=world_size, **keys), 0, accumulation
        )
        for rank in range(world_size)
    ]
    for step, whole in enumerate(alone):
        micro = range(step * accumulation, (step + 1) * accumulation)
        parts = [rank[a] for a in micro for rank in ranks]
        assert all(len(part.labels) == 16 // world_size // accumulation for part in parts)
        for field in range(3):
            assert torch.equal(torch.cat([part[field] for part in parts]), whole[field])


def test_resume_in_the_middle_of_an_epoch_repeats_the_rest(load):
    keys = {"batch_size": 64, "accumulation": 2, "crop_padding": 2, **ALL}
    whole, resumed = list(load("digits", **keys).train.epoch(3)), list(load("digits", **keys).train.epoch(3, start_step=20))
    assert len(whole) == 44
    assert len(resumed) == 4
    for before, after in zip(whole[-4:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_epochs_and_seeds_augment_differently(load, by_index):
    data, other = load("digits", batch_size=1437), load("digits", batch_size=1437, seed=4)
    epochs = [by_index(loader) for loader in (data.train.epoch(0), data.train.epoch(1), other.train.epoch(0))]
    for a, b in pairwise(epochs):
        assert a.keys() == b.keys()
        same = sum(torch.equal(a[index][0], b[index][0]) for index in a)
        assert 0.05 < same / len(a) < 0.3  # nine crops at padding 1: one in nine, and some that look alike


def test_drawing_does_not_touch_the_processes_generator(load):
    before = torch.get_rng_state()
    next(load("digits").train.epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
def test_validation_sees_every_sample_once(load, by_index, world_size):
    shares = [load("digits", batch_size=60, rank=rank, world_size=world_size).val for rank in range(world_size)]
    assert by_index(chain(*shares)).keys() == set(range(360))


def test_validation_with_more_ranks_than_samples_leaves_some_ranks_without_work(load):
    assert list(load("digits", batch_size=400, rank=399, world_size=400).val) == []


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_crop_and_flip_row_by_row(mode):
    images = torch.rand(32, 3, 10, 6)
    augment = CropFlip(padding=4, padding_mode=mode, flip=True, vertical_flip=mode == "zeros")
    draw = augment.draw(32, generator("test"))
    assert draw.offsets.unique().tolist() == list(range(9))
    assert 0 < draw.flips.sum() < 32
    assert len(draw.vertical_flips.unique()) == (2 if mode == "zeros" else 1)
    for image, result, (row, column), flip, vertical in zip(images, augment(images, draw), *draw, strict=True):
        padded = F.pad(image, (4, 4, 4, 4), mode="constant" if mode == "zeros" else mode)
        crop = padded[:, row : row + 10, column : column + 6]
        crop = crop.flip(-2) if vertical else crop
        assert torch.equal(result, crop.flip(-1) if flip else crop)


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_random_erasing_is_timms_for_each_sample(load, mode):
    erasing = {"random_erasing": 0.5, "random_erasing_mode": mode}
    plain, erased = (next(load("digits", batch_size=64, image_size=16, **keys).train.epoch(1)) for keys in ({}, erasing))
    expected, theirs = plain.images.clone(), RandomErasing(0.5, mode=mode, device="cpu")
    with seeded() as seed:
        for image, index in zip(expected, plain.indices.tolist(), strict=True):
            seed(derive_seed("erasing", 3, 1, index))
            theirs(image)
    assert torch.equal(erased.images, expected)
    assert 16 < sum(not torch.equal(a, b) for a, b in zip(plain.images, expected, strict=True)) < 48


def test_repeats_of_a_sample_are_augmented_anew(load):
    batch = next(load("digits", batch_size=48, repeated_augment=3, crop_padding=3, random_erasing=0.5).train.epoch(0))
    assert batch.indices.unique(return_counts=True)[1].tolist() == [3] * 16
    for index in batch.indices.unique():
        assert len(batch.images[batch.indices == index].flatten(1).unique(dim=0)) >= 2


def test_without_padding_and_flip_images_stay(load):
    images = torch.rand(4, 1, 5, 5)
    augment = CropFlip(padding=0, padding_mode="zeros", flip=False)
    assert torch.equal(augment(images, Draw(*augment.draw(4, generator("test")))), images)


def test_image_size_pads_with_black_on_all_sides(load):
    small, large = load("digits", augment=False), load("digits", augment=False, image_size=13)
    assert large.info.image_size == 13
    assert torch.equal(large.val.split.images[:, :, 2:10, 2:10], small.val.split.images)
    assert large.val.split.images.sum() == small.val.split.images.sum()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image_size": 7}, "data.image_size=7 is less than the 8 pixels of digits; small sets only grow"),
        ({"crop_padding": 8}, "data.crop_padding=8 should be less than the 8 pixels of digits's images"),
        (
            {"name": "cifar"},
            "data.name='cifar' is unknown; did you mean cifar10 or cifar100? known: digits, mnist, ",
        ),
        ({"auto_augment": "v0"}, "data.auto_augment is for image_folder; digits lies on the device as it is; python -m "),
        ({"color_jitter": 0.4}, "data.color_jitter is for image_folder; digits lies on the device as it is; python -m "),
        ({"crop_mode": "border"}, "data.crop_mode is for image_folder; digits lies on the device as it is"),
        ({"interpolation": "bicubic"}, "data.interpolation is for image_folder; digits lies on the device as it is"),
        ({"eval_interpolation": "bicubic"}, "data.eval_interpolation is for image_folder; digits lies on the device as it is"),
        (
            {"repeated_augment": 3, "forgetting": ForgettingConfig(epochs=2)},
            "data.forgetting.epochs=2 counts over epochs that show every sample once: data.repeated_augment must be 1",
        ),
        ({"name": "zzz"}, "data.name='zzz' is unknown; known: digits, "),
    ],
)
def test_mistakes_are_one_clear_line(load, keys, message):
    with pytest.raises(UserError) as error:
        load(**{"name": "digits", **keys})
    assert str(error.value).startswith(message)


@pytest.mark.gpu
def test_a_gpu_sees_the_same_batches(load):
    from dist_sparse.config.data import DataConfig
    from dist_sparse.data import Loading, build_data

    config = DataConfig(name="digits", padding_mode="reflect", flip=True)
    keys = {"batch_size": 64, "accumulation": 2, "eval_batch_size": 100, "rank": 0, "world_size": 1, "seed": 0}
    on_cpu, on_gpu = (build_data(config, Loading(device=torch.device(device), **keys)) for device in ("cpu", "cuda"))
    for a, b in zip(first_steps(on_cpu), first_steps(on_gpu), strict=True):
        assert b.images.is_cuda
        assert torch.allclose(a.images, b.images.cpu(), atol=1e-6)
        assert torch.equal(a.indices, b.indices.cpu())


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (torch.zeros(3, 1, 8, 8), torch.zeros(2), "3x1x8x8 values of images and 2 labels"),
        (torch.zeros(3), torch.zeros(3), "3 values of images and 3 labels"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0, 10]), "labels are not all below 10"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(images: torch.Tensor, labels: torch.Tensor, reason: str) -> None:
    split = Split(images.to(torch.uint8), labels.long())
    small_set = dataclasses.replace(SMALL_SETS["digits"], read=lambda _root: (split, split))
    with pytest.raises(UserError, match=f"digits in data is damaged: {reason}$"):
        read_small(DataConfig(), small_set)
