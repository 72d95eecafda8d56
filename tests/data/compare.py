"""What tests of loaders compare."""

from collections.abc import Callable, Iterable

import pytest
import torch

from dist_sparse.data import Batch
from dist_sparse.errors import UserError


def same(first: Iterable[Batch], second: Iterable[Batch]) -> bool:
    """There are batches, and they are equal bit for bit."""
    pairs = list(zip(first, second, strict=True))
    return bool(pairs) and all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def message_of(mistake: Callable[[], object]) -> str:
    """The UserError's one line."""
    (message,) = messages_of(mistake)
    return message


def messages_of(mistake: Callable[[], object]) -> list[str]:
    """The UserError's lines. pytest.raises would hold its traceback, and with it the workers, until a late collection."""
    try:
        mistake()
    except UserError as error:
        return str(error).splitlines()
    return pytest.fail("no UserError")
