"""A loss scale that finds its own height: fp16's small gradients survive, and an overflow costs one step."""

from collections.abc import Mapping
from typing import Any

_FIRST, _GROWTH, _BACKOFF, _INTERVAL = 2.0**16, 2.0, 0.5, 2000
"""As torch's GradScaler: first scale, factors after many good steps and after an overflow, and how many steps are many."""
_LEAST = 2.0**-126
"""The scale is never 0, by which gradients cannot be divided."""


class LossScale:
    """Same on every rank as long as each is told the same of every step; 1 for ever where it is not ``enabled``."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.value = _FIRST if enabled else 1.0
        self._good_steps = 0

    def update(self, *, overflowed: bool) -> None:
        """After each step."""
        if not self.enabled:
            return
        self._good_steps = 0 if overflowed else self._good_steps + 1
        if overflowed:
            self.value = max(self.value * _BACKOFF, _LEAST)
        elif self._good_steps == _INTERVAL:
            self.value, self._good_steps = self.value * _GROWTH, 0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.value, "good_steps": self._good_steps} if self.enabled else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.enabled:
            self.value, self._good_steps = state["scale"], state["good_steps"]
