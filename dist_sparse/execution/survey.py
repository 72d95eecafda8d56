"""Measuring what a run's choices depend on, unless the machine's cache knows it; all ranks end with the first one's figures."""

import hashlib
import itertools
import time
from collections.abc import Callable, Mapping

from torch import nn
from tqdm import tqdm

from dist_sparse import distributed
from dist_sparse.execution.backends import Backend
from dist_sparse.execution.choose import Fastest, NetworkCost, dense_key, loads_at, sparse_key
from dist_sparse.execution.costs import Costs, band_of, load_of, read_cache, with_band, write_cache
from dist_sparse.execution.current import Current
from dist_sparse.execution.layers import Layer
from dist_sparse.execution.measure import dense_cost, network_seconds, sparse_cost
from dist_sparse.execution.prepare import prepare, undo
from dist_sparse.execution.setting import Setting
from dist_sparse.preemption import UntilAsked
from dist_sparse.sparsity.masks import Masks

_SECONDS = 60.0
"""So long layers are measured at most; what is left then is taken to cost as much as the nearest that was measured."""


def measured_costs(
    setting: Setting, model: nn.Module, backend: Backend, layers: Mapping[str, Layer], final: Masks
) -> tuple[Costs, NetworkCost]:
    """The costs of layers at all densities to be expected, and of the network. Collective.

    All ranks measure at once, as they will train at once, and take the first one's figures.

    Raises:
        StopAsked: the run is asked to stop. What was measured is in the cache.
    """
    first = distributed.is_first()
    costs = _same(read_cache() if first else Costs())
    known = len(costs)
    wanted = {key: measure for key, measure in _wanted(setting, backend, layers, final).items() if costs.get(key) is None}
    if wanted and first:
        setting.tell(f"measuring how fast {len(layers)} layers are computed, {_SECONDS:.0f} s at most; kept for later runs")
    try:
        _measure(costs, wanted, setting.until_asked, quiet=not first)
        costs = _same(costs)
        return costs, _network(setting, model, backend, layers, final, costs)
    finally:  # also if the run is asked to stop
        if first and len(costs) > known:
            write_cache(costs)


def _same(costs: Costs) -> Costs:
    return Costs.from_state(distributed.from_first_rank(costs.state_dict()))


def _wanted(setting: Setting, backend: Backend, layers: Mapping[str, Layer], final: Masks) -> dict[str, Callable[[], float]]:
    """What to measure, the most important first: keys, and what measures them."""
    wanted: dict[str, Callable[[], float]] = {}
    like = Current(backend, final, lambda _: {}).layer_masks(final)
    largest = sorted(layers.items(), key=lambda item: -item[1].products)
    at = dict.fromkeys((name, band_of(densities[name])) for densities in setting.densities for name, _ in largest)
    channels_last = setting.channels_last and not backend.innermost
    for name, band in at:
        layer = layers[name]
        for within in (True, False) if backend.innermost else (False,):
            key = dense_key(layer, channels_last=setting.channels_last, within=within)
            wanted.setdefault(key, _of_dense(layer, channels_last=setting.channels_last, within=within))
        for way, load in loads_at(backend, layer, load_of(band), like[name]).items():
            key = with_band(sparse_key(layer, way, channels_last=channels_last), band_of(load))
            wanted.setdefault(key, _of_sparse(backend, layer, way, band_of(load), channels_last=channels_last))
    return wanted


def _of_dense(layer: Layer, *, channels_last: bool, within: bool) -> Callable[[], float]:
    return lambda: dense_cost(layer, channels_last=channels_last, within=within)


def _of_sparse(backend: Backend, layer: Layer, way: str, band: int, *, channels_last: bool) -> Callable[[], float]:
    return lambda: sparse_cost(backend, layer, backend.ways[way], band, channels_last=channels_last)


def _measure(costs: Costs, wanted: Mapping[str, Callable[[], float]], until_asked: UntilAsked, *, quiet: bool) -> None:
    """As many as the time allows."""
    until = time.perf_counter() + _SECONDS
    bar = tqdm(wanted.items(), desc="measuring layers", leave=False, disable=True if quiet else None)  # None: on a terminal
    for key, measure in until_asked(itertools.takewhile(lambda _: time.perf_counter() <= until, bar)):
        costs.put(key, measure())


def _network(
    setting: Setting, model: nn.Module, backend: Backend, layers: Mapping[str, Layer], final: Masks, costs: Costs
) -> NetworkCost:
    """The cost of whole steps, dense and with the masks of the end; kept among the ``costs``."""
    choose = Fastest(backend, layers, costs, channels_last=setting.channels_last)
    trial = Current(backend, final, choose)
    chosen, seconds = choose.each(trial.layer_masks(final))
    dense, sparse = _keys(setting, model, {name: (each.way, band_of(each.load)) for name, each in chosen.items()})
    missing = costs.get(dense) is None or costs.get(sparse) is None
    if missing:
        costs.put(dense, network_seconds(model, setting.step, setting.until_asked))
        prepare(model, trial, setting.images)
        try:
            costs.put(sparse, network_seconds(model, setting.step, setting.until_asked))
        finally:
            undo(model)
    measured = costs.get(dense), costs.get(sparse)
    assert measured[0] is not None and measured[1] is not None
    figures = measured[0], max(0.0, measured[1] - seconds)
    dense_seconds, rest = distributed.from_first_rank(figures) if missing else figures
    return NetworkCost(dense=dense_seconds, rest=rest)


def _keys(setting: Setting, model: nn.Module, chosen: Mapping[str, object]) -> tuple[str, str]:
    """What the costs of a network's dense and sparse step are kept under."""
    how = f"{tuple(setting.shape)} {setting.precision} channels last: {setting.channels_last}"
    network, ways = (hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in (str(model), repr(chosen)))
    return f"network {network} {how}", f"network {network} {how} by {ways}"
