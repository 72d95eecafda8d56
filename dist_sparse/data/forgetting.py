"""Data-efficient training: leave out what the network does not forget.

M. Toneva, A. Sordoni, R. Tachet des Combes, A. Trischler, Y. Bengio, G. J. Gordon: "An Empirical Study of Example Forgetting
during Deep Neural Network Learning", ICLR 2019, arXiv 1812.05159; as MEST (NeurIPS 2021, arXiv 2110.14032) trains with it:
count over the first epochs, then train on without the n samples that were forgotten least often.

A forgetting event is a presentation in training that is classified wrongly after one that was right. Samples that were never
right come last in the ranking, as if forgotten more often than any other; equals are in the order of their positions.

A sample is one rank's in an epoch, and another's in the next: ranks exchange an epoch's outcomes at its end, so that all hold
the same counts whatever their number. A sample that an epoch leaves out (the remainder of the last batch) is not presented.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_sparse.distributed import max_over_ranks
from dist_sparse.errors import UserError
from dist_sparse.files import atomic_write, dump
from dist_sparse.inputs import check_file

_log = logging.getLogger(__name__)

NEVER_LEARNED = torch.iinfo(torch.int16).max
_UNSEEN = -1


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How often each sample of a data set was forgotten: int16 [N] by position."""

    data: str
    counts: Tensor
    samples: str = ""
    """Digest of the samples and their order; empty in a file of an earlier version."""

    def order(self) -> Tensor:
        """int64 [N] positions, the least forgotten first."""
        return self.counts.argsort(stable=True)

    def without(self, remove: int) -> Tensor:
        """int64 [N - remove] positions, ascending: all but the ``remove`` least forgotten."""
        return self.order()[remove:].sort().values

    def save(self, path: Path) -> None:
        """Write the file that :meth:`load` reads."""
        content = {"data": self.data, "counts": self.counts, "samples": self.samples}
        atomic_write(path, lambda file: dump(content, file))

    @classmethod
    def load(cls, path: Path, *, data: str, size: int, samples: str = "") -> "Ranking":
        """Read a file of the data set ``data`` with ``size`` training samples, whose digest is ``samples``.

        Raises:
            UserError: no such file, not a ranking, or one of another data set.
        """
        key = f"data.forgetting.ranking={path}"
        check_file(path, key, kind="ranking")
        try:
            content = torch.load(path, weights_only=True)
            counts = content["counts"]
            if counts.is_floating_point() or counts.is_complex():
                raise TypeError("counts are whole numbers")
            made = cls(data=content["data"], counts=counts.view(len(counts)), samples=str(content.get("samples", "")))
        except OSError as error:
            raise UserError(f"{key} cannot be read: {error.strerror}") from error
        except Exception as error:  # torch.load raises whatever its parts do, and another file may hold anything
            raise UserError(f"{key} is not a ranking that a run has saved") from error
        if (made.data, len(made.counts)) != (data, size):
            raise UserError(f"{key} ranks the {len(made.counts)} samples of {made.data}, this run has {size} of {data}")
        if made.samples and samples and made.samples != samples:
            raise UserError(f"{key} ranks {size} other samples of {data} than this run's, or the same in another order")
        return made


class ForgettingCounter:
    """Counts on all ranks the forgetting events of N samples."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._now = torch.full((size,), _UNSEEN, dtype=torch.int8, device=device)  # this epoch's outcomes on this rank
        self._last = torch.zeros(size, dtype=torch.bool, device=device)
        self._ever = torch.zeros(size, dtype=torch.bool, device=device)
        self._events = torch.zeros(size, dtype=torch.int16, device=device)

    def see(self, indices: Tensor, correct: Tensor) -> None:
        """Note the outcome (bool [B]) of this rank's samples (int64 [B]) of one micro-batch."""
        self._now[indices] = correct.to(torch.int8)

    def end_epoch(self) -> None:
        """Count the epoch's events. Collective."""
        now = max_over_ranks(self._now)
        wrong, right = now == 0, now == 1
        self._events += wrong & self._last
        self._last = (self._last & ~wrong) | right
        self._ever |= right
        self._now.fill_(_UNSEEN)

    def counts(self) -> Tensor:
        """int16 [N] on the CPU."""
        return self._events.masked_fill(~self._ever, NEVER_LEARNED).cpu()

    def state_dict(self) -> dict[str, Any]:
        """The counts, and all ranks' outcomes of the epoch under way. Collective."""
        now = max_over_ranks(self._now.clone())
        tensors = {"now": now, "last": self._last, "ever": self._ever, "events": self._events}
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what any number of ranks saved."""
        for name, tensor in state.items():
            getattr(self, f"_{name}").copy_(tensor)


class Forgetting:
    """When a run counts, and which samples each of its epochs trains on."""

    def __init__(
        self,
        *,
        data: str,
        size: int,
        epochs: int,
        remove: int,
        ranking: Ranking | None,
        path: Path,
        device: torch.device,
        samples: str = "",
    ) -> None:
        """Count for ``epochs`` unless there is a ``ranking``, then leave out ``remove`` samples. ``path``: to save to."""
        self._data, self._samples, self._epochs, self._remove, self._path = data, samples, epochs, remove, path
        self._ranking = ranking
        self._counter = ForgettingCounter(size, device) if ranking is None else None

    def counts_in(self, epoch: int) -> bool:
        """Whether :meth:`see` is to be told of the samples of this epoch."""
        return self._counter is not None and epoch < self._epochs

    def see(self, indices: Tensor, correct: Tensor) -> None:
        assert self._counter is not None
        self._counter.see(indices, correct)

    def end_epoch(self, epoch: int, *, save: bool) -> None:
        """Count the events of an epoch; after the last one ``save`` the ranking. Collective."""
        if not self.counts_in(epoch):
            return
        assert self._counter is not None
        self._counter.end_epoch()
        if save and epoch == self._epochs - 1:
            try:
                self._made().save(self._path)
            except OSError as error:
                _log.warning("%s: %s; training goes on, with the counts that checkpoints hold", self._path, error.strerror)

    def positions(self, epoch: int) -> Tensor | None:
        """int64 positions, ascending, that an epoch trains on; None for all."""
        if epoch < self._epochs or not self._remove:
            return None
        return self._made().without(self._remove)

    def _made(self) -> Ranking:
        if self._counter is None:
            assert self._ranking is not None
            return self._ranking
        return Ranking(data=self._data, counts=self._counter.counts(), samples=self._samples)

    def state_dict(self) -> dict[str, Any]:
        """Collective."""
        return {} if self._counter is None else self._counter.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._counter is not None:
            self._counter.load_state_dict(state)
