"""Worker processes that decode with Pillow and hand over uint8 images, as torchvision's ImageFolder does.

The windows on the images come from :mod:`dist_sparse.data.images.windows`, not from torchvision's transforms, whose draws
depend on the worker; what they do to the pixels is the same.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.transforms.v2 import functional

from dist_sparse.data.batch import Loading
from dist_sparse.data.decoding import BadImage
from dist_sparse.data.images.files import ImageFiles, first_good, read_image
from dist_sparse.data.images.loaders import Pixels
from dist_sparse.data.images.policy import Policy
from dist_sparse.data.images.windows import Colour, Window, Windows
from dist_sparse.data.images.workers import begin_pass, begin_worker, end_workers
from dist_sparse.data.order import Key
from dist_sparse.loading_errors import loading_explained
from dist_sparse.seeding import generator


class Sample(NamedTuple):
    """What a worker makes of one key: ``image`` is uint8 [3, H, W], or None where no file could be decoded."""

    key: Key
    image: Tensor | None
    label: int
    index: int
    bad: list[BadImage]


class ImageDataset(Dataset[Sample]):
    """Decodes and transforms one file per key; with ``substitute`` a corrupt file is replaced by the next good one."""

    def __init__(self, files: ImageFiles, windows: Windows, policy: Policy | None, *, substitute: bool) -> None:
        self._files, self._windows, self._policy, self._substitute = files, windows, policy, substitute

    def __getitem__(self, key: Key) -> Sample:
        image, index, bad = first_good(self._files, key.position, read_image, substitute=self._substitute)
        if image is None:
            return Sample(key, None, -1, -1, bad)
        shown = show(image, self._windows(key, image.height, image.width), self._windows.border)
        pixels = functional.pil_to_tensor(shown if self._policy is None else self._policy(shown, key))
        return Sample(key, pixels, int(self._files.labels[index]), index, bad)


def show(image: Image.Image, window: Window, border: Colour | None = None) -> Image.Image:
    """What a window shows of an image."""
    top, left, bottom, right = window.roi
    height, width = window.shown
    resampling = Image.Resampling.BICUBIC if window.cubic else Image.Resampling.BILINEAR
    part = image.crop((window.left, window.top, window.left + window.width, window.top + window.height))
    part = part.resize((width, height), resampling, box=(left, top, right, bottom))
    if window.flip:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if window.vertical_flip:
        part = part.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if window.place is None:
        return part
    whole = Image.new("RGB", (window.size, window.size), border or 0)
    whole.paste(part, (window.place[1], window.place[0]))
    return whole


def collate(samples: list[Sample]) -> Pixels:
    """One batch of the samples that have an image."""
    good = [sample for sample in samples if sample.image is not None]
    images = [sample.image for sample in good if sample.image is not None]
    pixels = Pixels(
        images=torch.stack(images) if images else torch.empty(0, dtype=torch.uint8),
        labels=torch.tensor([sample.label for sample in good], dtype=torch.int64),
        indices=torch.tensor([sample.index for sample in good], dtype=torch.int64),
        keys=[sample.key for sample in good],
        bad=[bad for sample in samples for bad in sample.bad],
    )
    if get_worker_info() is not None:
        # Here an error comes to the run. In the thread that would do it else, it is printed, and the run waits for ever.
        for tensor in pixels[:3]:
            tensor.share_memory_()
    return pixels


class _Keys:
    """The batches of the next pass. The DataLoader asks for them in the main process, so they may change from pass to pass."""

    batches: Iterable[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


class TorchvisionBackend:
    """A DataLoader whose ``workers`` processes live on from pass to pass."""

    def __init__(
        self,
        files: ImageFiles,
        windows: Windows,
        loading: Loading,
        *,
        workers: int,
        batch_size: int,
        substitute: bool,
        policy: Policy | None = None,
    ) -> None:
        del batch_size  # the keys come in batches
        self._keys = _Keys()
        self._loader = DataLoader(
            ImageDataset(files, windows, policy, substitute=substitute),
            batch_sampler=self._keys,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=loading.device.type == "cuda",
            worker_init_fn=begin_worker,
            # Its own: the process's generator must not depend on how often we resume.
            generator=generator("workers", loading.seed),
        )

    def stream(self, batches: Iterable[list[Key]]) -> Iterator[Pixels]:
        self._keys.batches = batches
        with loading_explained():
            yield from begin_pass(self._loader, self)

    def close(self) -> None:
        end_workers(self._loader)
