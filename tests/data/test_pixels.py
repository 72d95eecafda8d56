"""Images of every kind that Pillow can read: the two backends show the same of each, and what nobody can show is named."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from dist_sparse.data.batch import Normalise
from dist_sparse.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from tests.data.compare import message_of

SIZE = {"image_size": 40, "resize": 44, "workers": 0, "batch_size": 1}
LEVEL = 1.01 / 255 / min(IMAGENET_STD)


def sixteen(grey: np.ndarray) -> np.ndarray:
    """The same grey levels in 16 bits."""
    return grey.astype(np.uint16) * 257


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def lab(photo: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(photo, *profiles, outputMode="LAB")
    assert image is not None
    return image


def see_through(photo: Image.Image) -> Image.Image:
    photo = photo.copy()
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    return photo


GREY: dict[str, Callable[[np.ndarray], bytes]] = {
    "8.png": lambda grey: saved(Image.fromarray(grey), "PNG"),
    "8.jpg": lambda grey: saved(Image.fromarray(grey), "JPEG", quality=100),
    "16.png": lambda grey: saved(Image.fromarray(sixteen(grey)), "PNG"),
    "16.tif": lambda grey: saved(Image.fromarray(sixteen(grey)), "TIFF"),
    "16-big.tif": lambda grey: saved(Image.frombytes("I;16B", grey.shape[::-1], sixteen(grey).astype(">u2").tobytes()), "TIFF"),
    "16.pgm": lambda grey: saved(Image.fromarray(sixteen(grey)), "PPM"),
    "100.pgm": lambda grey: b"P5 %d %d 100\n" % grey.shape[::-1] + np.rint(grey / 2.55).astype(np.uint8).tobytes(),
}
"""Grey images that all show the same, by file name."""

COLOUR: dict[str, Callable[[Image.Image], bytes]] = {
    "turned.jpg": lambda photo: saved(photo, "JPEG", exif=turned()),
    "turned.png": lambda photo: saved(photo, "PNG", exif=turned()),
    "turned.webp": lambda photo: saved(photo, "WEBP", exif=turned()),
    "turned.tif": lambda photo: saved(photo, "TIFF", tiffinfo={274: 6}),
    "cmyk.jpg": lambda photo: saved(photo.convert("CMYK"), "JPEG"),
    "rgba.png": lambda photo: saved(see_through(photo), "PNG"),
    "rgba.tif": lambda photo: saved(see_through(photo), "TIFF"),
    "rgba.webp": lambda photo: saved(see_through(photo), "WEBP", lossless=True),
    "grey-alpha.png": lambda photo: saved(see_through(photo).convert("LA"), "PNG"),
    "palette.png": lambda photo: saved(photo.quantize(64), "PNG"),
    "palette-see-through.png": lambda photo: saved(photo.quantize(64), "PNG", transparency=3),
    "palette.bmp": lambda photo: saved(photo.quantize(64), "BMP"),
    "two.png": lambda photo: saved(photo.convert("1"), "PNG"),
    "two.tif": lambda photo: saved(photo.convert("1"), "TIFF"),
    "lab.tif": lambda photo: saved(lab(photo), "TIFF"),
    "moving.png": lambda photo: saved(photo, "PNG", save_all=True, append_images=[photo.rotate(90)]),
    "moving.webp": lambda photo: saved(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)]),
    "a-gif.png": lambda photo: saved(photo, "GIF"),
    "a-png.jpg": lambda photo: saved(photo, "PNG"),
}


@pytest.fixture
def photo(photos) -> Image.Image:
    return Image.fromarray(photos[1]).resize((60, 44), Image.Resampling.BICUBIC)


@pytest.fixture
def show(load, by_index, photo, tmp_path) -> Callable[[str, bytes], torch.Tensor]:
    """What both backends show of a file in validation: float32 [3, 40, 40] levels, the same to two."""
    normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu"))
    black, white = (normalise(torch.full((3, 1, 1), level, dtype=torch.uint8)) for level in (0, 255))
    for split in ("train", "val"):
        for name in ("one", "two"):
            (tmp_path / split / name).mkdir(parents=True)
            photo.save(tmp_path / split / name / "0.png")

    def both(name: str, data: bytes) -> torch.Tensor:
        for before in (tmp_path / "val" / "one").iterdir():
            before.unlink()
        (tmp_path / "val" / "one" / name).write_bytes(data)
        shown = [
            by_index(load("image_folder", root=str(tmp_path), backend=backend, **SIZE).val)[0][0]
            for backend in ("torchvision", "dali")
        ]
        assert (shown[0] - shown[1]).abs().max() <= 2 * LEVEL
        return (shown[0] - black) / (white - black) * 255

    return both


@pytest.mark.parametrize("name", GREY)
def test_grey_of_any_depth_is_as_bright_as_that_of_8_bits(show, photo, name):
    grey = np.asarray(photo.convert("L"))
    levels = show(name, GREY[name](grey))
    centre = Image.fromarray(grey).crop((8, 0, 52, 44)).crop((2, 2, 42, 42))
    assert np.abs(levels.numpy() - np.asarray(centre)[None]).max() <= 4


@pytest.mark.parametrize("name", COLOUR)
def test_the_backends_agree(show, photo, name):
    """Transparency is left out by both."""
    assert show(name, COLOUR[name](photo)).std() > 20


@pytest.mark.parametrize("name", [name for name in COLOUR if name.startswith("turned")])
def test_the_orientation_in_a_file_is_followed_in_tiff_alone(show, photo, name):
    """Pillow itself turns a TIFF upright as it decodes it."""
    upright = photo.transpose(Image.Transpose.ROTATE_270) if name.endswith(".tif") else photo
    differences = (show(name, COLOUR[name](photo)) - show("upright.png", saved(upright, "PNG"))).abs()
    assert differences.mean() < 16, "but for what a lossy format changes"


@pytest.mark.parametrize("backend", ["torchvision", "dali"])
@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_pixels_without_a_range_are_a_bad_image(load, photo, tmp_path, backend, dtype, kind):
    for split in ("train", "val"):
        for name in ("one", "two"):
            (tmp_path / split / name).mkdir(parents=True)
            photo.save(tmp_path / split / name / "0.png")
    bad: Path = tmp_path / "val" / "one" / "0.tif"
    Image.fromarray(np.asarray(photo.convert("L")).astype(dtype)).save(bad)
    data = load("image_folder", root=str(tmp_path), backend=backend, **SIZE)
    assert message_of(lambda: list(data.val)).startswith(
        f"{bad} cannot be decoded ({kind} pixels have no range that says what "
    )
