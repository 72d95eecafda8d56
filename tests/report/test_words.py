"""How a report says numbers."""

import pytest

from dist_sparse.report.words import size


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (None, "–"),
        (999, "1.0 kB"),
        (999_400, "999.4 kB"),
        (999_600, "1 MB"),
        (61_090_000, "61.1 MB"),
        (999_400_000, "999 MB"),
        (999_600_000, "1 GB"),
        (1_812_000_000, "1.81 GB"),
    ],
)
def test_sizes(number: float | None, said: str) -> None:
    assert size(number) == said
