"""Tensors and texts in one safetensors file, with a digest of both, since the format itself has no checksum."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dist_sparse.errors import UserError
from dist_sparse.files import atomic_write
from dist_sparse.inputs import check_file

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT, _DIGEST = "format", "digest"


def write_tensors(file: Path, tensors: "Mapping[str, Tensor]", texts: Mapping[str, str]) -> None:
    """Write a file that :func:`read_tensors` reads, as every reader of safetensors does; the texts are its metadata.

    Raises:
        OSError: as the file system says; nothing is left behind.
    """
    from safetensors.torch import save

    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = save(whole, {_FORMAT: "pt", _DIGEST: digest(whole, texts), **texts})
    atomic_write(file, lambda stream: stream.write(content))


def read_texts(file: Path) -> dict[str, str]:
    """The texts alone; none of a file that cannot be read, or is no such file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def read_tensors(file: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """What :func:`write_tensors` was given. Other programs' files have no digest, and are taken as they are.

    Raises:
        UserError: there is no such file, or it is not what was written.
    """
    from safetensors import safe_open

    check_file(file)
    try:
        with safe_open(file, framework="pt") as opened:
            texts: dict[str, str] = dict(opened.metadata() or {})
            # Copies, since products differ in their last bits by where in memory a tensor begins.
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 (it is no mapping)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever broken bytes make it trip over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{file}: not a sound safetensors file: {reason}") from None
    expected = texts.pop(_DIGEST, None)
    texts.pop(_FORMAT, None)
    if expected not in (None, digest(tensors, texts)):
        raise UserError(f"{file}: damaged: its contents are not those that were written")
    return tensors, texts


def digest(tensors: "Mapping[str, Tensor]", texts: Mapping[str, str]) -> str:
    """The digest of all tensors' names, types, shapes and values, and of all texts."""
    import torch

    found = hashlib.blake2b(repr(sorted(texts.items())).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
