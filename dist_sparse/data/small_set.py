"""What a reader of a small data set returns, and how it says that there are no files."""

from typing import NamedTuple

from torch import Tensor


class Split(NamedTuple):
    """One split of a small set."""

    images: Tensor
    """[N, C, H, W] uint8."""
    labels: Tensor
    """[N] int64."""


class MissingFilesError(Exception):
    """A reader found no files, or not all of them."""
