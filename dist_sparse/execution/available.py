"""Which backend computes a run's layers: the best one that this machine has, and that some layer fits; alike on all ranks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from dist_sparse import distributed
from dist_sparse.execution import self_test
from dist_sparse.execution.backends import Backend, compiled_backend, torch_backend, triton_backend
from dist_sparse.execution.compiling import NoKernels, compiling
from dist_sparse.execution.kernels import kernels
from dist_sparse.execution.layers import Layer
from dist_sparse.preemption import UntilAsked


class Found(NamedTuple):
    """A backend, if there is one, and why there is no better one."""

    backend: Backend | None
    reason: str

    @property
    def how(self) -> str:
        """In which way it computes, for a line to the user; empty if that goes without saying."""
        if self.backend is None or not self.backend.manner:
            return ""
        return f" {self.backend.manner}" + (f", since {self.reason}" if self.reason else "")


def find_backend(
    against: str,
    layers: Mapping[str, Layer],
    *,
    fits: Callable[[Backend], bool] = lambda _: True,
    only: str | None = None,
    until_asked: UntilAsked = iter,
    everyones: Callable[[str], Sequence[str]] = distributed.everyones,
) -> Found:
    """The best backend for layers, on their device. Collective, as far as ``everyones`` is.

    Args:
        against: a reason against all; empty if there is none.
        fits: whether some layer can be computed by a backend.
        only: the name of the one that a run goes on with; None if it may be any.
        everyones: gives the texts of all ranks that are to have the same backend.
    """
    if against:
        return Found(None, against)
    reasons, device = [], next(iter(layers.values())).module.weight.device.type
    for name, make in BACKENDS[device].items():
        if only not in (None, name):
            continue
        backend, reason = _made(make, until_asked, everyones)
        if backend is None:
            reasons.append(reason)
        elif fits(backend):
            return Found(backend, ", and ".join(reasons))
        else:
            reasons.append(backend.misfit)
    return Found(None, ", and ".join(reasons))


def _compiled() -> Iterator[Backend | None]:
    for _ in compiling():
        yield None
    yield compiled_backend(kernels())


def _torch() -> Iterator[Backend | None]:
    yield torch_backend()


def _triton() -> Iterator[Backend | None]:
    yield triton_backend()


_Make = Callable[[], Iterator[Backend | None]]
BACKENDS: Mapping[str, Mapping[str, _Make]] = {
    "cpu": {"compiled": _compiled, "torch": _torch},
    "cuda": {"Triton": _triton},
}
"""By type of device and name, the best first. Each is an iterator, which yields None while it compiles and then the backend."""


def _made(make: _Make, until_asked: UntilAsked, everyones: Callable[[str], Sequence[str]]) -> tuple[Backend | None, str]:
    """A backend that has passed its test on all ranks, or why it cannot be had. Collective."""
    backend, reason = None, ""

    def making() -> Iterator[None]:
        nonlocal backend, reason
        try:
            for made in make():
                backend = made
                yield
            assert backend is not None, "making ends with a backend"
            self_test.check(backend)
        except NoKernels as error:
            reason = str(error)

    for _ in until_asked(making()):
        pass
    reasons = [each for each in everyones(reason) if each]
    return (None, reasons[0]) if reasons else (backend, "")
