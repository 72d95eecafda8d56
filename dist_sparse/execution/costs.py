"""What computing layers costs on this machine, measured once and kept in a file."""

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dist_sparse.execution.compiling import cache_folder, processor, sources_digest

_LEAST = -14
"""The lowest band: loads of 1/128 and below."""


def band_of(load: float) -> int:
    """The band of a load: loads of a band lie within a factor of the root of 2; 0 is a full layer."""
    return 0 if load >= 1 else max(_LEAST, round(2 * math.log2(max(load, 2.0**-20))))


def load_of(band: int) -> float:
    """The load in the middle of a band."""
    return 2 ** (band / 2)


class Costs:
    """Seconds of a forward and a backward pass together, by what was measured, a text."""

    def __init__(self, costs: Mapping[str, float] | None = None) -> None:
        self._costs = dict(costs or {})

    def __len__(self) -> int:
        return len(self._costs)

    def get(self, key: str) -> float | None:
        return self._costs.get(key)

    def put(self, key: str, cost: float) -> None:
        self._costs[key] = cost

    def in_band(self, key: str, load: float) -> float | None:
        """The cost in a load's band, or in the nearest one above that was measured, or below; None if none was."""
        wanted = band_of(load)
        for band in (*range(wanted, 1), *range(wanted - 1, _LEAST - 1, -1)):
            if (cost := self._costs.get(with_band(key, band))) is not None:
                return cost
        return None

    def know(self, parts: Iterable[str]) -> bool:
        """Whether each of these is in some key."""
        return all(any(part in key for key in self._costs) for part in parts)

    def only(self, parts: Sequence[str]) -> "Costs":
        """Those whose key has one of these in it."""
        return Costs({key: cost for key, cost in self._costs.items() if any(part in key for part in parts)})

    def state_dict(self) -> dict[str, float]:
        """In plain values."""
        return dict(self._costs)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Costs":
        """From what :meth:`state_dict` has given.

        Raises:
            KeyError, TypeError, ValueError: it is no such thing.
        """
        return cls({str(key): _seconds(value) for key, value in state.items()})


def with_band(key: str, band: int) -> str:
    """The key of a cost that depends on the load."""
    return f"{key} at {load_of(band):.4f}"


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not seconds > 0:
        raise ValueError(f"{seconds} seconds")
    return seconds


def cache_path() -> Path:
    """Where the costs of this machine are kept: by its processor, torch, kernels and threads."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (processor(), torch.__version__, sources_digest(), str(torch.get_num_threads())):
        digest.update(part.encode())
    return cache_folder() / f"costs-{digest.hexdigest()}.json"


def read_cache() -> Costs:
    """The costs that the cache holds; none if it is missing, damaged or of another version."""
    try:
        return Costs.from_state(json.loads(cache_path().read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Costs()


def write_cache(costs: Costs) -> None:
    """Keep costs beside those that are there. What cannot be written is left alone: it costs another measurement."""
    path = cache_path()
    state = {**read_cache().state_dict(), **costs.state_dict()}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # several processes may write
            whole = Path(folder) / path.name
            whole.write_text(json.dumps(state), encoding="utf-8")
            whole.replace(path)
