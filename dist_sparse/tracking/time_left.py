"""How long a run will still take: its training steps and its validations, each by what they took in this process."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_FORWARD = 1 / 3
"""What the forward of an image takes of its training step, about; until a validation has been timed."""


@dataclass(kw_only=True)
class TimeLeft:
    """Seconds left. What was before a resume does not count: it may have been another machine.

    Steps are the numbers of the run's clock, which may skip some.
    """

    total_steps: int
    start_step: int
    """The run begins, or goes on, after this step, and now."""
    validate_every: int
    """Steps between validations; the last step is always validated."""
    steps_like_validation: float
    """Training steps of as many images as a validation looks at."""
    now: Callable[[], float] = time.perf_counter
    _per_step: float | None = field(default=None, init=False)
    _per_validation: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._step, self._since = self.start_step, self.now()

    def read(self, step: int) -> None:
        """Take the time since the last reading, which was spent on the steps up to this one (and on saving)."""
        if step > self._step:
            # The first reading holds what is done once, such as compiling: later ones soon outweigh it.
            self._per_step = _blend(self._per_step, (self.now() - self._since) / (step - self._step))
            self._step, self._since = step, self.now()

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """A context in which the run validates, and saves; one that is cut short does not count."""
        start = self.now()
        try:
            yield
            self._per_validation = _blend(self._per_validation, self.now() - start)
        finally:
            self._since += self.now() - start

    def seconds(self, step: int) -> float | None:
        """Left after this step and its validation; None if nothing is known yet."""
        if self._per_step is None:
            return None
        validation = self._per_validation
        if validation is None:
            validation = self._per_step * self.steps_like_validation * _FORWARD
        return (self.total_steps - step) * self._per_step + self._validations(step) * validation

    def _validations(self, step: int) -> int:
        """To come after this step: at the multiples, and at the end if that is none."""
        after = self.total_steps // self.validate_every - step // self.validate_every
        return after + (self.total_steps % self.validate_every != 0 and step < self.total_steps)


def _blend(old: float | None, new: float) -> float:
    return new if old is None else (old + new) / 2
