"""What the user sees of a run: a progress bar on a terminal, a plain line for each row of metrics elsewhere."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import TextIO

from tqdm import tqdm


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


_FORMS: dict[str, Callable[[float], str]] = {
    "train/loss": "loss {:.4f}".format,
    "train/lr": "lr {:.4g}".format,
    "val/loss": "val loss {:.4f}".format,
    "val/top1": lambda value: f"top1 {_percent(value)}",
    "sparsity/density": lambda value: f"density {_percent(value)}",
    "time/images_per_second": "{:,.0f} img/s".format,
}
"""The metrics that are shown, in this order."""

_ON_THE_BAR = ("train/loss", "val/top1", "time/images_per_second")


class Console:
    """Progress of a run, on standard output unless told otherwise. That nobody reads it any longer does not end the run."""

    def __init__(self, *, total_steps: int, steps_per_epoch: int, start_step: int = 0, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self._latest: dict[str, str] = {}
        self._bar: tqdm | None = None
        if self._stream.isatty():
            self._bar = tqdm(total=total_steps, initial=start_step, file=self._stream, unit="step", dynamic_ncols=True)

    def advance(self, step: int) -> None:
        """So many steps are done: moves the bar."""
        if (bar := self._bar) is not None:
            self._guard(lambda: bar.update(step - bar.n))

    def row(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """Show the metrics of a step, by their logged names."""
        texts = {name: form(float(values[name])) for name, form in _FORMS.items() if name in values}
        if (bar := self._bar) is not None:
            self._latest |= texts
            bar.set_description_str(f"{self._epoch(step)} ", refresh=False)
            bar.set_postfix_str("  ".join(self._latest[name] for name in _ON_THE_BAR if name in self._latest), refresh=False)
            self.advance(step)
        elif texts:
            line = "  ".join([f"step {step}/{self._total_steps}", self._epoch(step), *texts.values()])
            self._guard(lambda: print(line, file=self._stream, flush=True))

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._guard(self._bar.close)
            self._bar = None

    def _epoch(self, step: int) -> str:
        """Whole epochs that are done."""
        return f"epoch {step // self._steps_per_epoch}/{self._total_steps // self._steps_per_epoch}"

    def _guard(self, show: Callable[[], object]) -> None:
        guarded(self._stream, show)


def guarded(stream: TextIO, show: Callable[[], object]) -> None:
    """Show something on a stream, which need not take it."""
    try:
        show()
    except OSError:
        # A closed pipe, as after `| head`, or a full disk. From here on it ends in nothing, for whatever else writes to it too.
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def say(text: str) -> None:
    """A line on standard output, if anybody reads it."""
    guarded(sys.stdout, lambda: print(text, flush=True))
