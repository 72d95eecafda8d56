"""Random draws as pure functions of their purpose.

Every random decision of a run (data order, augmentation, initial masks, growth, dropout) draws from a generator seeded by
what the draw is for, for example ``("growth", seed, step, layer)``. So a draw does not depend on how many ranks there are
or on what was drawn before, and a resumed run needs no generator state to repeat an uninterrupted one.
"""

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator

import torch


def derive_seed(*purpose: str | int) -> int:
    """A 63-bit seed from the parts of a purpose; the same parts give the same seed on every machine."""
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*purpose: str | int) -> torch.Generator:
    """A generator seeded by :func:`derive_seed`, on the CPU: other devices would draw other numbers."""
    return torch.Generator().manual_seed(derive_seed(*purpose))


def seed_torch(*purpose: str | int) -> None:
    """Seed torch's global generators by :func:`derive_seed`: the CPU's, and those of the GPUs where they are in use.

    ``torch.manual_seed`` would also format a traceback for each kind of device that is not there, at every call.
    """
    seed = derive_seed(*purpose)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def uniforms(count: int, *purpose: str | int) -> list[float]:
    """So many numbers in [0, 1), by far cheaper than a generator's: for draws that each sample has for itself."""
    words = hashlib.shake_128(repr(purpose).encode()).digest(8 * count)
    return [(int.from_bytes(words[start : start + 8], "little") >> 11) * 2.0**-53 for start in range(0, 8 * count, 8)]


@contextlib.contextmanager
def seeded(device: torch.device | None = None) -> Iterator[Callable[[int], None]]:
    """Give a function that seeds the global generators of Python, numpy and torch, and put them all back in the end.

    It is for libraries that draw from these. ``device``: a GPU whose generator is seeded as well.
    """
    import numpy as np

    generators = [torch.default_generator]
    if device is not None and device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [each.get_state() for each in generators]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 -- theirs

    def seed(value: int) -> None:
        random.seed(value)
        np.random.seed([value & 0xFFFFFFFF, value >> 32])  # noqa: NPY002
        for each in generators:
            each.manual_seed(value)

    try:
        yield seed
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for each, state in zip(generators, states, strict=True):
            each.set_state(state)
