"""What a run has logged so far, as series of numbers: of one that has ended, is under way, or was killed while it wrote."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dist_sparse.tracking.recovery import whole_rows

if TYPE_CHECKING:
    import numpy as np

Series = list[tuple[int, float]]
"""Steps and values."""


@dataclass(frozen=True, kw_only=True)
class LayerMap:
    """A figure of each layer at each mask update: ``values`` is [layers, updates], NaN where there is none."""

    label: str
    """The label of the network that the layers are in; empty where there is only one."""
    layers: Sequence[str]
    steps: Sequence[int]
    values: "np.ndarray"


@dataclass(frozen=True, kw_only=True)
class History:
    """The rows of ``metrics.csv`` and ``layers.csv``, as text by column."""

    metrics: Sequence[Mapping[str, str]]
    layers: Sequence[Mapping[str, str]]

    def series(self, name: str) -> Series:
        """The finite values of a column by step; empty for a column that there is not."""
        found = ((int(row["step"]), _number(row.get(name, ""))) for row in self.metrics)
        return [(step, value) for step, value in found if value is not None]

    def last(self, name: str) -> float | None:
        """The newest value of a column."""
        series = self.series(name)
        return series[-1][1] if series else None

    @property
    def step(self) -> int:
        """The newest step that was logged."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    def columns(self, beginning: str, ending: str) -> list[str]:
        """Columns of several sub-nets, such as ``val/subnet1_top1``."""
        names = self.metrics[0] if self.metrics else {}
        return [name for name in names if name.startswith(f"{beginning}/subnet") and name.endswith(ending)]

    def layer_map(self, column: str) -> LayerMap | None:
        """``density`` or ``changed`` by layer and update; of several sub-nets, of the sparsest. None without updates."""
        import numpy as np

        rows = [(*_split(row.get("layer", "")), int(row["step"]), _number(row.get(column, ""))) for row in self.layers]
        if not rows:
            return None
        label = max((row[0] for row in rows), key=lambda name: (len(name), name))
        own = [row[1:] for row in rows if row[0] == label]
        layers, steps = list(dict.fromkeys(name for name, _, _ in own)), sorted({step for _, step, _ in own})
        values = np.full((len(layers), len(steps)), np.nan)
        places = {name: number for number, name in enumerate(layers)}, {step: number for number, step in enumerate(steps)}
        for name, step, value in own:
            if value is not None:
                values[places[0][name], places[1][step]] = value
        return LayerMap(label=label, layers=layers, steps=steps, values=values)


def read_history(folder: Path) -> History:
    """What lies in a run's folder; rows that are not whole, or not there yet, are left out.

    Raises:
        UserError: what lies there cannot be read.
    """
    return History(metrics=whole_rows(folder / "metrics.csv"), layers=whole_rows(folder / "layers.csv"))


def _split(name: str) -> tuple[str, str]:
    """The label of a sub-net, and a layer of it."""
    label, _, layer = name.partition(" ")
    return (label, layer) if layer else ("", name)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
