"""Whether the contents of a checkpoint make sense: masks that fit their weights, weights that fit the model, a step of the run.

Checkpoints also say themselves what they hold (:mod:`dist_sparse.contents`); this is for those of earlier versions, which do
not, and for what only the run can know.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dist_sparse.contents import describe
from dist_sparse.errors import UserError
from dist_sparse.progress import Progress
from dist_sparse.sparsity import bits
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.packed_tensor import PackedTensor
from dist_sparse.stored import check_whole, first_of, misfits_of


class _Wrong(Exception):
    """An entry and what is wrong with it."""


def check_networks(state: Mapping[str, Any], path: Path) -> None:
    """Refuse with a UserError a checkpoint whose networks cannot be put together; the message names the entry."""
    check_whole(state, path)
    try:
        _check_networks(state)
    except _Wrong as wrong:
        raise UserError(f"{path}: entry {wrong}") from None


def check_fits(
    state: Mapping[str, Any], path: Path, *, model: nn.Module, optimizer: Optimizer, averaged: bool, total_steps: int
) -> None:
    """Refuse with a UserError a checkpoint that a run of ``total_steps`` with this model cannot go on from."""
    check_networks(state, path)
    expected = model.state_dict()
    for name in ("state_dict", "state_dict_ema") if averaged else ("state_dict",):
        if state.get(name) is None:
            raise UserError(f"{path}: entry '{name}' is missing")
        if misfits := misfits_of(state[name], expected):
            raise UserError(f"{path}: entry '{name}' does not fit the run's model: {'; '.join(misfits)}")
    try:
        _check_progress(_entry(state, "progress", dict), total_steps)
        _check_optimizer(_entry(state, "optimizer", dict), optimizer)
        for name in ("scaler", "meter"):
            _entry(state, name, dict)
    except _Wrong as wrong:
        raise UserError(f"{path}: entry {wrong}") from None


def _check_networks(state: Mapping[str, Any]) -> None:
    weights = _entry(state, "state_dict", dict)
    averaged = _require(isinstance(each := state.get("state_dict_ema"), dict | None), "state_dict_ema", each, "weights or None")
    for key, tree in (("state_dict", weights), ("state_dict_ema", averaged or {})):
        for name, value in tree.items():
            _require(isinstance(value, Tensor | PackedTensor), f"{key}.{name}", value, "a tensor")
    if averaged is not None and (misfits := misfits_of(averaged, weights)):
        raise _Wrong(f"'state_dict_ema' does not fit 'state_dict': {'; '.join(misfits)}")
    config = _entry(state, "config", dict)
    method = config.get("sparsity.method")
    _require(isinstance(method, str) and method in METHODS, "config.sparsity.method", method, f"one of {', '.join(METHODS)}")
    for place, masks in _mask_states(_entry(state, "method", dict)):
        _check_masks(place, masks, weights)
    _check_norms(state["method"], weights)


def _mask_states(method: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Labels and states of the masks: a checkpoint holds those of one network as they are, of several as a list."""
    masks = _entry(method, "masks", (dict, list), within="method")
    if isinstance(masks, dict):
        yield "method", method
        return
    for number, each in enumerate(masks):
        yield f"method.masks[{number}]", _require(isinstance(each, dict), f"method.masks[{number}]", each, "masks")


def _check_masks(place: str, state: dict[str, Any], weights: Mapping[str, Tensor | PackedTensor]) -> None:
    masks, explored = (_entry(state, key, dict, within=place) for key in ("masks", "explored"))
    if masks.keys() != explored.keys():
        raise _Wrong(f"'{place}.explored' is of other layers than the masks: {first_of(masks.keys() ^ explored.keys())}")
    for name, mask in masks.items():
        if name not in weights:
            raise _Wrong(f"'{place}.masks.{name}' is of no weight of the model")
        numel = weights[name].shape.numel()
        for key, packed in (("masks", mask), ("explored", explored[name])):
            entry = f"{place}.{key}.{name}"
            sound = isinstance(packed, Tensor) and packed.dtype == torch.uint8 and packed.shape == (-(-numel // 8),)
            _require(sound, entry, packed, f"[{-(-numel // 8)}] uint8, the bits of {numel} weights")
            if numel % 8 and int(packed[-1]) >> numel % 8:
                raise _Wrong(f"'{entry}' has bits beyond its {numel} weights")
        if bits.popcount(mask & ~explored[name]):
            raise _Wrong(f"'{place}.explored.{name}' lacks weights that are active in the mask")


def _check_norms(method: dict[str, Any], weights: Mapping[str, Tensor | PackedTensor]) -> None:
    """The sets of batch norms of a method that trains several networks."""
    if not isinstance(method["masks"], list):
        return
    sets = _entry(_entry(method, "norms", dict, within="method"), "sets", list, within="method.norms")
    _require(len(sets) == len(method["masks"]), "method.norms.sets", sets, f"a list of {len(method['masks'])}")
    for number, each in enumerate(sets):
        place = f"method.norms.sets[{number}]"
        _require(isinstance(each, dict), place, each, "tensors by name")
        if misfits := misfits_of(each, {name: weights[name] for name in each if name in weights}):
            raise _Wrong(f"'{place}' does not fit 'state_dict': {'; '.join(misfits)}")


def _check_progress(progress: dict[str, Any], total_steps: int) -> None:
    known = {field.name: field.type for field in dataclasses.fields(Progress)}
    for name in known.keys() - {"work"}:  # which earlier versions lack
        _entry(progress, name, object, within="progress")
    if strange := progress.keys() - known.keys():
        raise _Wrong(f"'progress.{min(strange)}' is not known to this version")
    for name in ("step", "best_step", "steps_made"):
        # The best may be of a later step: of the same run, which has gone on from further back since.
        limit = progress["step"] if name == "steps_made" else total_steps
        sound = type(value := progress[name]) is int and 0 <= value <= limit
        _require(sound, f"progress.{name}", value, f"a whole number from 0 to {limit}")
    for name in ("best_top1", "last_top1", "seconds", "density_sum", "peak_density", "work"):
        value = progress.get(name, 0.0)
        _require(isinstance(value, float | int) and math.isfinite(value), f"progress.{name}", value, "a finite number")
    _require(type(value := progress["validation_pending"]) is bool, "progress.validation_pending", value, "True or False")
    for name in ("layer_density_sums", "gradient_density_sums"):
        _entry(progress, name, dict, within="progress")


def _check_optimizer(saved: dict[str, Any], optimizer: Optimizer) -> None:
    groups, own = _entry(saved, "param_groups", list, within="optimizer"), optimizer.state_dict()["param_groups"]
    _require(len(groups) == len(own), "optimizer.param_groups", groups, f"a list of {len(own)}")
    for number, (group, mine) in enumerate(zip(groups, own, strict=True)):
        place = f"optimizer.param_groups[{number}]"
        _require(isinstance(group, dict), place, group, "a group's settings")
        rate = _entry(group, "lr", (float, int, Tensor), within=place)
        _require(math.isfinite(float(rate)), f"{place}.lr", rate, "a finite number")
        if "params" in group:  # DeepSpeed's state lies among its shards
            sound = group["params"] == mine["params"]
            _require(sound, f"{place}.params", group["params"], f"the {len(mine['params'])} parameters of the run's group")


def _entry(tree: Mapping[str, Any], key: str, kind: Any, *, within: str = "") -> Any:
    name = f"{within}.{key}".lstrip(".")
    if key not in tree:
        raise _Wrong(f"'{name}' is missing")
    accepted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
    return _require(isinstance(tree[key], kind), name, tree[key], f"a {accepted}")


def _require(sound: bool, name: str, value: Any, accepted: str) -> Any:
    if not sound:
        raise _Wrong(f"'{name}' is {describe(value)} instead of {accepted}")
    return value
