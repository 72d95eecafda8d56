"""The graph read once, from the images to the logits: which units go together.

Every tensor has at most one dimension whose positions are units that might be removed (channels of images, features of tokens,
attention heads). Its positions have numbers, and numbers that an operation ties to one another are joined: the terms of a sum,
a channel and its norm, input and output of a depthwise convolution. What an operation does that is not known here ends the
matter: its operands keep their sizes.
"""

from typing import Any

import numpy as np
from torch import Tensor, fx

from dist_sparse.shrinking import operations as ops
from dist_sparse.shrinking.coupling import FIXED, Coupling, Heads, Reader
from dist_sparse.shrinking.moves import Mixed, follow
from dist_sparse.shrinking.trace import Traced, module_of, shape_of
from dist_sparse.shrinking.units import Axis, Ids, Reason

Value = Axis | None | list[Any]


class Walk:
    """Reads the graph into a :class:`Coupling`."""

    def __init__(self, traced: Traced) -> None:
        self._traced = traced
        self._values: dict[fx.Node, Value] = {}
        self.found = Coupling()
        self._units = self.found.units

    def run(self) -> Coupling:
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._placeholder(node)
            elif node.op == "output":
                self._pin_all(node, Reason(FIXED, "the network's output"))
            else:
                self._values[node] = self._operation(node)
        return self.found

    def _placeholder(self, node: fx.Node) -> Value:
        """A vector has units of its own, which operations tie to others; a matrix gets them from its layer."""
        name, shape = self._traced.inputs[node.name], shape_of(node)
        long = [dim for dim, size in enumerate(shape) if size > 1]
        if name is None or len(long) != 1:
            return None
        ids = self._units.fresh(shape[long[0]])
        self.found.axes.setdefault(name, {})[long[0]] = ids
        return Axis(long[0], ids)

    def _operation(self, node: fx.Node) -> Value:
        name = ops.name_of(node)
        if name == "getitem":
            source: Any
            index: Any
            source, index = node.args[:2]
            value = self._values[source]
            return value[index] if isinstance(value, list) else None
        if not isinstance(node.meta.get("val"), Tensor | list | tuple):
            return None
        if name in ops.CONVOLUTIONS:
            return self._convolution(node)
        if name == "linear":
            return self._linear(node)
        if name == "batch_norm":
            return self._batch_norm(node)
        if name in ("cat", "concat"):
            return self._concatenation(node)
        if name in ops.SHAPES:
            return self._moved(node)
        if name in ("matmul", "bmm", "scaled_dot_product_attention"):
            return self._products(node, name)
        if ops.is_elementwise(node):
            return self._elementwise(node)
        axis = self._axis(node.args[0]) if node.args else None
        if axis is not None and self._leaves_alone(node, name, axis):
            self._pin_all(node, self._told(node), first=1)
            kept = name not in ops.REDUCTIONS or ops.argument(node, 2, "keepdim", False)
            return axis if kept else self._after_reduction(node, axis)
        self._pin_all(node, self._told(node))
        return None

    def _leaves_alone(self, node: fx.Node, name: str, axis: Axis) -> bool:
        """The operation computes every unit of its first operand alone."""
        dims = len(shape_of(node.args[0]))
        if name in ops.POOLS:
            padded: Any = node.args[1] if name in ("pad", "constant_pad_nd") else ()
            return axis.dim == 1 and len(padded) // 2 <= dims - 2
        if name == "layer_norm":
            normalised: Any = node.args[1]
            return axis.dim < dims - len(normalised)
        if name in ops.REDUCTIONS or name in ops.SOFTMAX:
            mixed: Any = ops.argument(node, 1, "dim")
            mixed = [mixed] if isinstance(mixed, int) else mixed
            return bool(mixed) and axis.dim not in [dim % dims for dim in mixed]
        return False

    def _after_reduction(self, node: fx.Node, axis: Axis) -> Axis:
        mixed: Any = ops.argument(node, 1, "dim")
        dims = len(shape_of(node.args[0]))
        gone = {dim % dims for dim in ([mixed] if isinstance(mixed, int) else mixed)}
        return Axis(axis.dim - sum(dim < axis.dim for dim in gone), axis.ids)

    # Layers

    def _convolution(self, node: fx.Node) -> Value:
        weight, groups = self._traced.parameter(node.args[1]), ops.groups_of(node)
        outputs, width = shape_of(node)[1], shape_of(node.args[0])[1]
        inputs = self._inputs(node, 1, width)
        if weight is None:
            return self._computed_weight(node, inputs)
        if groups == width and groups > 1:
            ids = np.repeat(inputs, outputs // width)
            self._parameter_axis(weight, 0, ids)
            self.found.depthwise[weight] = node
        else:
            ids = self._outputs(weight, outputs)
            self._read(node, weight, inputs, ids, groups)
        self._bias(node, ids)
        return Axis(1, ids)

    def _linear(self, node: fx.Node) -> Value:
        weight = self._traced.parameter(node.args[1])
        shape = shape_of(node)
        inputs = self._inputs(node, len(shape) - 1, shape_of(node.args[0])[-1])
        if weight is None:
            return self._computed_weight(node, inputs)
        ids = self._outputs(weight, shape[-1])
        self._read(node, weight, inputs, ids, 1)
        self._bias(node, ids)
        return Axis(len(shape) - 1, ids)

    def _inputs(self, node: fx.Node, dim: int, width: int) -> Ids:
        """The units that a layer reads; ones that stay where its input has none along that dimension."""
        axis = self._axis(node.args[0])
        if axis is not None and axis.dim == dim:
            return axis.ids
        if axis is not None:
            self._units.pin(axis.ids, self._told(node))
        ids = self._units.fresh(width)
        self._units.pin(ids, self._source(node.args[0]))
        return ids

    def _outputs(self, weight: str, width: int) -> Ids:
        """The units that a layer gives; a layer that is used again gives those of its first use."""
        known = self.found.axes.get(weight, {})
        return known[0] if 0 in known else self._parameter_axis(weight, 0, self._units.fresh(width))

    def _read(self, node: fx.Node, weight: str, inputs: Ids, outputs: Ids, groups: int) -> None:
        if groups == 1:
            self._parameter_axis(weight, 1, inputs)
        if any(ops.name_of(user) not in {*ops.CONVOLUTIONS, "linear"} for user in _users(node.args[1])):
            self._units.pin([*inputs, *outputs], Reason(FIXED, f"another use of {weight}"))
        padded = ops.name_of(node) in ops.CONVOLUTIONS and ops.is_padded(node)
        mean = self._mean_after(node)
        bias = self._foldable_bias(node, weight) if mean is None else mean
        reader = Reader(node, weight, inputs, outputs, groups, padded, bias, 1 if mean is None else -1)
        self.found.readers.append(reader)

    def _mean_after(self, node: fx.Node) -> str | None:
        """The running mean of the batch norm that alone follows a layer without a bias."""
        following = list(node.users)
        if ops.argument(node, 2, "bias") is not None or len(following) != 1 or ops.name_of(following[0]) != "batch_norm":
            return None
        mean = following[0].args[3]
        used_once = isinstance(mean, fx.Node) and len(mean.users) == 1
        return self._traced.parameter(mean) if used_once and following[0].args[0] is node else None

    def _foldable_bias(self, node: fx.Node, weight: str) -> str | None:
        """The bias of the module that the weight belongs to, if this operation adds it, or would if there were one."""
        module = weight.rpartition(".")[0]
        bias = f"{module}.bias" if module else "bias"
        given = ops.argument(node, 2, "bias")
        if given is not None:
            own = isinstance(given, fx.Node) and len(given.users) == 1 and self._traced.parameter(given) == bias
            return bias if own else None
        return bias if module_of(node) == module else None

    def _bias(self, node: fx.Node, ids: Ids) -> None:
        given = ops.argument(node, 2, "bias")
        if given is None:
            return
        axis = self._axis(given)
        if axis is not None and len(axis.ids) == len(ids):
            self._units.join(axis.ids, ids)
        elif len(ids) > 1:  # a vector of one is no axis
            self._units.pin(ids, self._told(node))

    def _computed_weight(self, node: fx.Node, inputs: Ids) -> Value:
        self._pin_all(node, self._told(node))
        self._units.pin(inputs, self._told(node))
        return None

    def _parameter_axis(self, name: str, dim: int, ids: Ids) -> Ids:
        known = self.found.axes.setdefault(name, {})
        if dim in known:
            self._units.join(known[dim], ids)
        else:
            known[dim] = ids
        return ids

    def _batch_norm(self, node: fx.Node) -> Value:
        axis = self._axis(node.args[0])
        if axis is None or axis.dim != 1:
            self._pin_all(node, self._told(node))
            return None
        for vector in node.args[1:5]:
            if (other := self._axis(vector)) is not None:
                self._units.join(axis.ids, other.ids)
        return axis

    # Everything else

    def _elementwise(self, node: fx.Node) -> Value:
        """The operands' units are joined where they stand for the same positions of the result."""
        shape = shape_of(node)
        axes: list[Axis] = []
        for operand in node.all_input_nodes:
            if (axis := self._axis(operand)) is not None:
                axes.append(Axis(axis.dim + len(shape) - len(shape_of(operand)), axis.ids))
        if not axes:
            return None
        dim = axes[0].dim
        if any(axis.dim != dim for axis in axes):
            self._pin_all(node, self._told(node))
            return None
        for operand in node.all_input_nodes:
            at = dim - (len(shape) - len(shape_of(operand)))
            if self._axis(operand) is None and at >= 0 and shape_of(operand)[at] > 1:
                self._pin_all(node, self._source(operand))
        full = [axis for axis in axes if len(axis.ids) == shape[dim]]
        for axis in axes:
            if len(axis.ids) == shape[dim]:
                self._units.join(full[0].ids, axis.ids)
            else:  # one unit, which all others are combined with
                self._units.pin(axis.ids, self._told(node))
        return full[0] if full else None

    def _concatenation(self, node: fx.Node) -> Value:
        operands: Any = node.args[0]
        shape = shape_of(node)
        cut: Any = ops.argument(node, 1, "dim", 0)
        axes = [self._axis(operand) for operand in operands]
        dims = {axis.dim for axis in axes if axis is not None}
        if len(dims) != 1:
            self._pin_all(node, self._told(node))
            return None
        dim, parts = dims.pop(), []
        for operand, axis in zip(operands, axes, strict=True):
            if axis is None:
                ids = self._units.fresh(shape_of(operand)[dim])
                self._units.pin(ids, self._source(operand))
                axis = Axis(dim, ids)
            parts.append(axis.ids)
        if cut % len(shape) == dim:
            return Axis(dim, np.concatenate(parts))
        for part in parts[1:]:
            self._units.join(parts[0], part)
        return Axis(dim, parts[0])

    def _products(self, node: fx.Node, name: str) -> Value:
        """Products of matrices, each unit having matrices of its own: attention, by heads."""
        operands = [operand for operand in node.all_input_nodes if len(shape_of(operand)) > 2]
        axes = [self._axis(operand) for operand in node.all_input_nodes]
        dims = len(shape_of(node))
        if None in axes or len(operands) != len(axes) or any(axis and axis.dim >= dims - 2 for axis in axes):
            self._pin_all(node, self._told(node))
            return None
        first, *others = [axis for axis in axes if axis is not None]
        if any(axis.dim != first.dim or len(axis.ids) != len(first.ids) for axis in others):
            self._pin_all(node, self._told(node))
            return None
        for axis in others:
            self._units.join(first.ids, axis.ids)
        return first

    def _moved(self, node: fx.Node) -> Value:
        source = node.args[0]
        axis = self._axis(source)
        if axis is None:
            value = node.meta["val"]
            return [None] * len(value) if isinstance(value, list | tuple) else None
        module = module_of(node)
        try:
            moved, heads = follow(node, axis, getattr(self._traced.model.get_submodule(module), "num_heads", None))
        except Mixed:
            self._pin_all(node, self._told(node))
            return [None] * len(value) if isinstance(value := node.meta["val"], list | tuple) else None
        for first, others in heads:
            self._units.join(first, others)
        if heads:
            self.found.heads[module] = Heads(module, heads[0][0])
        return moved

    # Helpers

    def _axis(self, argument: object) -> Axis | None:
        value = self._values.get(argument) if isinstance(argument, fx.Node) else None
        return value if isinstance(value, Axis) else None

    def _pin_all(self, node: fx.Node, reason: Reason, first: int = 0) -> None:
        operands = {operand for operand in node.all_input_nodes if first == 0 or operand is not node.args[0]}
        for operand in operands:
            value = self._values.get(operand)
            for axis in value if isinstance(value, list) else [value]:
                if isinstance(axis, Axis):
                    self._units.pin(axis.ids, reason)

    @staticmethod
    def _told(node: fx.Node) -> Reason:
        return Reason(FIXED, f"{ops.name_of(node)} of {module_of(node) or 'the network'}")

    def _source(self, argument: object) -> Reason:
        """What a tensor without units is."""
        if isinstance(argument, fx.Node) and argument.op == "placeholder":
            return Reason(FIXED, self._traced.inputs[argument.name] or "the network's input")
        return self._told(argument) if isinstance(argument, fx.Node) else Reason(FIXED, "a number")


def _users(argument: object) -> list[fx.Node]:
    return list(argument.users) if isinstance(argument, fx.Node) else []
