"""Image folders cut from real photographs, on both backends: layout, order, workers, resume and corrupt files."""

import logging
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from dist_sparse.config.data import ForgettingConfig
from dist_sparse.data.batch import Normalise
from dist_sparse.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from tests.data.compare import message_of, same

SMALL = {"image_size": 16, "resize": 20, "workers": 0}
TRAIN_SIZE, VAL_SIZE = 22, 8
LEVEL = 1.01 / 255 / min(IMAGENET_STD)
"""One of the 256 levels of a pixel, in a normalised image."""


@pytest.fixture
def root(write_jpegs, tmp_path) -> Path:
    """Two classes, 12 + 10 training and 5 + 3 held-out photographs."""
    for number, (split, synset, count) in enumerate(
        [("train", "n01440764", 12), ("train", "n02102040", 10), ("val", "n01440764", 5), ("val", "n02102040", 3)]
    ):
        write_jpegs(tmp_path / split / synset, count, seed=number)
    return tmp_path


@pytest.fixture(params=["torchvision", "dali"])
def folder(request, load, root):
    return lambda **keys: load("image_folder", root=str(root), backend=request.param, **{**SMALL, **keys})


def spoil(root: Path, split: str, number: int, synset: str = "n01440764") -> Path:
    """Cut a file short, as an interrupted copy would."""
    path = root / split / synset / f"{synset}_{number}.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    return path


def test_layout_labels_and_positions(folder, by_index):
    data = folder()
    assert data.info.classes == 2
    assert (data.info.channels, data.info.image_size) == (3, 16)
    assert (data.info.train_size, data.info.val_size) == (TRAIN_SIZE, VAL_SIZE)
    samples = by_index(data.train.epoch(0))
    assert len(samples) == 16
    assert data.train.steps_per_epoch == 2
    assert all(label == (index >= 12) for index, (_, label) in samples.items())
    assert all(label == (index >= 5) for index, (_, label) in by_index(data.val).items())


@pytest.mark.parametrize(("limit", "sizes"), [(4, (4, 4)), (16, (16, VAL_SIZE)), (100, (TRAIN_SIZE, VAL_SIZE))])
def test_a_limit_spreads_over_each_split(folder, by_index, limit, sizes):
    data = folder(limit=limit, augment=False, batch_size=2)
    assert (data.info.train_size, data.info.val_size) == sizes
    assert len(by_index(data.val)) == sizes[1]
    assert {label for _, label in by_index(data.train.epoch(0)).values()} == {0, 1}


def test_validation_is_resize_centre_crop_and_imagenets_normalisation(folder, root, by_index):
    transform = v2.Compose([v2.Resize(20), v2.CenterCrop(16), v2.PILToTensor()])
    normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu"))
    files = sorted(root.glob("val/*/*.JPEG"))
    for index, (image, _) in by_index(folder().val).items():
        expected = transform(Image.open(files[index]).convert("RGB"))
        assert (image - normalise(expected)).abs().max() <= LEVEL


def test_augment_false_trains_on_the_centre_crop(folder, by_index):
    one, other = (by_index(folder(augment=False, batch_size=22).train.epoch(epoch)) for epoch in (0, 1))
    assert all(torch.equal(one[index][0], other[index][0]) for index in one)
    one, other = (by_index(folder(batch_size=22).train.epoch(epoch)) for epoch in (0, 1))
    assert not any(torch.equal(one[index][0], other[index][0]) for index in one)


def test_flip_false_never_flips(folder, by_index):
    """With the whole image as the only crop, flips are all that is left of the augmentation."""
    whole = {"min_scale": 1.0, "batch_size": 22}
    plain = by_index(folder(augment=False, batch_size=22, resize=16).train.epoch(0))
    for flip, flipped_some in ((False, False), (None, True), (True, True)):
        images = by_index(folder(flip=flip, **whole).train.epoch(0))
        distance = {index: (images[index][0] - plain[index][0]).abs().mean() for index in plain}
        mirrored = {index: (images[index][0].flip(-1) - plain[index][0]).abs().mean() for index in plain}
        assert any(mirrored[index] < distance[index] for index in plain) == flipped_some


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_over_several_epochs(folder, workers):
    alone, data = folder(accumulation=2), folder(accumulation=2, workers=workers)
    for epoch in (0, 1):
        assert same(alone.train.epoch(epoch), data.train.epoch(epoch))
        assert same(alone.val, data.val)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_and_an_abandoned_epoch(folder, workers):
    whole = list(folder(batch_size=4, accumulation=2).train.epoch(1))
    data = folder(batch_size=4, accumulation=2, workers=workers)
    assert same(islice(data.train.epoch(1), 3), whole[:3])  # left in the middle, with batches under way
    assert same(data.train.epoch(1, start_step=2), whole[4:])
    assert list(data.train.epoch(1, start_step=5)) == []
    assert same(data.train.epoch(1), whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_among_some_positions(folder, by_index, workers):
    """It is shorter, has the images that it has anyway, goes on in its middle, and is forgotten by the next epoch."""
    among = torch.tensor([20, 3, 14, 7, 0, 9, 21, 5, 16, 11, 2])
    data = folder(batch_size=4, accumulation=2, workers=workers)
    whole = list(data.train.epoch(1, 0, among))
    assert len(whole) == 4, "two steps: the last three positions fill no third one"
    some = by_index(whole)
    assert some.keys() < set(among.tolist())
    assert same(data.train.epoch(1, 1, among), whole[2:])
    assert list(data.train.epoch(1, 2, among)) == []
    everything = by_index(data.train.epoch(1))
    assert len(everything) == 20
    assert all(torch.equal(some[index][0], everything[index][0]) for index in some.keys() & everything.keys())
    assert not same(data.train.epoch(0, 0, among), whole)


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_among_some_positions_is_shared_out(folder, by_index, world_size):
    among = torch.arange(1, 17)
    ranks = [folder(rank=rank, world_size=world_size, batch_size=8).train.epoch(2, 0, among) for rank in range(world_size)]
    assert by_index(chain.from_iterable(ranks)).keys() == set(among.tolist())


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (2, 2), (4, 1)])
def test_global_batches_do_not_depend_on_ranks(folder, world_size, accumulation):
    alone = list(folder().train.epoch(0))
    ranks = [
        list(folder(rank=rank, world_size=world_size, accumulation=accumulation).train.epoch(0)) for rank in range(world_size)
    ]
    for step, whole in enumerate(alone):
        parts = [rank[a] for a in range(step * accumulation, (step + 1) * accumulation) for rank in ranks]
        assert all(torch.equal(torch.cat([part[field] for part in parts]), whole[field]) for field in range(3))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
def test_validation_sees_every_image_once(folder, by_index, world_size):
    shares = (
        folder(batch_size=20 if world_size == 5 else 12, rank=rank, world_size=world_size).val for rank in range(world_size)
    )
    assert by_index(chain.from_iterable(shares)).keys() == set(range(VAL_SIZE))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_does_not_touch_the_processes_generator(folder, workers):
    before = torch.get_rng_state()
    data = folder(workers=workers)
    list(data.train.epoch(0))
    list(data.val)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_corrupt_image_stops_with_one_line(folder, root, split, workers):
    path = spoil(root, split, 1)
    data = folder(batch_size=22, workers=workers)
    message = message_of(lambda: list(data.train.epoch(0) if split == "train" else data.val))
    assert message.startswith(f"{path} cannot be decoded (")
    assert message.endswith("; mend or remove it, or set data.bad_images=skip")
    assert "\n" not in message


@pytest.mark.parametrize("workers", [0, 2])
def test_training_takes_the_neighbour_of_a_skipped_image(folder, root, workers, caplog):
    bad = [spoil(root, "train", 9, "n02102040"), spoil(root, "train", 8, "n02102040")]  # the last two: the first is next
    data = folder(batch_size=22, bad_images="skip", workers=workers)
    with caplog.at_level(logging.WARNING):
        for epoch in (0, 1):
            (batch,) = data.train.epoch(epoch)
            counts = batch.indices.bincount(minlength=22)
            assert counts.tolist() == [3, *[1] * 19, 0, 0]
            assert torch.equal(batch.labels, (batch.indices >= 12).long())
    assert sorted(record.args[0] for record in caplog.records) == sorted(map(str, bad))


def test_counts_of_forgetting_have_no_neighbours_of_skipped_images(load):
    """Such a sample comes twice in an epoch: its outcome would be that of either rank, or of the batch that was later."""
    keys = {"bad_images": "skip", "forgetting": ForgettingConfig(epochs=2)}
    assert message_of(lambda: load("image_folder", **keys)) == (
        "data.forgetting.epochs=2 counts over epochs that show every sample once: data.bad_images must be stop, since skip "
        "shows a neighbour in a bad image's place"
    )
    load("digits", **keys)  # has no bad images


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_leaves_a_skipped_image_out(folder, root, by_index, workers, caplog):
    for number in range(5):
        spoil(root, "val", number)
    data = folder(bad_images="skip", workers=workers, eval_batch_size=2)
    for _ in range(2):
        assert by_index(data.val).keys() == {5, 6, 7}
    assert len(caplog.records) == 5


def test_a_folder_of_corrupt_images_ends_the_run_even_when_skipping(folder, root):
    for path in root.glob("train/*/*"):
        path.write_bytes(b"not an image")
    data = folder(bad_images="skip")
    assert message_of(lambda: list(data.train.epoch(0))) == "no training image can be decoded"


def test_other_formats_and_modes_become_rgb(folder, root, photos):
    target = root / "val" / "n01440764"
    photo = Image.fromarray(photos[0])
    photo.convert("L").save(target / "grey.png")
    photo.convert("CMYK").save(target / "print.jpg")
    photo.convert("P").save(target / "palette.bmp")
    (target / "notes.txt").write_text("not an image, and not taken for one")
    data = folder()
    assert data.info.val_size == VAL_SIZE + 3
    assert all(batch.images.shape[1:] == (3, 16, 16) for batch in data.val)


def test_missing_and_empty_folders_are_one_clear_line(folder, root):
    def fails(message: str) -> None:
        found = message_of(folder)
        assert found.startswith(message)
        assert "\n" not in found

    (root / "val" / "n02102040").rename(root / "val" / "n03000684")
    fails(f"{root}/val lacks classes that {root}/train has: n02102040")
    (root / "train" / "n02102040").rename(root / "train" / "n03000684")
    (root / "val" / "n00000000").mkdir()
    fails(f"{root}/val has class folders without an image (.jpg, .jpeg, ")
    (root / "val").rename(root / "val (copy)")
    fails(f"there is no folder {root}/val; expected {root}/val/<class>/*.JPEG")
    (root / "val").mkdir()
    fails(f"{root}/val is empty; expected {root}/val/<class>/*.JPEG")


def test_classes_that_only_validation_has_are_named(folder, root, write_jpegs):
    write_jpegs(root / "val" / "n09", 1)
    assert message_of(folder) == f"{root}/train lacks classes that {root}/val has: n09"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"download": True}, "data.download: image_folder is not fetched, it is read from data.root"),
        ({"crop_padding": 4}, "data.crop_padding is for small data sets; image_folder crops by data.min_scale"),
        ({"resize": 15}, "data.resize=15 should be at least data.image_size=16"),
        ({"batch_size": 23}, "train.batch_size=23 is more than the 22 training samples of image_folder; 22 would do"),
    ],
)
def test_mistakes_are_one_clear_line(folder, keys, message):
    assert message_of(lambda: folder(**keys)) == message
