"""What is chosen for a layer and for a network by their costs, and what is kept of the costs."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from dist_sparse.execution.backends import Backend, compiled_backend
from dist_sparse.execution.choose import Fastest, NetworkCost, dense_key, sparse_key
from dist_sparse.execution.costs import Costs, band_of, cache_path, load_of, read_cache, with_band, write_cache
from dist_sparse.execution.current import Current
from dist_sparse.execution.kernels import kernels
from dist_sparse.execution.layers import Layer, layers_of
from dist_sparse.execution.ways import LayerMask
from dist_sparse.sparsity.masks import Masks


def backend() -> Backend:
    return compiled_backend(kernels())


def layer(model: nn.Module, masks: Masks) -> Layer:
    return layers_of(model, masks, torch.Size([16, 8, 6, 6]))["0.weight"]


def masked(density: float, alike: int = 1) -> tuple[Layer, Masks]:
    """A network of one convolution, and its mask, whose rows agree in so many."""
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1))
    masks = Masks({"0.weight": torch.ones(16, 8, 3, 3)})
    rows = torch.rand(16 // alike, 8, 3, 3, generator=torch.Generator().manual_seed(0)) < density
    masks.replace({"0.weight": rows.repeat_interleave(alike, 0)})
    return layer(model, masks), masks


def costs_of(one: Layer, *, dense: float, **ways: tuple[float, float]) -> Costs:
    """``ways``: the seconds at a load, by a way's name."""
    costs = Costs({dense_key(one, channels_last=False, within=True): dense})
    costs.put(dense_key(one, channels_last=False, within=False), dense)
    for way, (load, seconds) in ways.items():
        costs.put(with_band(sparse_key(one, way.replace("_", " ")), band_of(load)), seconds)
    return costs


def chosen(one: Layer, masks: Masks, costs: Costs, network: NetworkCost | None = None) -> dict[str, str]:
    choose = Fastest(backend(), {"0.weight": one}, costs, channels_last=False, network=network)
    return {name: each.way for name, each in Current(backend(), masks, choose).chosen().items()}


def test_the_fastest_way_is_taken() -> None:
    """Groups of rows compute about twice as many products here."""
    one, masks = masked(0.5)
    for unstructured, row_groups, dense, expected in [(2, 1, 3, "row groups"), (1, 2, 3, "unstructured"), (2, 3, 1, None)]:
        costs = costs_of(one, dense=dense, unstructured=(0.5, unstructured), row_groups=(1.0, row_groups))
        assert chosen(one, masks, costs) == ({} if expected is None else {"0.weight": expected})


def test_a_way_that_computes_many_zeros_is_not_thought_of() -> None:
    one, masks = masked(0.1)
    costs = costs_of(one, dense=9, unstructured=(0.1, 2), row_groups=(0.35, 1))
    assert chosen(one, masks, costs) == {"0.weight": "unstructured"}


def test_rows_that_agree_in_fours_are_not_thought_of_one_by_one() -> None:
    one, masks = masked(0.1, alike=4)
    costs = costs_of(one, dense=9, unstructured=(0.1, 1), row_groups=(0.1, 2))
    assert chosen(one, masks, costs) == {"0.weight": "row groups"}


@pytest.mark.parametrize(("rest", "sparse"), [(1.0, True), (5.0, False)])
def test_a_network_that_gains_nothing_is_dense(rest: float, sparse: bool) -> None:
    """Its step would take the layers' 2 seconds and the rest, and takes 6 densely."""
    one, masks = masked(0.1)
    costs = costs_of(one, dense=4, unstructured=(0.1, 2))
    assert bool(chosen(one, masks, costs, NetworkCost(dense=6, rest=rest))) == sparse


def test_layers_change_their_way_with_their_density() -> None:
    one, masks = masked(0.1)
    costs = costs_of(one, dense=4, unstructured=(0.1, 2))
    costs.put(with_band(sparse_key(one, "unstructured"), band_of(0.5)), 5)
    choose = Fastest(backend(), {"0.weight": one}, costs, channels_last=False)
    current = Current(backend(), masks, choose)
    assert set(current.chosen()) == {"0.weight"}
    masks.replace({"0.weight": torch.rand(16, 8, 3, 3) < 0.5})
    assert current.chosen() == {}
    masks.replace({"0.weight": torch.rand(16, 8, 3, 3) < 0.08})
    assert set(current.chosen()) == {"0.weight"}


def test_a_load_that_was_not_measured_costs_as_much_as_the_nearest_above() -> None:
    one, _ = masked(0.1)
    costs = costs_of(one, dense=4, unstructured=(0.25, 2))
    key = sparse_key(one, "unstructured")
    for load, expected in ((0.2, 2), (0.02, 2), (0.9, 2)):
        cost = costs.in_band(key, load)
        assert cost == expected
    assert costs.in_band("another", 0.1) is None


@pytest.mark.parametrize("load", [1.0, 0.7, 0.5, 0.1, 0.01])
def test_loads_of_a_band_are_near_one_another(load: float) -> None:
    assert load_of(band_of(load)) == pytest.approx(load, rel=0.2)


def test_gains_are_told_of_layers_that_are_not_dense() -> None:
    one, masks = masked(0.1)
    choose = Fastest(
        backend(), {"0.weight": one}, costs_of(one, dense=4, unstructured=(0.1, 2)), channels_last=False, network=None
    )
    packed, active = masks.packed()["0.weight"], masks.active()["0.weight"]
    assert choose.gains({"0.weight": LayerMask(packed=packed, active=active, shape=one.shape)}) == {"0.weight": 2.0}


def test_costs_are_kept_for_later_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert len(read_cache()) == 0
    write_cache(Costs({"a": 1}))
    write_cache(Costs({"b": 2}))
    kept = read_cache()
    assert (kept.get("a"), kept.get("b")) == (1, 2)
    assert [path.name for path in cache_path().parent.iterdir()] == [cache_path().name]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b'{"a": -1}', b'{"a": "fast"}', b'{"a": {"seconds": 1}}'])
def test_a_damaged_cache_is_ignored_and_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_path().parent.mkdir(parents=True)
    cache_path().write_bytes(content)
    assert len(read_cache()) == 0
    write_cache(Costs({"a": 1}))
    assert len(read_cache()) == 1


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write_cache(Costs({"a": 1}))
    assert len(read_cache()) == 0


def test_layers_are_found_with_the_inputs_that_they_see() -> None:
    model = timm.create_model("test_resnet", num_classes=5)
    weights = {f"{name}.weight": each.weight.detach() for name, each in model.named_modules() if isinstance(each, nn.Conv2d)}
    masks = Masks(weights)
    seen: dict[str, torch.Size] = {}
    handles = [
        each.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({f"{name}.weight": inputs[0].shape}))
        for name, each in model.named_modules()
        if isinstance(each, nn.Conv2d)
    ]
    model(torch.rand(3, 3, 40, 40))
    for handle in handles:
        handle.remove()
    found = layers_of(model, masks, torch.Size([3, 3, 40, 40]))
    assert {name: each.input for name, each in found.items()} == seen
