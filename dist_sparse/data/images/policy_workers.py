"""Worker processes that augment what another backend has decoded.

timm's policies draw from global generators, so threads would take one another's draws.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dist_sparse.data.batch import Loading
from dist_sparse.data.images.loaders import Pixels
from dist_sparse.data.images.policy import Policy
from dist_sparse.data.images.workers import begin_pass, begin_worker, end_workers
from dist_sparse.data.order import Key
from dist_sparse.loading_errors import loading_explained
from dist_sparse.seeding import generator


class _Task(NamedTuple):
    """A decoded batch, on its way to a worker."""

    images: Tensor
    keys: list[Key]


class _Augmented(Dataset[Tensor]):
    """Augments a batch a call."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def __getitem__(self, task: _Task) -> Tensor:
        return self._policy.of_batch(task.images, task.keys) if task.keys else task.images


class _Tasks:
    """The batches of the next pass. The DataLoader asks for them in the main process."""

    batches: Iterable[_Task] = ()

    def __iter__(self) -> Iterator[_Task]:
        return iter(self.batches)


class PolicyWorkers:
    """A DataLoader whose ``workers`` processes live on from pass to pass; with none, this process augments."""

    def __init__(self, policy: Policy, loading: Loading, *, workers: int) -> None:
        self._tasks, self._workers = _Tasks(), workers
        self._loader = DataLoader(
            _Augmented(policy),
            batch_size=None,
            sampler=self._tasks,  # pyright: ignore[reportArgumentType]  -- it is iterated over, and nothing else
            collate_fn=_shared,  # pyright: ignore[reportArgumentType]  -- without batch_size it gets one item
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=loading.device.type == "cuda",
            worker_init_fn=begin_worker,
            generator=generator("policy workers", loading.seed),  # its own, as in the torchvision backend
        )

    def stream(self, decoded: Iterable[Pixels]) -> Iterator[Pixels]:
        """The same batches, augmented. The next call abandons the batches of the one before."""
        waiting: deque[Pixels] = deque()
        self._tasks.batches = self._handed_out(decoded, waiting)
        with loading_explained():
            for images in begin_pass(self._loader, self):
                yield waiting.popleft()._replace(images=images)

    def close(self) -> None:
        end_workers(self._loader)

    def _handed_out(self, decoded: Iterable[Pixels], waiting: deque[Pixels]) -> Iterator[_Task]:
        for pixels in decoded:
            waiting.append(pixels)
            images = pixels.images.cpu()
            # A copy, since the decoder's memory is its own again, in memory that the workers share.
            yield _Task(images.clone().share_memory_() if self._workers else images, pixels.keys)


def _shared(images: Tensor) -> Tensor:
    """In a worker, an error of memory comes to the run here and not in a thread (see the torchvision backend)."""
    return images if get_worker_info() is None else images.share_memory_()
