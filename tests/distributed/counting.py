"""How often masks are packed, and what ranks exchange about them, in a step of a run."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from dist_sparse.sparsity import bits
from dist_sparse.tracking import Tracker
from tests.distributed.cases import trainer_for

EXCHANGES = {torch.uint8: "masks", torch.int64: "digests"}


class Counting(Tracker):
    """Counts from the beginning of a step to its end, logging included."""

    def __init__(self) -> None:
        super().__init__()
        self.now: Counter[str] | None = None
        self.counts: dict[int, Counter[str]] = {}
        self.updates: set[int] = set()

    def begin(self, step: int) -> None:
        self.now = self.counts[step] = Counter()

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        if "sparsity/changed" in values:
            self.updates.add(step)

    def advance(self, step: int) -> None:
        self.now = None

    def add(self, what: str, count: int = 1) -> None:
        if self.now is not None:
            self.now[what] += count

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around the real functions."""
        pack, all_gather = bits.pack, dist.all_gather

        def counted_pack(mask: torch.Tensor) -> torch.Tensor:
            self.add("packed", mask.numel())
            return pack(mask)

        def counted_all_gather(everyone: list[torch.Tensor], mine: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
            self.add(EXCHANGES.get(mine.dtype, "others"))
            return all_gather(everyone, mine, *arguments, **keywords)

        with mock.patch.object(bits, "pack", counted_pack), mock.patch.object(dist, "all_gather", counted_all_gather):
            yield


def train(values: dict[str, Any], folder: str) -> tuple[dict[int, dict[str, int]], int, int]:
    """Train to the end: what is counted in each update's step, all weights that have masks, and how many this rank owns."""
    trainer, _ = trainer_for(values, folder)
    trainer.tracker = counting = Counting()
    before_forward: Callable[[int], None] = trainer.method.before_forward

    def begun(step: int) -> None:
        counting.begin(step)
        before_forward(step)

    sizes = {name: trainer.method.masks[name].numel() for name in trainer.method.masks.names}
    with counting.watching(), mock.patch.object(trainer.method, "before_forward", begun):
        trainer.fit()
    counts = {step: dict(counting.counts[step]) for step in sorted(counting.updates)}
    return counts, sum(sizes.values()), sum(sizes[name] for name in trainer.method.agreement.owned())
