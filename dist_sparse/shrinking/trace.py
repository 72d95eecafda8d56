"""The graph of a network's operations, as torch.export sees them, with every operation's shape and the module it belongs to."""

import copy
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from dist_sparse.errors import UserError, one_line

OTHER_FORMATS = "the other export formats do not follow the network's operations"


@dataclass(frozen=True)
class Traced:
    """A network with its masks applied, in double precision and evaluation mode, and its graph for a batch of one."""

    model: nn.Module
    graph_module: fx.GraphModule
    tensors: Mapping[str, Tensor]
    """Parameters and buffers by their names in the model."""
    inputs: Mapping[str, str | None]
    """The name of the parameter or buffer behind each placeholder of the graph; None for the images."""

    @property
    def graph(self) -> fx.Graph:
        return self.graph_module.graph

    def parameter(self, argument: object) -> str | None:
        """The name of the parameter or buffer that an argument of an operation is, None if it is none."""
        return self.inputs.get(argument.name) if isinstance(argument, fx.Node) else None


def masked_copy(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy in evaluation mode whose inactive weights are 0.

    Raises:
        UserError: a mask of a parameter that the model does not have, or of another shape; a weight that is not finite.
    """
    twin = copy.deepcopy(model).eval()
    if getattr(twin, "grad_checkpointing", False):  # of training, and nothing that a graph can hold
        twin.set_grad_checkpointing(False)  # pyright: ignore[reportCallIssue]
    parameters = dict(twin.named_parameters())
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            have = tuple(parameters[name].shape) if name in parameters else "no such parameter"
            raise UserError(f"the mask {one_line(name)} of shape {tuple(mask.shape)} fits no layer: the network has {have}")
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask.to(parameters[name].device))
    for name, tensor in twin.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"the network cannot be shrunk: {one_line(name)} holds values that are not finite")
    return twin


def trace(masked: nn.Module, example: Tensor) -> Traced:
    """Follow a :func:`masked_copy` on one image.

    Raises:
        UserError: it cannot be followed; names the line of the network, or what it does there.
    """
    double = copy.deepcopy(masked).double().cpu()
    image = torch.zeros(1, *example.shape[1:], dtype=torch.float64)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            program = torch.export.export(double, (image,), strict=False)
    except Exception as error:  # torch.export passes on whatever the network's own code raises
        raise UserError(f"the network's operations cannot be followed: {_where(error)}; {OTHER_FORMATS}") from error
    stored: dict[str, Any] = {**program.state_dict, **program.constants}
    tensors = {name: tensor for name, tensor in stored.items() if isinstance(tensor, Tensor)}
    inputs = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    return Traced(model=double, graph_module=program.graph_module, tensors=tensors, inputs=inputs)


def _where(error: Exception) -> str:
    """The reason on one line, and the line of the network's code where it came up."""
    reason = one_line((str(error).strip() or type(error).__name__).splitlines()[0])
    torch_folder = str(Path(torch.__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(torch_folder)]
    frames = [frame for frame in frames if frame.filename != __file__]
    if not frames:
        return reason
    return f"`{frames[-1].line}` ({Path(frames[-1].filename).name}, line {frames[-1].lineno}): {reason}"


def module_of(node: fx.Node) -> str:
    """The path of the module whose code runs the operation; empty for the network itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def shape_of(node: object) -> torch.Size:
    """The shape of an operation's result."""
    assert isinstance(node, fx.Node)
    return node.meta["val"].shape
