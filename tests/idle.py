"""Keys without effect, as a run tells them."""

from typing import Any

from dist_sparse.config import Config
from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.effects import idle_keys


def idle(**sections: Any) -> dict[str, str]:
    """The keys of these sections that are set and do nothing on two ranks, with the reasons."""
    return idle_keys(Config(**{"sparsity": SparsityConfig(density=0.1), **sections}), 2)
