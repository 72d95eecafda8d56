"""How a run's masked layers are computed: what the trainer tells, asks and saves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from dist_sparse.execution.choose import Fastest, Sparsest
from dist_sparse.execution.current import Current, LayerProducts
from dist_sparse.execution.modules import SparseConv2d, SparseLinear
from dist_sparse.execution.ways import DENSE
from dist_sparse.sparsity.bits import Unpacked
from dist_sparse.sparsity.masks import Masks


@dataclass(kw_only=True)
class Execution:
    """The execution of one network; without arguments that of a dense one.

    Everybody who runs the network calls :meth:`use` before.
    """

    reason: str = ""
    """Why no layer can be computed sparsely."""
    how: str = ""
    """In which way layers are, for the line to the user; empty if that goes without saying."""
    current: Current | None = None
    choose: Fastest | Sparsest | None = None
    state: Mapping[str, Any] | None = field(default=None, repr=False)
    """What was measured and the backend's name, for the checkpoint."""
    remaining: Mapping[str, float] = field(default_factory=dict)
    """By layer that has lost units: the share of its products that is left."""

    def use(self, masks: Masks, gradients: Masks | None) -> None:
        """The next forward passes have weights that are 0 outside of ``masks``; see :meth:`.Current.use`."""
        if self.current is not None:
            self.current.use(masks, gradients)

    def use_packed(self, packed: Mapping[str, Tensor]) -> None:
        """As :meth:`use`, for forward passes only, with the bits of masks."""
        if self.current is not None:
            masks = self.current.masks
            masks.replace(Unpacked(packed, {name: masks.shape(name) for name in packed}))
            self.use(masks, masks)

    def loads(self, masks: Masks) -> dict[str, float]:
        """The products that a forward pass with these masks computes, as a share of each layer's; 1 of dense layers."""
        dense = self._dense(masks)
        if self.current is None:
            return dense
        return {**dense, **{name: chosen.load for name, chosen in self.current.chosen(masks).items()}}

    def _dense(self, masks: Masks) -> dict[str, float]:
        return {**dict.fromkeys(masks.names, 1.0), **self.remaining}

    def computed(self, masks: Masks, gradients: Masks | None) -> dict[str, float]:
        """The products that a step computes, as a share of each layer's: the mean of forward and the two backward passes."""
        forward = self.loads(masks)
        if gradients is masks:
            return forward
        weights = self._dense(masks) if gradients is None else self.loads(gradients)
        return {name: (2 * load + weights[name]) / 3 for name, load in forward.items()}

    def sparse_layers(self, masks: Masks) -> int:
        """How many layers are computed sparsely."""
        return 0 if self.current is None else len(self.current.chosen(masks))

    def ways(self, masks: Masks) -> dict[str, str]:
        """By masked layer, how it is computed."""
        ways = dict.fromkeys(masks.names, DENSE)
        if self.current is not None:
            ways |= {name: chosen.way for name, chosen in self.current.chosen(masks).items()}
        return ways

    def gains(self, masks: Masks) -> dict[str, float]:
        """By layer: how many times as long a dense step of it was measured to take."""
        if self.current is None or self.choose is None:
            return {}
        return self.choose.gains(self.current.layer_masks(masks))

    def index_bytes(self, model: nn.Module) -> int:
        """What the index structures of the network hold."""
        made = [module.products_of for module in model.modules() if isinstance(module, SparseConv2d | SparseLinear)]
        return sum(each.index_bytes for each in made if isinstance(each, LayerProducts))

    def describe(self, masks: Masks) -> str:
        """One line for the user."""
        if self.current is None or self.choose is None:
            return f"layers are computed densely: {self.reason}" if self.reason else ""
        layers = f"{self.sparse_layers(masks)} of {len(masks)} masked layers are computed sparsely{self.how}"
        if isinstance(self.choose, Sparsest):
            return f"{layers}; nothing was measured (execution.compute=sparse)"
        sparse, dense = self.choose.step_seconds(self.current.layer_masks(masks))
        if not self.sparse_layers(masks):
            return f"layers are computed densely: a sparse step would take {sparse:.3g} s, a dense one {dense:.3g} s"
        return f"{layers}: forward and backward take {sparse:.3g} s instead of {dense:.3g} s (x{dense / sparse:.2f}, measured)"

    def state_dict(self) -> Mapping[str, Any] | None:
        """What a resumed run needs to compute as this one does."""
        return self.state
