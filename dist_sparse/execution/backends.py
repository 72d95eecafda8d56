"""What computes masked layers on a device: the ways that there are, and what they need of the network around them."""

from collections.abc import Mapping
from dataclasses import dataclass

from dist_sparse.errors import one_line
from dist_sparse.execution.compiling import NoKernels
from dist_sparse.execution.kernels import Kernels
from dist_sparse.execution.ways import GatheredWay, RowGroupsWay, TritonWay, UnstructuredWay, Way
from dist_sparse.execution.wide_groups import ROWS

_NO_GROUPS = f"no masked layer has rows that agree in groups of {ROWS}"


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Ways that go together in one network."""

    name: str
    """What a checkpoint calls it."""
    manner: str = ""
    """How a line to the user says that it computes layers; empty if that goes without saying."""
    device: str
    """The type of device whose tensors it takes."""
    ways: Mapping[str, Way]
    """By name; of those that fit a mask, a later one computes more at once."""
    misfit: str = "no masked layer fits it"
    """Why it is of no use where none of its ways fits a layer."""
    kernels: Kernels | None = None
    """Kernels for what lies between the layers of a network whose tensors have their samples innermost; without them layers
    take tensors as they come."""

    @property
    def innermost(self) -> bool:
        """Whether tensors between layers have their samples innermost."""
        return self.kernels is not None

    def __deepcopy__(self, memo: object) -> "Backend":
        """A copy of a network computes by the same one."""
        return self


def compiled_backend(kernels: Kernels) -> Backend:
    """By kernels that a C++ compiler has made, on the CPU."""
    return Backend(
        name="compiled", device="cpu", ways=_by_name(UnstructuredWay(kernels), RowGroupsWay(kernels)), kernels=kernels
    )


def torch_backend() -> Backend:
    """By torch's own operations, on the CPU: what needs no compiler."""
    return Backend(name="torch", manner="in plain torch", device="cpu", ways=_by_name(GatheredWay()), misfit=_NO_GROUPS)


def triton_backend() -> Backend:
    """By Triton's kernels, on CUDA.

    Raises:
        NoKernels: there is no Triton.
    """
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise NoKernels(f"Triton cannot be imported ({one_line(error)})") from error
    return Backend(name="Triton", manner="by Triton's kernels", device="cuda", ways=_by_name(TritonWay()), misfit=_NO_GROUPS)


def _by_name(*ways: Way) -> Mapping[str, Way]:
    return {way.name: way for way in ways}
