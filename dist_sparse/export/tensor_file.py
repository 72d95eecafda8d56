"""Tensors with their description in one safetensors file, and a digest, since the format itself has no checksum."""

import enum
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dist_sparse.errors import UserError
from dist_sparse.export.description import Description
from dist_sparse.files import atomic_write
from dist_sparse.inputs import check_file


class Layout(enum.Enum):
    """How weights are held; the names are those of compressed-tensors."""

    DENSE = "dense"
    BITMASK = "sparse-bitmask"


def write_tensors(file: Path, tensors: Mapping[str, Tensor], about: Description, layout: Layout) -> None:
    """Write a file that :func:`read_tensors` reads, as every reader of safetensors does.

    Raises:
        OSError: as the file system says.
    """
    from safetensors.torch import save

    whole = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"format": "pt", "layout": layout.value, "digest": _digest(whole, about), **about.as_texts()}
    content = save(whole, metadata)
    atomic_write(file, lambda stream: stream.write(content))


def read_tensors(file: Path) -> tuple[dict[str, Tensor], Description, Layout]:
    """What :func:`write_tensors` was given.

    Raises:
        UserError: there is no such file, or it is not what was written.
    """
    from safetensors import safe_open

    check_file(file)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no mapping)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever broken bytes make it trip over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{file}: not a sound safetensors file: {reason}") from None
    about = Description.from_texts(metadata, file)
    if metadata.get("digest") != _digest(tensors, about):
        raise UserError(f"{file}: damaged: its contents are not those that were written")
    if metadata.get("layout") not in [each.value for each in Layout]:
        known = ", ".join(each.value for each in Layout)
        raise UserError(f"{file}: layout {metadata.get('layout')!r} is unknown to this version, which reads {known}")
    return tensors, about, Layout(metadata["layout"])


def _digest(tensors: Mapping[str, Tensor], about: Description) -> str:
    digest = hashlib.blake2b(about.as_json().encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
