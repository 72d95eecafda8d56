"""Augmentation of files is timm's and torchvision's, the same on both backends, and on any number of ranks and workers."""

import random
import shutil
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing

from dist_sparse.config.data import ProgressiveConfig
from dist_sparse.config.duration import Length
from dist_sparse.data.batch import Loading
from dist_sparse.data.images.loaders import Pixels
from dist_sparse.data.images.policy import Policy
from dist_sparse.data.images.policy_workers import PolicyWorkers
from dist_sparse.data.images.windows import CentreWindows
from dist_sparse.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from dist_sparse.data.order import Key
from dist_sparse.seeding import derive_seed, seeded
from tests.data.compare import message_of, same
from tests.data.conftest import LOADING

LEVEL = 1 / 255 / min(IMAGENET_STD)
SMALL = {"image_size": 48, "batch_size": 10, "workers": 0, "min_scale": 0.3}
POLICIES = [
    "rand-m9-mstd0.5-inc1",
    "rand-m5-n3-tweights",
    "augmix-m5-w4-d2",
    "original",
    "originalr-mstd0.5",
    "v0",
    "v0r",
    "3a",
    "trivial",
]
KEYS = [
    *({"auto_augment": policy} for policy in POLICIES),
    {"auto_augment": "3a", "color_jitter": 0.3},
    {"color_jitter": 0.4},
    {"random_erasing": 0.9},
    {"random_erasing": 0.9, "random_erasing_mode": "const", "random_erasing_count": 3},
    {"vertical_flip": True},
    {"interpolation": "bicubic"},
    {"interpolation": "random"},
    {"repeated_augment": 2},
]
EVERYTHING = {
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.5,
    "vertical_flip": True,
    "interpolation": "random",
    "repeated_augment": 3,
}


@pytest.fixture
def folder(load, imagenet_photos):
    return lambda backend, **keys: load("image_folder", root=str(imagenet_photos), backend=backend, **{**SMALL, **keys})


@pytest.fixture(params=["torchvision", "dali"])
def backend(request) -> str:
    return request.param


def only(batches):
    (batch,) = batches
    return batch


@pytest.mark.parametrize("keys", KEYS, ids=str)
def test_a_key_acts_alike_on_both_backends(folder, keys):
    """The images change, and the two differ by as little as what they decode: a level or two, which few policies enlarge."""
    plain = only(folder("torchvision").train.epoch(1)).images
    one, other = (only(folder(backend, **keys).train.epoch(1)) for backend in ("torchvision", "dali"))
    assert (one.images - plain).abs().mean() > 2 * LEVEL / 10
    assert torch.equal(one.indices, other.indices)
    difference = (one.images - other.images).abs()
    assert difference.mean() <= 1.5 * LEVEL
    assert difference.median() <= 0.5 * LEVEL


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_what_timm_makes_of_its_words(policy, imagenet_photos, monkeypatch):
    """Under the same seeds; trivial is torchvision's."""
    posterize = ImageOps.posterize
    monkeypatch.setattr(ImageOps, "posterize", lambda image, bits: posterize(image, bits) if bits else image.point(lambda _: 0))
    image = Image.open(next(imagenet_photos.glob("train/*/*"))).convert("RGB").resize((64, 64))
    mean = (0.5, 0.4, 0.3)
    if policy == "trivial":
        from torchvision.transforms import InterpolationMode, TrivialAugmentWide

        theirs = TrivialAugmentWide(interpolation=InterpolationMode.BICUBIC)
    else:
        transform = create_transform(
            64, is_training=True, auto_augment=policy, color_jitter=0.3, interpolation="bicubic", mean=mean, separate=True
        )
        assert isinstance(transform, tuple)
        theirs = transform[1]
    ours, changed = Policy(policy, 0.3 if policy != "trivial" else 0.0, mean=mean, interpolation="bicubic", seed=5), 0
    for epoch in range(8):
        key = Key(epoch, 3)
        with seeded() as seed:
            seed(derive_seed(*key.purpose("policy", 5)))
            expected = np.asarray(theirs(image))
        assert np.array_equal(np.asarray(ours(image, key)), expected)
        changed += not np.array_equal(np.asarray(image), expected)
    assert changed >= 3


def test_the_end_of_timms_scale_is_black(imagenet_photos):
    """Posterize at magnitude 10 keeps no bit, which Pillow refuses."""
    image = Image.open(next(imagenet_photos.glob("train/*/*"))).convert("RGB").resize((32, 32))
    policy = Policy("rand-m10-n9-p1-inc1", 0.0, mean=(0.0, 0.0, 0.0), interpolation="bilinear", seed=0)
    assert min(np.asarray(policy(image, Key(epoch, 0))).max() for epoch in range(40)) == 0


def test_random_interpolation_is_by_timms_two_filters(folder, backend):
    """Each image is exactly as one of the two shows it, and both come."""
    ways = {key: only(folder(backend, interpolation=key).train.epoch(0)).images for key in ("random", "bilinear", "bicubic")}
    like = [[torch.equal(a, b) for a, b in zip(ways["random"], ways[key], strict=True)] for key in ("bilinear", "bicubic")]
    assert [*map(any, like)] == [True, True]
    assert all(a != b for a, b in zip(*like, strict=True))


def test_vertical_flips(folder, backend):
    whole = {"min_scale": 1.0, "flip": False}
    plain, flipped = (only(folder(backend, vertical_flip=each, **whole).train.epoch(0)).images for each in (False, True))
    pairs = [*zip(plain, flipped, strict=True)]
    kept, turned = (
        [float((a - b).abs().mean()) < LEVEL for a, b in each] for each in (pairs, [(a, b.flip(-2)) for a, b in pairs])
    )
    assert {*zip(kept, turned, strict=True)} == {(True, False), (False, True)}


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_random_erasing_is_timms(folder, backend, mode):
    keys = {"random_erasing": 0.6, "random_erasing_mode": mode, "random_erasing_count": 2}
    plain, erased = only(folder(backend).train.epoch(2)), only(folder(backend, **keys).train.epoch(2))
    expected, theirs = plain.images.clone(), RandomErasing(0.6, mode=mode, max_count=2, device="cpu")
    with seeded() as seed:
        for image, index in zip(expected, plain.indices.tolist(), strict=True):
            seed(derive_seed("erasing", 3, 2, index))
            theirs(image)
    assert torch.equal(erased.images, expected)
    assert 1 <= sum(not torch.equal(a, b) for a, b in zip(plain.images, expected, strict=True)) <= 9


def test_workers_ranks_and_a_resume_change_nothing(folder, backend):
    """All keys at once, on two ranks and with workers, from the middle of an epoch, after another epoch was left."""
    keys = {**EVERYTHING, "batch_size": 2, "image_size": 24}
    whole = list(folder(backend, **keys).train.epoch(1))
    assert len(whole) == 5
    for rank in (0, 1):
        data = folder(backend, **keys, rank=rank, world_size=2, workers=2 - rank)
        list(islice(data.train.epoch(0), 2))
        for batch, together in zip(data.train.epoch(1, start_step=2), whole[2:], strict=True):
            assert torch.equal(batch.images, together.images[rank : rank + 1])
            assert torch.equal(batch.indices, together.indices[rank : rank + 1])
        data.close()
    shown = torch.cat([batch.indices for batch in whole])
    assert shown.unique(return_counts=True)[1].sort().values.tolist() == [1, 3, 3, 3]
    again = torch.cat([batch.images for batch in whole])[shown == shown.mode().values]
    assert len(again) == 3
    assert not torch.equal(again[0], again[1])


def test_progressive_sizes_and_corrupt_files_go_on_with_a_policy(load, backend, imagenet_photos, tmp_path):
    shutil.copytree(imagenet_photos, tmp_path / "photos")
    bad = next((tmp_path / "photos").glob("train/*/*"))
    bad.write_bytes(bad.read_bytes()[:300])
    growing = ProgressiveConfig(start_size=24, start=Length(0, "run"), end=Length(1, "epochs"), multiple=8)
    keys = {**SMALL, "root": str(tmp_path / "photos"), "backend": backend, "progressive": growing, "epochs": 2}
    data = load("image_folder", **{**keys, **EVERYTHING, "bad_images": "skip", "workers": 1})
    assert [only(data.train.epoch(epoch)).images.shape for epoch in (0, 1)] == [(10, 3, side, side) for side in (24, 48)]
    stopping = load("image_folder", **keys, auto_augment="3a")
    assert message_of(lambda: list(stopping.train.epoch(0))).startswith(f"{bad} cannot be decoded (")


def test_without_augmentation_nothing_is_drawn(folder, backend):
    plain = folder(backend, augment=False)
    keys = {key: value for key, value in EVERYTHING.items() if key != "repeated_augment"}
    assert same(plain.train.epoch(0), folder(backend, augment=False, **keys, color_jitter=0.4).train.epoch(0))


def test_validation_is_left_alone(folder, backend):
    assert same(folder(backend).val, folder(backend, **{**EVERYTHING, "eval_interpolation": "bilinear"}).val)


def test_the_draws_of_others_go_on_as_before(folder):
    """Policies and erasing draw from the process's generators, and put them back."""
    data = folder("torchvision", **EVERYTHING)
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    list(data.train.epoch(0))
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("crop_mode", "resize"), [("center", 56), ("squash", 56), ("border", 48), ("border", 56), ("border", 70)]
)
def test_validation_is_timms(load, backend, tmp_path, write_jpegs, interpolation, crop_mode, resize):
    """Wide and high images alike."""
    from sklearn.datasets import load_sample_images

    photo = load_sample_images().images[0]
    files = []
    for number, (height, width) in enumerate([(200, 320), (330, 180)]):
        for split in ("train", "val"):
            folder = tmp_path / split / str(number)
            folder.mkdir(parents=True)
            Image.fromarray(photo[:height, :width]).save(folder / "0.png")
        files.append(folder / "0.png")
    data = load(
        "image_folder",
        root=str(tmp_path),
        backend=backend,
        **{**SMALL, "batch_size": 2},
        interpolation=interpolation,
        crop_mode=crop_mode,
        resize=resize,
    )
    theirs = create_transform(
        48, interpolation=interpolation, crop_mode=crop_mode, crop_pct=48 / resize, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    for image, file in zip(only(data.val).images, files, strict=True):
        difference = (image - theirs(Image.open(file).convert("RGB"))).abs()
        # Beyond an image's edge DALI repeats its last pixels, and Pillow takes the mean of those that are there.
        assert difference.max() <= (16 if (backend, crop_mode) == ("dali", "border") else 2.01) * LEVEL
        assert difference.mean() <= 0.3 * LEVEL


def test_a_bicubic_window_holds_all_pixels_that_its_filter_needs():
    """Twice as many to either side as a bilinear one."""
    for interpolation, reach in (("bilinear", 5), ("bicubic", 9)):
        window = CentreWindows(lambda _: 100, 2.0, "center", interpolation)(Key(0, 0), 800, 800)
        assert (window.top, window.height) == (200 - reach, 400 + 2 * reach)


def test_workers_get_copies_of_what_the_decoder_overwrites():
    """A decoder gives all its batches in one piece of memory."""
    loading = Loading(device=torch.device("cpu"), **LOADING)
    images, keys = torch.empty(1, 3, 8, 8, dtype=torch.uint8), [Key(0, 0)]

    def decoded():
        for level in range(6):
            images.fill_(level)
            yield Pixels(images, torch.tensor([level]), torch.tensor([level]), keys, [])

    workers = PolicyWorkers(Policy(None, 0.0, mean=(0.5,), interpolation="bilinear", seed=0), loading, workers=1)
    found = [(int(pixels.images.unique()), int(pixels.labels)) for pixels in workers.stream(decoded())]
    workers.close()
    assert found == [(level, level) for level in range(6)]
