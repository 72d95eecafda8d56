"""Which units are constant, and their values: the network computed on an image of which nothing is known.

The image is NaN, so whatever depends on it becomes NaN as well, and what is a number afterwards is the same for every image.
Only where a masked weight, or a known zero, cuts off what is unknown does the arithmetic need rules of its own.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map_only

from dist_sparse.errors import UserError
from dist_sparse.shrinking import operations as ops
from dist_sparse.shrinking.trace import OTHER_FORMATS, Traced, module_of, shape_of


class Constants(fx.Interpreter):
    """One pass over the graph. ``read`` then holds what every convolution and linear layer knows of its inputs."""

    def __init__(self, traced: Traced, masks: Mapping[str, Tensor]) -> None:
        super().__init__(traced.graph_module)
        self._traced = traced
        self._masks = masks
        self.read: dict[fx.Node, Tensor] = {}
        """By operation: the constant of every unit that it reads, NaN where that is none."""
        self.lost: dict[fx.Node, Tensor] = {}
        """By convolution that pads: which units it reads are constants other than 0, and therefore differ at the borders."""

    def find(self) -> None:
        """Do the pass.

        Raises:
            UserError: an operation makes integers or truth values of the image, whose dependence cannot be followed.
        """
        arguments = []
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                name = self._traced.inputs[node.name]
                unknown = torch.full(shape_of(node), torch.nan, dtype=torch.float64)
                arguments.append(unknown if name is None else self._traced.tensors[name].detach().clone())
        with torch.no_grad():
            self.run(*arguments)

    def run_node(self, n: fx.Node) -> Any:
        """As the base class's, of operations whose values may be unknown."""
        if n.op == "get_attr":
            raise UserError(f"the operation {n.target} of {module_of(n) or 'the network'} cannot be followed; {OTHER_FORMATS}")
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        name = ops.name_of(n)
        if name in ops.CONVOLUTIONS:
            return self._weighted(n, _by_unit(args[0], 1), args[2] if len(args) > 2 else kwargs.get("bias"), 1)
        if name == "linear":
            return self._weighted(n, _by_unit(args[0], -1), args[2] if len(args) > 2 else kwargs.get("bias"), -1)
        operands = [each for each in _tensors((args, kwargs)) if each.is_floating_point()]
        unknown = any(bool(each.isnan().any()) for each in operands)
        if not unknown:
            return super().run_node(n)
        if name == "mul":
            return _product(n, args)
        if name == "scaled_dot_product_attention":
            return _attention(args[2], shape_of(n))
        if name == "batch_norm":
            return super().run_node(n)
        if name in ops.POOLS:
            return self._pooled(n, args[0])
        return self._other(n, name)

    def _weighted(self, node: fx.Node, known: Tensor, bias: Tensor | None, dim: int) -> Tensor:
        """The result of a convolution or a linear layer, from one number for each unit that it reads."""
        shape = shape_of(node)
        result = torch.full(shape, torch.nan, dtype=torch.float64)
        self.read[node] = known
        name = self._traced.parameter(node.args[1])
        if name is None:  # the weight is computed
            return result
        weight = self._traced.tensors[name].detach()
        active = active_pairs(self._masks.get(name), weight)
        if dim == 1 and ops.is_padded(node):
            borders = ~known.isnan() & (known != 0)
            known = torch.where(borders, torch.nan, known)
            self.lost[node] = borders
        groups = ops.groups_of(node) if dim == 1 else 1
        by_group = known.view(groups, 1, -1)
        pairs = active.view(groups, -1, by_group.shape[-1])
        if node in self.lost:
            self.lost[node] &= pairs.any(1).flatten()
        sums = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        values = (sums.view_as(pairs) * by_group.nan_to_num()).sum(2).flatten()
        values[(pairs & by_group.isnan()).any(2).flatten()] = torch.nan
        if bias is not None:
            values = values + bias
        return result.copy_(values if dim == -1 else values.view(-1, *[1] * (len(shape) - 2)))

    def _pooled(self, node: fx.Node, operand: Tensor) -> Any:
        """A constant other than 0 is not trusted where zeros beyond the border are averaged with it."""
        result = super().run_node(node)
        if ops.name_of(node).startswith("avg_pool") and ops.is_padded(node):
            values = _by_unit(operand, 1)
            result[:, ~(values == 0)] = torch.nan
        return result

    def _other(self, node: fx.Node, name: str) -> Any:
        follows = ops.is_elementwise(node) or name in ops.SHAPES | ops.REDUCTIONS | ops.SOFTMAX
        follows = follows or name in {"layer_norm", "matmul", "bmm", "cat", "stack", "getitem", "group_norm", "rms_norm"}
        result = super().run_node(node)
        if not all(tensor.is_floating_point() for tensor in _tensors(result)):
            place = module_of(node) or "the network"
            raise UserError(f"the operation {name} of {place} cannot be followed: it makes no real numbers; {OTHER_FORMATS}")
        return result if follows else tree_map_only(Tensor, lambda tensor: torch.full_like(tensor, torch.nan), result)


def active_pairs(mask: Tensor | None, weight: Tensor) -> Tensor:
    """Which outputs read which inputs (of their group): [O, I], True where any weight between them is active."""
    if mask is None:
        return torch.ones(weight.shape[:2], dtype=torch.bool)
    return mask.cpu().flatten(2).any(2) if mask.dim() > 2 else mask.cpu()


def _by_unit(tensor: Tensor, dim: int) -> Tensor:
    """The one value of each unit along a dimension; NaN where it is unknown or not the same everywhere."""
    rows = tensor.movedim(dim, 0).flatten(1)
    first = rows[:, 0]
    return torch.where((rows == first[:, None]).all(1), first, torch.nan)


def _product(node: fx.Node, args: tuple[Any, ...]) -> Tensor:
    """A known 0 stays 0 whatever it is multiplied by."""
    left, right = (torch.as_tensor(each, dtype=torch.float64) for each in args[:2])
    result = torch.where((left == 0) | (right == 0), 0.0, left * right).to(torch.float64)
    return cast(Tensor, args[0]).copy_(result) if str(node.target).startswith("aten.mul_") else result


def _attention(values: Tensor, shape: torch.Size) -> Tensor:
    """The mean of the same vector at every token is that vector, whatever the weights are."""
    first = values[..., :1, :]
    known = (values == first).all(dim=-2, keepdim=True)
    return torch.where(known, first, torch.nan).expand(shape).clone()


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
