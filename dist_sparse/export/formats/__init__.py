"""The formats: a module each, whose ``write(source, file)`` writes a network into a file and returns lines to print."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dist_sparse.errors import UserError, is_unknown

if TYPE_CHECKING:
    from dist_sparse.export.source import Source

Write = Callable[["Source", Path], list[str]]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format by what is known of it before its module is imported."""

    name: str
    about: str
    """For whom it is, in a few words."""
    suffix: str
    """The ending of its file's name."""
    beside: tuple[str, ...] = ()
    """Suffixes of further files that it writes."""
    needs: tuple[str, ...] = ()
    """Packages of the extra ``dist_sparse[export]``."""
    takes_shrunk: bool = False
    """It can be of the network without its dead units."""

    def load(self) -> Write:
        """Its function to write.

        Raises:
            UserError: a package that it needs is not installed.
        """
        if missing := [name for name in self.needs if find_spec(name) is None]:
            reason = f"needs {' and '.join(missing)}, not installed here"
            raise UserError(f"--format={self.name} {reason}: pip install dist_sparse[export]")
        return importlib.import_module(f"{__name__}.{self.name}").write

    def files(self, file: Path) -> list[Path]:
        """All files that it writes."""
        return [file, *(file.with_suffix(suffix) for suffix in self.beside)]


_KNOWN = (
    Format(name="timm", about="a state dict for timm.create_model(..., checkpoint_path=)", suffix=".pt", beside=(".json",)),
    Format(name="safetensors", about="the same with metadata in one file", suffix=".safetensors"),
    Format(name="sparse", about="safetensors of bits and values, for dist_sparse.load", suffix=".sparse.safetensors"),
    Format(name="shrunk", about="a smaller dense network of equal outputs", suffix=".shrunk.safetensors"),
    Format(
        name="onnx",
        about="for ONNX Runtime and its like",
        suffix=".onnx",
        needs=("onnx", "onnxscript", "onnxruntime"),
        takes_shrunk=True,
    ),
    Format(name="program", about="for torch.export.load", suffix=".pt2", takes_shrunk=True),
)
FORMATS = {each.name: each for each in _KNOWN}


def find(name: str) -> Format:
    """The format of a name.

    Raises:
        UserError: there is none.
    """
    if name not in FORMATS:
        raise UserError(f"--format={name} {is_unknown(name, FORMATS)}")
    return FORMATS[name]
