"""An optimizer's state by parameter, whichever class of optimizer it is."""

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def parameter_state(optimizer: Optimizer) -> MutableMapping[Tensor, dict[str, Any]]:
    """An optimizer's state by parameter. timm's lookahead keeps it in the optimizer that it wraps."""
    return getattr(optimizer, "_base_optimizer", optimizer).state


def set_parameter_state(optimizer: Optimizer, parameter: Tensor | None, state: dict[str, Any]) -> None:
    """Give an optimizer another state of a parameter, or none, so that it begins anew. Buffers, None here, have no state."""
    everything = parameter_state(optimizer)
    if parameter is not None and state:
        everything[parameter] = state
    elif parameter is not None:
        everything.pop(parameter, None)
