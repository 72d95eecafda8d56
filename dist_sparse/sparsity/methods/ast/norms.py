"""The batch norms of AST's sub-nets, of which one set at a time is in the model.

They are exchanged in place, so that the model keeps its modules and names and nothing that wraps it notices.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from dist_sparse.sparsity.access import WeightAccess


class NormSets:
    """A set of batch norms for each sub-net: affine parameters, running statistics and the optimizer's state of them.

    One set at a time is in the model. Only that one is trained, since an optimizer leaves alone what it does not hold.
    """

    def __init__(self, access: WeightAccess, count: int, *, after: str) -> None:
        """``count`` sets, each as the model's is now, of the norms that come ``after`` a weight."""
        self._access, self._after = access, after
        live = access.batch_norms(after)
        self._sets = [{name: tensor.clone() for name, tensor in live.items()} for _ in range(count)]
        self._states: list[dict[str, dict[str, Any]]] = [{} for _ in range(count)]
        self.present = 0

    def put(self, number: int) -> None:
        """Put a set into the model; the one that is there is kept."""
        if number == self.present:
            return
        self._keep()
        self._put(number)

    def _keep(self) -> None:
        for name, tensor in self._access.batch_norms(self._after).items():
            self._sets[self.present][name].copy_(tensor)
        self._states[self.present] = {
            name: state for name in self._sets[self.present] if (state := self._access.optimizer_state(name))
        }

    def _put(self, number: int) -> None:
        self._access.set_values(self._sets[number])
        for name in self._sets[number]:
            self._access.set_optimizer_state(name, self._states[number].get(name, {}))
        self.present = number

    @contextlib.contextmanager
    def applied(self, number: int) -> Iterator[None]:
        """A set is in the model within the context."""
        before = self.present
        self.put(number)
        try:
            yield
        finally:
            self.put(before)

    def state_dict(self) -> dict[str, Any]:
        self._keep()
        return {
            "present": self.present,
            "sets": [{name: tensor.cpu().clone() for name, tensor in each.items()} for each in self._sets],
            "optimizer": [{name: dict(state) for name, state in states.items()} for states in self._states],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over; the model and the optimizer have already taken over theirs."""
        live = self._access.batch_norms(self._after)
        like = {name: self._access.optimizer_state(name) for name in live}
        self._sets = [{name: each[name].to(tensor.device) for name, tensor in live.items()} for each in state["sets"]]
        self._states = [
            {name: {key: _placed(value, key, like[name].get(key), live[name]) for key, value in kept.items()}
             for name, kept in states.items()}
            for states in state["optimizer"]
        ]  # fmt: skip
        self.present = state["present"]


def _placed(value: Any, key: str, like: Any, parameter: Tensor) -> Any:
    """A value of an optimizer's state where the optimizer has its like, else where torch puts it: beside the parameter."""
    if isinstance(value, list | tuple):
        return type(value)(_placed(each, key, None, parameter) for each in value)
    if not isinstance(value, Tensor):
        return value
    if isinstance(like, Tensor):
        return value.to(like.device)
    return value if key == "step" else value.to(parameter.device)
