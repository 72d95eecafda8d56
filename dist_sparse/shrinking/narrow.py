"""Make the smaller network: constants are given to the layers that read them, then what was removed is cut off."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dist_sparse.shrinking.coupling import Coupling
from dist_sparse.shrinking.plan import Plan, fit
from dist_sparse.shrinking.removal import Fold, Removal
from dist_sparse.shrinking.trace import Traced
from dist_sparse.shrinking.units import Ids


def make_plan(coupling: Coupling, removal: Removal, traced: Traced) -> Plan:
    """What is kept of every tensor."""
    plan = Plan()
    state = {name: list(tensor.shape) for name, tensor in traced.tensors.items()}

    def keep(name: str, dim: int, ids: Ids) -> None:
        kept = _kept(coupling, removal, ids)
        if len(kept) < len(ids):
            plan.kept.setdefault(name, {})[str(dim)] = kept

    for name, axes in coupling.axes.items():
        for dim, ids in axes.items():
            keep(name, dim, ids)
    for reader in coupling.readers:
        if reader.groups > 1:
            columns = [_kept(coupling, removal, ids) for ids in reader.by_group(reader.inputs)]
            if len(columns[0]) < state[reader.weight][1]:
                plan.columns[reader.weight] = columns
    for fold in removal.folds:
        bias = fold.reader.bias
        if not fold.carriers and bias is not None and bias not in traced.tensors:
            plan.biases.append(bias)
            keep(bias, 0, fold.reader.outputs)
    for heads in coupling.heads.values():
        kept = _kept(coupling, removal, heads.ids)
        if len(kept) < len(heads.ids):
            module = traced.model.get_submodule(heads.module)
            plan.attributes[heads.module] = _attributes(module, len(kept))
            plan.original_attributes[heads.module] = _attributes(module, int(module.num_heads))  # pyright: ignore[reportArgumentType]
    plan.shapes.update({name: state[name] for name in (*plan.kept, *plan.columns) if name in state})
    return plan


def apply_plan(masked: nn.Module, plan: Plan, removal: Removal, traced: Traced) -> None:
    """Narrow a masked network in place; arithmetic is in double precision, its tensors keep their dtypes."""
    narrow(masked, plan, taken_over(removal, traced))


def narrow(model: nn.Module, plan: Plan, changed: Mapping[str, Tensor], before: Plan | None = None) -> None:
    """Give a network, in place, the shape that a plan describes; its tensors keep their dtypes and memory formats.

    Args:
        changed: tensors of the original's shapes that take the place of the network's own.
        before: the plan by which the network is narrow already.
    """
    before = before or Plan()
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys((*before.kept, *before.columns, *plan.kept, *plan.columns, *changed)):
        source = changed[name] if name in changed else before.expand(name, named[name].detach())
        like = named[name] if name in named else next(iter(model.parameters()))
        tensors[name] = lie_as(like, plan.cut(name, source).to(dtype=like.dtype, device=like.device))
    fit(model, plan, tensors)


def widen(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of a narrow network with the original's shapes: what was removed is 0, and a removed unit's variance 1."""
    whole = copy.deepcopy(model)
    tensors: dict[str, Tensor] = {}
    for name, tensor in [*whole.named_parameters(), *whole.named_buffers()]:
        if name in plan.kept or name in plan.columns:
            tensors[name] = plan.expand(name, tensor.detach(), fill=float(name.endswith("running_var")))
    fit(whole, Plan(attributes=plan.original_attributes), tensors)
    return whole


def lie_as(like: Tensor, tensor: Tensor) -> Tensor:
    """A tensor in the memory format of another one."""
    if tensor.dim() != 4:
        return tensor.contiguous()
    return tensor.contiguous(memory_format=torch.channels_last if _is_channels_last(like) else torch.contiguous_format)


def taken_over(removal: Removal, traced: Traced) -> dict[str, Tensor]:
    """What readers of constant units become, in shapes of the original and double precision."""
    changed: dict[str, Tensor] = {}
    for fold in removal.folds:
        _fold(fold, traced.tensors, changed)
    return changed


def _fold(fold: Fold, tensors: Mapping[str, Tensor], changed: dict[str, Tensor]) -> None:
    reader = fold.reader
    weight = changed.get(reader.weight, tensors[reader.weight].detach()).clone()
    by_group = weight.view(reader.groups, -1, *weight.shape[1:])  # [groups, outputs, inputs, taps...]
    constants = fold.constants.view(reader.groups, -1)
    if fold.carriers:
        for group, (position, value) in fold.carriers.items():
            ratios = constants[group] / value
            by_group[group, :, position] += torch.einsum("i,oi...->o...", ratios, by_group[group].clone())
        changed[reader.weight] = weight
        return
    sums = by_group.flatten(3).sum(3) if by_group.dim() > 3 else by_group
    added = torch.einsum("goi,gi->go", sums, constants).flatten()
    assert reader.bias is not None
    before = changed.get(reader.bias, tensors.get(reader.bias))
    changed[reader.bias] = added if before is None else before.detach() + reader.sign * added


def _kept(coupling: Coupling, removal: Removal, ids: Ids) -> list[int]:
    roots = coupling.units.roots(ids)
    return [position for position, root in enumerate(roots.tolist()) if root not in removal.removed]


def _attributes(module: nn.Module, heads: int) -> dict[str, int]:
    """An attention's numbers with fewer heads."""
    found = {"num_heads": heads}
    for name in ("attn_dim", "inner_dim", "all_head_dim", "dim_head_total"):
        if isinstance(width := getattr(module, name, None), int) and width % int(module.num_heads) == 0:  # pyright: ignore[reportArgumentType]
            found[name] = width // int(module.num_heads) * heads  # pyright: ignore[reportArgumentType]
    return found


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
