"""The figure of `python -m benchmarks.methods`."""

from math import nan

import pytest

from benchmarks.figure import Point, draw

DENSE: list[Point] = [(1.0, 95.0, nan)]
RIGL: list[Point] = [(0.05, 92.0, 0.5), (0.1, 93.0, 0.4)]


@pytest.mark.parametrize("lines", [{"dense": DENSE, "rigl": RIGL}, {"dense": DENSE, "rigl": RIGL[1:]}])
def test_lines_are_drawn_of_one_density_or_of_several(lines: dict[str, list[Point]]) -> None:
    first = draw(lines, "svg", title="some title")
    assert all(name.encode() in first for name in ("some title", "dense", "rigl"))
    assert draw(lines, "svg", title="some title") == first
