"""Figures as SVG for the page and as PNG files, the same bytes for the same figures."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f4f24", "#444444")
"""To be told apart by everyone (Okabe and Ito's)."""
WIDTH, HEIGHT = 5.6, 3.4
"""The size of a usual figure in inches."""
_DPI = 110


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure, drawn when it is needed."""

    name: str
    """The name of its file, without the ending."""
    alt: str
    """What it shows, for whoever cannot see it."""
    make: "Callable[[], Figure]"
    dense: bool = False
    """It is full of small text, and must not be made as narrow as a telephone."""

    def svg(self) -> bytes:
        return self._file("svg", {"Date": None})

    def png(self) -> bytes:
        return self._file("png", {"Software": None})

    def _file(self, format: str, metadata: dict[str, None]) -> bytes:
        from matplotlib import rc_context

        file = io.BytesIO()
        own: Any = {"svg.hashsalt": self.name, "font.size": 10, "axes.titlesize": 11, "svg.fonttype": "path"}
        with rc_context(own), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the tables have such names, too
            figure = self.make()
            options: Any = {"pil_kwargs": {"optimize": True}} if format == "png" else {}
            figure.savefig(file, format=format, dpi=_DPI, metadata=metadata, **options)
        return file.getvalue()


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> "Figure":
    """An empty figure, whose parts find their places by themselves."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plain(text: str) -> str:
    """A text that matplotlib takes as it is: what stands between dollar signs is no formula."""
    return text.replace("$", r"\$")
