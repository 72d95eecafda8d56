"""An optimizer's state by parameter, whichever class of optimizer it is."""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from torch import Size, Tensor, nn
from torch.optim import Optimizer

from dist_sparse.sparsity.packed_tensor import PackedTensor


def parameter_state(optimizer: Optimizer) -> MutableMapping[Tensor, dict[str, Any]]:
    """An optimizer's state by parameter. timm's lookahead keeps it in the optimizer that it wraps."""
    return getattr(optimizer, "_base_optimizer", optimizer).state


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Load an optimizer's saved state. A number keeps its type, such as NAdam's float32 product beside float64 weights.

    torch gives every tensor but ``step`` the parameter's type.
    """
    optimizer.load_state_dict(dict(saved))
    everything = parameter_state(optimizer)
    for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        for number, parameter in zip(group["params"], own["params"], strict=True):
            for key, value in saved["state"].get(number, {}).items():
                if isinstance(value, Tensor) and value.dim() == 0 < parameter.dim():
                    loaded = everything[parameter]
                    loaded[key] = value.to(loaded[key].device)


def set_parameter_state(optimizer: Optimizer, parameter: Tensor | None, state: dict[str, Any]) -> None:
    """Give an optimizer another state of a parameter, or none, so that it begins anew. Buffers, None here, have no state."""
    everything = parameter_state(optimizer)
    if parameter is not None and state:
        everything[parameter] = state
    elif parameter is not None:
        everything.pop(parameter, None)


def replace_parameters(optimizer: Optimizer, replaced: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Let an optimizer step other parameters, with the state of those that they replace."""
    state = parameter_state(optimizer)
    for group in optimizer.param_groups:
        group["params"] = [replaced.get(parameter, parameter) for parameter in group["params"]]
    for before, after in replaced.items():
        if before in state:
            state[after] = state.pop(before)


def with_each_state(
    optimizer: Optimizer,
    parameters: Mapping[str, nn.Parameter],
    saved: Mapping[str, Any],
    change: Callable[[str, dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """An optimizer's saved state with that of each of the named parameters changed."""
    names = {parameter: name for name, parameter in parameters.items()}
    groups = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    numbers = {
        number: names[parameter]
        for group, own in groups
        for number, parameter in zip(group["params"], own["params"], strict=True)
    }
    state = {number: change(numbers[number], each) if number in numbers else each for number, each in saved["state"].items()}
    return {**saved, "state": state}


def has_shape(value: Any, shape: Size) -> bool:
    """A tensor of a weight's shape, such as its momentum; step counters and factored moments are not."""
    return isinstance(value, Tensor | PackedTensor) and value.shape == shape
