"""Which way each layer is computed: the fastest by what was measured, and all densely where the whole network gains nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from dist_sparse.execution.backends import Backend
from dist_sparse.execution.costs import Costs
from dist_sparse.execution.current import Chosen
from dist_sparse.execution.layers import Layer
from dist_sparse.execution.ways import DENSE, LayerMask

_WORTHWHILE = 0.95
"""A network is computed sparsely if its step is expected to take at most this share of the dense one's."""

_WASTE = 2.5
"""A way that computes this many times the products of active weights is not measured: no rate makes up for it."""

_ALIKE = 1.1
"""Row groups that compute at most this many times as many products as single weights are faster: those are not measured."""

_FILL = 0.6
"""Where nothing is measured, a way is taken if at least this share of its products is with active weights."""


@dataclass(frozen=True, kw_only=True)
class NetworkCost:
    """Seconds of a training step of the whole network."""

    dense: float
    rest: float
    """A sparse step without the layers that have a choice."""


def sparse_key(layer: Layer, way: str, *, channels_last: bool = False) -> str:
    """What the cost of a layer in a way is kept under, but for its load; ways with samples innermost have one format."""
    return f"{way}{' channels last' if channels_last else ''}: {layer.key}"


def dense_key(layer: Layer, *, channels_last: bool, within: bool) -> str:
    """What a dense layer's cost is kept under."""
    return f"{DENSE}{' within' if within else ''}{' channels last' if channels_last else ''}: {layer.key}"


def loads(backend: Backend, layer: Layer, mask: LayerMask) -> dict[str, float]:
    """The load of each way that can compute a layer and is worth a thought."""
    found = {name: way.load(mask) for name, way in backend.ways.items() if way.takes(layer.shape)}
    return _worthwhile(backend, found, mask.density)


def loads_at(backend: Backend, layer: Layer, density: float, like: LayerMask) -> dict[str, float]:
    """As :func:`loads`, to expect at another density of a mask that is made as ``like`` is."""
    found = {name: way.load_at(density, like) for name, way in backend.ways.items() if way.takes(layer.shape)}
    return _worthwhile(backend, found, density)


def _worthwhile(backend: Backend, found: dict[str, float], density: float) -> dict[str, float]:
    least = max(density, 1e-6)
    groups = found.get("row groups")
    if groups is not None and groups <= _ALIKE * least:
        return {"row groups": groups}
    return {name: load for name, load in found.items() if load <= min(backend.ways[name].most_load, least * _WASTE)}


class Fastest:
    """Chooses by costs."""

    def __init__(
        self,
        backend: Backend,
        layers: Mapping[str, Layer],
        costs: Costs,
        *,
        channels_last: bool,
        network: NetworkCost | None = None,
    ) -> None:
        """``network`` is None while it is measured: then each layer has its fastest way."""
        self._backend, self._layers, self._costs = backend, layers, costs
        self._network, self._channels_last = network, channels_last

    def __call__(self, masks: Mapping[str, LayerMask]) -> dict[str, Chosen]:
        chosen, seconds = self.each(masks)
        network = self._network
        if network is not None and network.rest + seconds > _WORTHWHILE * network.dense:
            return {}
        return chosen

    def each(self, masks: Mapping[str, LayerMask]) -> tuple[dict[str, Chosen], float]:
        """Each layer's fastest way, dense ones left out, and the seconds of all layers together."""
        best = {name: self._best(layer, masks[name]) for name, layer in self._layers.items()}
        chosen = {name: chosen for name, (chosen, _) in best.items() if chosen is not None}
        return chosen, sum(seconds for _, seconds in best.values())

    def step_seconds(self, masks: Mapping[str, LayerMask]) -> tuple[float, float]:
        """The expected time of a sparse step with these masks, and of a dense one."""
        assert self._network is not None
        return self._network.rest + self.each(masks)[1], self._network.dense

    def seconds_of(self, name: str, mask: LayerMask) -> float:
        """A layer's forward and backward pass in its fastest way; 0 if nothing is known of it."""
        return self._best(self._layers[name], mask)[1]

    def gains(self, masks: Mapping[str, LayerMask]) -> dict[str, float]:
        """By layer that is not dense: how many times as long torch takes for it, where that is known."""
        gains = {}
        for name in self(masks):
            dense = self._costs.get(dense_key(self._layers[name], channels_last=self._channels_last, within=False))
            if dense is not None and (seconds := self.seconds_of(name, masks[name])):
                gains[name] = dense / seconds
        return gains

    def _best(self, layer: Layer, mask: LayerMask) -> tuple[Chosen | None, float]:
        """The fastest way, None for the dense one, and its seconds.

        A layer that nobody had the time to measure has the way that it would have without measuring, at no cost.
        """
        dense = self._costs.get(dense_key(layer, channels_last=self._channels_last, within=self._backend.innermost))
        if dense is None:
            return _unmeasured(self._backend, layer, mask), 0.0
        best, least, channels_last = None, dense, self._channels_last and not self._backend.innermost
        for way, load in loads(self._backend, layer, mask).items():
            seconds = self._costs.in_band(sparse_key(layer, way, channels_last=channels_last), load)
            if seconds is not None and seconds < least:
                best, least = Chosen(way=way, load=load), seconds
        return best, least


class Sparsest:
    """Computes every layer sparsely that some way fits, and measures nothing."""

    def __init__(self, backend: Backend, layers: Mapping[str, Layer]) -> None:
        self._backend, self._layers = backend, layers

    def __call__(self, masks: Mapping[str, LayerMask]) -> dict[str, Chosen]:
        found = {name: _unmeasured(self._backend, layer, masks[name]) for name, layer in self._layers.items()}
        return {name: chosen for name, chosen in found.items() if chosen is not None}

    def gains(self, masks: Mapping[str, LayerMask]) -> dict[str, float]:
        """Nothing is known of them."""
        return {}


def _unmeasured(backend: Backend, layer: Layer, mask: LayerMask) -> Chosen | None:
    """A layer's way where nothing was measured: of those that compute few zeros, what computes most at once."""
    fitting = [Chosen(way=way, load=load) for way, load in loads(backend, layer, mask).items() if mask.density >= _FILL * load]
    return fitting[-1] if fitting else None
