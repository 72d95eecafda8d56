"""One image in a shard, and what may be wrong with a shard."""

from typing import NamedTuple


class Entry(NamedTuple):
    """``size`` bytes from ``offset`` on are the encoded image; ``label`` is the number that the shard gives its class."""

    name: str
    """Empty where the shard has none."""
    offset: int
    size: int
    label: int


class TruncatedShard(Exception):
    """A shard ends too early, or is damaged from some place on; what was read before that is good."""


class ForeignShard(Exception):
    """A shard does not hold what it should; the message says what."""
