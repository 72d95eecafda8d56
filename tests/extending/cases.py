"""What ranks do with an engine that is in the table for this test alone."""

from typing import Any
from unittest import mock

from dist_sparse.engines import ENGINES
from tests.distributed import cases
from tests.distributed.cases import Trained
from tests.extending.engine import PlainEngine


def train(values: dict[str, Any], folder: str) -> Trained:
    """Train to the end, by the new engine too if that is asked for."""
    with mock.patch.dict(ENGINES, {PlainEngine.name: PlainEngine}):
        return cases.train(values, folder)
