"""Files of shrunk networks: safetensors, with what is needed to build the network of the original's name and narrow it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dist_sparse.errors import UserError, is_unknown, one_line
from dist_sparse.shrinking.plan import Plan, fit
from dist_sparse.shrinking.shrink import Shrunk
from dist_sparse.tensor_file import read_tensors, read_texts, write_tensors

ENTRY = "dist_sparse.shrunk"
"""The entry of the file's metadata, a JSON text."""
VERSION = 1

_ATTRIBUTES = {"num_heads", "attn_dim", "inner_dim", "all_head_dim"}
_REFUSED = {"pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}
"""Arguments that make timm read other files."""


@dataclass(frozen=True, kw_only=True)
class _Stored:
    version: int
    model: str
    kwargs: dict[str, Any]
    plan: Plan
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A shrunk network from a file."""

    model: nn.Module
    """In evaluation mode."""
    plan: Plan
    """What it keeps of the original."""
    about: dict[str, Any]
    """What was saved with it."""


def save_shrunk(
    shrunk: Shrunk,
    path: Path,
    *,
    name: str,
    kwargs: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a shrunk network, which is the original of timm's ``name`` and ``kwargs`` without some units.

    Args:
        about: anything else to keep with it that JSON can hold, such as the classes' names.

    Raises:
        UserError: ``name`` and ``kwargs`` make another network.
        OSError: as the file system says; nothing is left behind.
    """
    stored = _Stored(version=VERSION, model=name, kwargs=dict(kwargs), plan=shrunk.plan, about=dict(about or {}))
    tensors = _tensors(shrunk.model, shrunk.plan)
    with torch.device("meta"):
        _check(_build(stored, name), stored, tensors, name)
    facts = {"version": VERSION, "model": name, "kwargs": stored.kwargs, "plan": stored.plan.as_json(), "about": stored.about}
    write_tensors(path, tensors, {ENTRY: json.dumps(facts, ensure_ascii=False)})


def is_shrunk(path: Path) -> bool:
    """Whether a file says that it holds a shrunk network; no for what cannot be read."""
    return ENTRY in read_texts(path)


def load_shrunk(path: Path) -> nn.Module:
    """The network of a file, in evaluation mode, bit for bit that which was saved.

    Raises:
        UserError: see :func:`read_shrunk`.
    """
    return read_shrunk(path).model


def read_shrunk(path: Path) -> Loaded:
    """The network of a file with what was saved beside it. Nothing but numbers and JSON is read.

    Raises:
        UserError: the file is not there, damaged, or not of a shrunk network.
    """
    tensors, texts = read_tensors(path)
    if ENTRY not in texts:
        raise UserError(f"{path} holds no shrunk network: its metadata has no entry {ENTRY}")
    stored = _parse(texts[ENTRY], path)
    with torch.random.fork_rng(devices=[]):
        model = _build(stored, path)
    kinds = {tensor.dtype for name, tensor in tensors.items() if tensor.is_floating_point()}
    if len(kinds) == 1:
        model = model.to(kinds.pop())
    _check(model, stored, tensors, path)
    fit(model, stored.plan, tensors)
    return Loaded(model=model.eval(), plan=stored.plan, about=stored.about)


def _tensors(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """What is saved: the state, and buffers that are no part of it but were narrowed."""
    named = dict(model.named_buffers(remove_duplicate=False))
    narrowed = {name: named[name] for name in plan.kept if name in named}
    return {**narrowed, **model.state_dict()}


def _parse(text: str, path: Path) -> _Stored:
    import pydantic

    try:
        stored = pydantic.TypeAdapter(_Stored).validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the entry"
        raise UserError(f"{path}: {ENTRY} in the metadata is damaged: {one_line(place)}: {one_line(first['msg'])}") from error
    if stored.version != VERSION:
        raise UserError(f"{path} is of version {stored.version} of this format; this program reads version {VERSION}")
    return stored


def _build(stored: _Stored, source: object) -> nn.Module:
    """The original's network, with any weights."""
    import timm

    import dist_sparse.models  # noqa: F401 (registers its families with timm)

    if not timm.is_model(stored.model):
        raise UserError(
            f"{source}: the model {one_line(stored.model)} {is_unknown(stored.model, timm.list_models(), 'any of timm')}"
        )
    if refused := sorted(_REFUSED & stored.kwargs.keys()):
        raise UserError(f"{source}: the model's arguments may not hold {', '.join(refused)}")
    try:
        return timm.create_model(stored.model, pretrained=False, **stored.kwargs)
    except Exception as error:  # constructors check their arguments in every way there is
        reason = one_line((str(error).strip() or type(error).__name__).splitlines()[0])
        raise UserError(f"{source}: {stored.model} cannot be built with {one_line(stored.kwargs)}: {reason}") from error


def _check(model: nn.Module, stored: _Stored, tensors: Mapping[str, Tensor], source: object) -> None:
    """That a network of the original's shape and the tensors fit by the plan."""
    plan, named = stored.plan, {**model.state_dict(), **dict(model.named_buffers(remove_duplicate=False))}
    state = model.state_dict().keys() | set(plan.biases)
    if misfits := sorted(state ^ tensors.keys() - (plan.kept.keys() & named.keys() - state)):
        raise UserError(f"{source}: {one_line(misfits[0])} is not both in the file and in {stored.model} ({len(misfits)} such)")
    if (misfit := plan.misfit({name: tensor.shape for name, tensor in named.items()})) is not None:
        shape = list(named[misfit].shape) if misfit in named else None
        raise UserError(f"{source}: what is kept of {one_line(misfit)} does not fit {stored.model}, where its shape is {shape}")
    for name, tensor in tensors.items():
        expected = plan.shape(name, named[name].shape) if name in named else list(tensor.shape)
        if list(tensor.shape) != expected:
            raise UserError(f"{source}: {one_line(name)} has shape {list(tensor.shape)} instead of {expected}")
    modules = dict(model.named_modules())
    for bias in plan.biases:
        owner = modules.get(bias.rpartition(".")[0])
        layer = isinstance(owner, nn.Linear | nn.modules.conv._ConvNd) and owner.bias is None
        if not layer or tensors[bias].shape != tensors[_weight(bias)].shape[:1]:
            raise UserError(f"{source}: {one_line(bias)} is not the bias of a layer")
    for name, attributes in plan.attributes.items():
        if any(key not in _ATTRIBUTES or not isinstance(getattr(modules.get(name), key, None), int) for key in attributes):
            raise UserError(f"{source}: {one_line(name)} of {stored.model} has no {', '.join(map(one_line, attributes))}")


def _weight(bias: str) -> str:
    return f"{bias.rpartition('.')[0]}.weight".removeprefix(".")
