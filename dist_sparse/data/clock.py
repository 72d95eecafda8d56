"""The run's clock: steps are numbered as if every epoch had all its samples.

Once samples are left out, an epoch makes fewer optimizer steps. Their numbers are then spread over those of a whole epoch
(step k of n gets k/n of the way, rounded down; the last is the epoch's last). Every schedule, be it in steps, epochs or
percent of the run, therefore stays where it is without the removal, as in the reference, whose schedules count epochs.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Clock:
    """``whole`` steps an epoch, and from epoch ``short_from`` on ``short``; without a short one all epochs are whole."""

    whole: int
    epochs: int
    short: int | None = None
    short_from: int = 0

    @property
    def total(self) -> int:
        """The number of the run's last step."""
        return self.whole * self.epochs

    def place(self, step: int) -> tuple[int, int]:
        """The epoch that goes on after step ``step`` (0: the beginning), and how many optimizer steps of it are made."""
        epoch, rest = divmod(step, self.whole)
        return epoch, -(-rest * self._steps(epoch) // self.whole)

    def after(self, step: int) -> int:
        """The number of the step that follows."""
        epoch, made = self.place(step)
        return epoch * self.whole + (made + 1) * self.whole // self._steps(epoch)

    def _steps(self, epoch: int) -> int:
        return self.whole if self.short is None or epoch < self.short_from else self.short
