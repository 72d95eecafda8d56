"""What the user sees of a run: a progress bar on a terminal, elsewhere a line for each row of metrics, and for each epoch."""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from tqdm import tqdm


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _bytes(value: float) -> str:
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


_Forms = Mapping[str, Callable[[float], str]]
_STEP: _Forms = {
    "train/loss": "loss {:.4f}".format,
    "train/lr": "lr {:.4g}".format,
    "sparsity/density": lambda value: f"density {_percent(value)}",
    "time/images_per_second": "{:,.0f} img/s".format,
    "memory/peak_bytes": lambda value: f"mem {_bytes(value)}",
}
"""The metrics that the line of a step shows, in this order."""
_EPOCH: _Forms = {
    "train/loss": "loss {:.4f}".format,
    "val/loss": "val loss {:.4f}".format,
    "val/top1": lambda value: f"top1 {_percent(value)}",
    "val/ema_top1": lambda value: f"ema top1 {_percent(value)}",
    "sparsity/density": lambda value: f"density {_percent(value)}",
}
"""Those of the line of an epoch."""
_BAR: _Forms = {
    name: {**_STEP, **_EPOCH}[name] for name in ("train/loss", "val/top1", "time/images_per_second", "memory/peak_bytes")
}


class Console:
    """Progress of a run, on standard output unless told otherwise. That nobody reads it any longer does not end the run."""

    def __init__(
        self,
        *,
        total_steps: int,
        steps_per_epoch: int,
        start_step: int = 0,
        stream: TextIO | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._total_steps, self._steps_per_epoch, self._now = total_steps, steps_per_epoch, now
        self._latest: dict[str, float] = {}
        self._validated: dict[str, float] = {}
        """What the last validation gave, until the line of its epoch."""
        self._validated_at = 0
        self._left = ""
        self._epoch_began = now()
        self._bar: tqdm | None = None
        if self._stream.isatty():
            # tqdm's own estimate of the time left knows nothing of validations.
            form = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
            self._bar = tqdm(
                total=total_steps, initial=start_step, file=self._stream, bar_format=form, unit="step", dynamic_ncols=True
            )

    def advance(self, step: int) -> None:
        """So many steps are done: moves the bar."""
        if (bar := self._bar) is not None:
            self._guard(lambda: bar.update(step - bar.n))

    def expect(self, seconds_left: float | None) -> None:
        """How long the run will still take, for the next line; None if nobody knows."""
        self._left = f"{duration(seconds_left)} left" if seconds_left else ""

    def row(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """Show the metrics of a step, by their logged names; those of a validation wait for the line of its epoch."""
        if step > self._validated_at:
            self._catch_up()
        numbers = {name: float(values[name]) for name in (*_STEP, *_EPOCH) if name in values}
        self._latest |= numbers
        validated = {name: value for name, value in numbers.items() if name.startswith("val/")}
        if validated:
            self._validated, self._validated_at = validated, step
        shown = _texts(_STEP, numbers)
        if (bar := self._bar) is not None:
            bar.set_description_str(f"{self._epoch(step)} ", refresh=False)
            bar.set_postfix_str("  ".join(filter(None, [*_texts(_BAR, self._latest), self._left])), refresh=False)
            self.advance(step)
        elif shown and ("train/loss" in numbers or not validated):
            self._say([f"step {step}/{self._total_steps}", self._epoch(step), *shown, self._left])

    def end_epoch(self, step: int, loss: float) -> None:
        """Sum up the epoch that ends at a step: mean training loss (not if that is nan), validation, how long it took."""
        numbers = {**self._latest, **self._validated, "train/loss": loss}
        numbers = {name: value for name, value in numbers.items() if name in self._validated or not name.startswith("val/")}
        if math.isnan(loss):
            del numbers["train/loss"]
        took, self._epoch_began, self._validated = self._now() - self._epoch_began, self._now(), {}
        self._say([f"{self._epoch(step)} ends", *_texts(_EPOCH, numbers), f"took {duration(took)}"])

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._catch_up()
        if self._bar is not None:
            self._guard(self._bar.close)
            self._bar = None

    def _epoch(self, step: int) -> str:
        """Whole epochs that are done."""
        return f"epoch {step // self._steps_per_epoch}/{self._total_steps // self._steps_per_epoch}"

    def _catch_up(self) -> None:
        """A run that goes on may begin with the validation of an epoch that has ended before."""
        if self._validated:
            self.end_epoch(self._validated_at, math.nan)

    def _say(self, parts: list[str]) -> None:
        line = "  ".join(filter(None, parts))
        if (bar := self._bar) is not None:
            self._guard(lambda: bar.write(line, file=self._stream))
        else:
            self._guard(lambda: print(line, file=self._stream, flush=True))

    def _guard(self, show: Callable[[], object]) -> None:
        guarded(self._stream, show)


def duration(seconds: float) -> str:
    """In the two largest units that are not 0: ``8.2 s``, ``3 min 20 s``, ``2 h 5 min``, ``1 d 3 h``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{round(seconds / 3600) // 24} d {round(seconds / 3600) % 24} h"


def _texts(forms: _Forms, values: Mapping[str, float]) -> list[str]:
    return [form(values[name]) for name, form in forms.items() if name in values]


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
