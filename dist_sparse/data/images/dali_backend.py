"""NVIDIA DALI: decodes only what a window needs, then resizes and flips it, in threads of this process or on its GPU.

Order, windows and labels are ours: DALI gets encoded images and coordinates batch by batch and keeps no state between them. A
pass can therefore begin anywhere in an epoch, and on the CPU gives the very pixels of any other pass over the same samples.
On a GPU it decodes there (``mixed``); that path has not yet been run on one.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from torch import Tensor

from dist_sparse.data.batch import Loading
from dist_sparse.data.decoding import BadImage
from dist_sparse.data.images.files import Encoded, ImageFiles, first_good, read_encoded, read_plain
from dist_sparse.data.images.loaders import Pixels
from dist_sparse.data.images.policy import Policy
from dist_sparse.data.images.policy_workers import PolicyWorkers
from dist_sparse.data.images.windows import Window, Windows
from dist_sparse.data.order import Key

READ_AHEAD = 2
"""Batches that are read from disk before DALI asks for them."""
DECODE_AHEAD = 2
"""Batches that DALI decodes before we ask for them."""
LINEAR, CUBIC = types.DALIInterpType.INTERP_LINEAR, types.DALIInterpType.INTERP_CUBIC


class Sample(NamedTuple):
    """What was read for one key: the encoded image, the window on it, and where it came from."""

    key: Key
    data: np.ndarray
    window: Window
    index: int


class Reading(NamedTuple):
    """A batch on its way: the samples that have an image, and the bad files that were met."""

    keys: list[Key]
    samples: list[Sample]
    bad: list[BadImage]


class DaliBackend:
    """Each pass has a pipeline of its own (milliseconds to build), and as many threads to read as to decode.

    What a ``policy`` does, processes beside them do: DALI's own policies are not timm's.
    """

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
        self._files, self._windows, self._loading = files, windows, loading
        self._policy = None if policy is None else PolicyWorkers(policy, loading, workers=workers)
        self._batch_size, self._threads, self._substitute = batch_size, max(1, workers), substitute
        self._for_pillow: set[int] = set()
        """Positions of files that DALI does not decode, or that came in one batch with such a file."""
        self._pool: Executor | None = None

    def stream(self, batches: Iterable[list[Key]]) -> Iterator[Pixels]:
        decoded = self._decode(batches)
        return decoded if self._policy is None else self._policy.stream(decoded)

    def _decode(self, batches: Iterable[list[Key]]) -> Iterator[Pixels]:
        pool = self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="read-images")
        try:
            yield from self._decoded(Feed(self._read_ahead(batches, pool), self._windows), pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Read no more: Python's exit would wait for every image that is still asked for."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self._policy is not None:
            self._policy.close()

    def _decoded(self, feed: "Feed", pool: Executor) -> Iterator[Pixels]:
        pipeline, failed = self._pipeline(feed), False
        while True:
            try:
                (images,) = pipeline.run(*self._stream_of_torch())
            except StopIteration:
                break
            except RuntimeError:
                if failed:
                    raise
                feed.repeat(lambda reading: self._read_by_pillow(reading, pool))
                pipeline, failed = self._pipeline(feed), True
                continue
            failed = False
            yield from self._pixels(feed.come_out(), images)
        yield from self._pixels(feed.come_out(), None)

    def _pixels(self, readings: list[Reading], images: Any) -> Iterator[Pixels]:
        """The batches that came out, of which only the last can have images."""
        for reading in readings:
            yield Pixels(
                images=self._as_tensor(images) if reading.samples else torch.empty(0, dtype=torch.uint8),
                labels=torch.tensor([int(self._files.labels[sample.index]) for sample in reading.samples], dtype=torch.int64),
                indices=torch.tensor([sample.index for sample in reading.samples], dtype=torch.int64),
                keys=[sample.key for sample in reading.samples],
                bad=reading.bad,
            )

    def _read_ahead(self, batches: Iterable[list[Key]], pool: Executor) -> Iterator[Reading]:
        under_way: deque[list[Any]] = deque()
        for keys in batches:
            under_way.append([keys, *(pool.submit(self._read, key) for key in keys)])
            if len(under_way) > READ_AHEAD:
                yield _reading(*under_way.popleft())
        while under_way:
            yield _reading(*under_way.popleft())

    def _read(self, key: Key) -> tuple[Sample | None, list[BadImage]]:
        image, index, bad = first_good(self._files, key.position, self._read_file, substitute=self._substitute)
        if image is None:
            return None, bad
        data = np.frombuffer(image.data, dtype=np.uint8)
        return Sample(key, data, self._windows(key, image.height, image.width), index), bad

    def _read_file(self, files: ImageFiles, position: int) -> Encoded | BadImage:
        if position not in self._for_pillow:
            encoded = read_encoded(files, position)
            if isinstance(encoded, BadImage) or encoded.alike:
                return encoded
        return read_plain(files, position)

    def _read_by_pillow(self, reading: Reading, pool: Executor) -> Reading:
        """A batch that DALI could not decode, with every image decoded by Pillow: that finds the bad one."""
        self._for_pillow.update(sample.index for sample in reading.samples)
        again = _reading(reading.keys, *(pool.submit(self._read, key) for key in reading.keys))
        if len(again.bad) > len(reading.bad):  # found, so the others are above suspicion
            self._for_pillow.difference_update(sample.index for sample in again.samples)
        return again

    def _pipeline(self, feed: "Feed") -> Any:
        """Encoded images and windows -> uint8 images [B, size, size, 3], or [B, 3, size, size] without channels_last."""
        device, kind, border = self._loading.device, self._windows.interpolation, self._windows.border

        @pipeline_def
        def define() -> Any:
            outputs = fn.external_source(source=feed, num_outputs=6 + len(feed.extras))
            (data, corner, sides, first, last, shown), extras = outputs[:6], dict(zip(feed.extras, outputs[6:], strict=True))
            images: Any = fn.decoders.image_slice(
                data,
                corner,
                sides,
                axis_names="HW",
                device="mixed" if device.type == "cuda" else "cpu",
                adjust_orientation=False,  # as Pillow does
            )
            # With antialias these are Pillow's filters; a region whose end comes first is flipped.
            filter_: Any = LINEAR if kind == "bilinear" else CUBIC
            if kind == "random":
                filter_ = fn.cast(extras["filter"], dtype=types.DALIDataType.INTERP_TYPE)
            images = fn.resize(images, roi_start=first, roi_end=last, size=shown, interp_type=filter_, antialias=True)
            if border is not None:
                pad = {"out_of_bounds_policy": "pad", "fill_values": list(border)}
                images = fn.slice(images, start=extras["start"], shape=extras["size"], axes=[0, 1], **pad)
            return images if self._loading.channels_last else fn.transpose(images, perm=[2, 0, 1])

        pipeline = define(
            batch_size=self._batch_size,
            num_threads=self._threads,
            device_id=(device.index or 0) if device.type == "cuda" else None,
            prefetch_queue_depth=DECODE_AHEAD,
        )
        pipeline.build()
        return pipeline

    def _stream_of_torch(self) -> tuple[Any, ...]:
        """On a GPU, the stream that reads the images, so that DALI neither waits for it nor takes the memory back too early."""
        return (torch.cuda.current_stream(self._loading.device),) if self._loading.device.type == "cuda" else ()

    def _as_tensor(self, images: Any) -> Tensor:
        tensor = torch.from_dlpack(images.as_tensor())
        return tensor.permute(0, 3, 1, 2) if self._loading.channels_last else tensor


class Feed:
    """What a pipeline calls for its next batch. It remembers those that have not come out, for the case that one cannot."""

    def __init__(self, readings: Iterator[Reading], windows: Windows) -> None:
        self._readings = readings
        self.extras = [
            *(["filter"] if windows.interpolation == "random" else []),
            *(["start", "size"] if windows.border else []),
        ]
        """What this pass gives beside what every pass does, as :data:`EXTRAS` has it."""
        self._again: deque[Reading] = deque()
        self._under_way: deque[Reading] = deque()

    def __call__(self) -> tuple[Any, ...]:
        """Encoded images; corner and sides of what to decode of each; first and last corner of what to show of that, and the
        size it gets; the ``extras``.

        Batches without an image are only taken note of. StopIteration ends the pass.
        """
        while True:
            reading = self._again.popleft() if self._again else next(self._readings)
            self._under_way.append(reading)
            if reading.samples:
                windows = [sample.window for sample in reading.samples]
                return (
                    [sample.data for sample in reading.samples],
                    *_arrays(windows),
                    *(EXTRAS[each](windows) for each in self.extras),
                )

    def come_out(self) -> list[Reading]:
        """The batches up to and with the first that has images: those that are done once the pipeline has given one."""
        done = []
        while self._under_way:
            done.append(self._under_way.popleft())
            if done[-1].samples:
                break
        return done

    def repeat(self, mend: Any) -> None:
        """Begin again with the batches under way, each of them mended, for a new pipeline."""
        self._again.extendleft(reversed([mend(reading) for reading in self._under_way]))
        self._under_way.clear()


def _reading(keys: list[Key], *futures: Any) -> Reading:
    results = [future.result() for future in futures]
    samples = [sample for sample, _ in results if sample is not None]
    return Reading(keys, samples, [each for _, bad in results for each in bad])


def _arrays(windows: list[Window]) -> tuple[np.ndarray, ...]:
    rois = np.array([window.roi for window in windows], dtype=np.float32)
    first, last = rois[:, :2].copy(), rois[:, 2:].copy()
    for axis, flips in enumerate(([each.vertical_flip for each in windows], [each.flip for each in windows])):
        first[flips, axis], last[flips, axis] = rois[flips, 2 + axis], rois[flips, axis]
    return (
        np.array([(window.top, window.left) for window in windows], dtype=np.int32),
        np.array([(window.height, window.width) for window in windows], dtype=np.int32),
        first,
        last,
        np.array([window.shown for window in windows], dtype=np.float32),
    )


def _starts(windows: list[Window]) -> np.ndarray:
    """Where the whole image begins, counted from what is shown in it."""
    places = [window.place or (0, 0) for window in windows]
    return np.array([(-place[0], -place[1]) for place in places], dtype=np.int32)


EXTRAS: dict[str, Callable[[list[Window]], np.ndarray]] = {
    "filter": lambda windows: np.array([(CUBIC if window.cubic else LINEAR).value for window in windows], dtype=np.int32),
    "start": _starts,
    "size": lambda windows: np.array([(window.size, window.size) for window in windows], dtype=np.int32),
}
