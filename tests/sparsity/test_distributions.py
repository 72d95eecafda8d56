"""Densities per layer, against the reference files and by their properties."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from torch import Size

from dist_sparse.sparsity.distributions import allocate, erdos_renyi, highest_sparsity, table, uniform
from dist_sparse.sparsity.structures import Unstructured

SHAPES = {"conv": Size((16, 8, 3, 3)), "pointwise": Size((8, 8, 1, 1)), "linear": Size((10, 64))}

shape_lists = st.lists(
    st.lists(st.integers(1, 40), min_size=2, max_size=4).filter(lambda shape: len(shape) != 3), min_size=1, max_size=8
)


def named(shapes: list[list[int]]) -> dict[str, Size]:
    return {f"layer{number}": Size(shape) for number, shape in enumerate(shapes)}


def expected_active(shapes: dict[str, Size], densities: dict[str, float]) -> float:
    return sum(densities[name] * shape.numel() for name, shape in shapes.items())


def test_uniform() -> None:
    assert uniform(SHAPES, 0.3) == {"conv": 0.3, "pointwise": 0.3, "linear": 0.3}


def test_erk_of_small_nets(vectors) -> None:
    for case in vectors("erk_small")["cases"]:
        shapes = named(case["shapes"])
        densities = erdos_renyi(shapes, case["density"], power=case["power"])
        assert list(densities.values()) == pytest.approx(case["densities"], rel=1e-12)
        assert [number for number, density in enumerate(densities.values()) if density == 1.0] == case["dense"]
        assert expected_active(shapes, densities) == pytest.approx(case["expected_nnz"], rel=1e-12)


@pytest.mark.parametrize("density", ["0.5", "0.2", "0.1", "0.05", "0.035", "0.02", "0.01"])
@pytest.mark.parametrize("stem", ["sparse stem", "dense stem"])
def test_erk_of_resnet50(vectors, density: str, stem: str) -> None:
    reference = vectors("erk_resnet50")
    shapes = {layer["name"]: Size(layer["shape"]) for layer in reference["layers"]}
    record = reference["by_density"][density]
    if stem == "dense stem":
        del shapes["conv1.weight"]
        record = record["erk_conv1_dense"]
    densities = erdos_renyi(shapes, float(density))
    if stem == "sparse stem":
        assert densities == pytest.approx(record["density"], rel=1e-9)
    assert {name for name, value in densities.items() if value == 1.0} == set(record["dense_layers"])
    raw = {layer["name"]: layer["raw_erk"] for layer in reference["layers"]}
    for name, value in densities.items():
        assert value == 1.0 or value == pytest.approx(record["epsilon"] * raw[name], rel=1e-9)
    assert expected_active(shapes, densities) == pytest.approx(
        float(density) * sum(s.numel() for s in shapes.values()), rel=1e-12
    )


@given(shape_lists, st.floats(0.01, 1.0), st.sampled_from([0.5, 1.0, 2.0]), st.booleans())
def test_er_and_erk_share_out_exactly_the_total(shapes: list[list[int]], density: float, power: float, kernel: bool) -> None:
    layers = named(shapes)
    densities = erdos_renyi(layers, density, power=power, kernel=kernel)
    assert all(0 < value <= 1 for value in densities.values())
    assert expected_active(layers, densities) == pytest.approx(density * sum(s.numel() for s in layers.values()), rel=1e-9)


def test_er_ignores_the_kernel() -> None:
    shapes = {"wide": Size((100, 100, 7, 7)), "narrow": Size((50, 50, 3, 3))}
    densities = erdos_renyi(shapes, 0.1, kernel=False)
    assert densities["narrow"] / densities["wide"] == pytest.approx((100 / 2500) / (200 / 10_000))


@pytest.mark.parametrize("kernel", [True, False])
def test_density_one_is_dense(kernel: bool) -> None:
    densities = erdos_renyi(SHAPES, 1.0, kernel=kernel)
    assert allocate(SHAPES, densities, Unstructured()) == {name: shape.numel() for name, shape in SHAPES.items()}


def test_layers_that_tie_become_dense_together() -> None:
    shapes = {"big": Size((512, 512)), "a": Size((4, 4)), "b": Size((4, 4))}
    densities = erdos_renyi(shapes, 0.05)
    assert densities["a"] == densities["b"] == 1.0 > densities["big"]


def test_table_takes_the_first_pattern_that_fits() -> None:
    assert table(SHAPES, {"conv": 0.5, "*n*": 0.25, "*": 0.1}) == {"conv": 0.5, "pointwise": 0.25, "linear": 0.25}


def test_table_names_the_layer_without_a_pattern() -> None:
    with pytest.raises(ValueError, match="no pattern fits layer 'linear'"):
        table(SHAPES, {"conv": 0.5, "point*": 0.2, "LINEAR": 0.1})


def test_table_names_the_pattern_without_a_layer() -> None:
    with pytest.raises(ValueError, match=r"'convv' fits no sparse layer; they are conv, pointwise, linear$"):
        table(SHAPES, {"convv": 0.5, "*": 0.1})


def test_allocate_rounds_to_the_nearest_unit() -> None:
    shapes = {"a": Size((10, 10)), "b": Size((7, 1))}
    assert allocate(shapes, {"a": 0.29, "b": 0.5 + 1e-9}, Unstructured()) == {"a": 29, "b": 4}
    assert allocate(shapes, {"a": 0.2949, "b": 0.08}, Unstructured()) == {"a": 29, "b": 1}


def test_allocate_refuses_an_empty_layer() -> None:
    with pytest.raises(ValueError, match=r"layer 'b' would keep 0 of its 7 units at density 0\.07$"):
        allocate({"a": Size((100, 100)), "b": Size((7, 1))}, {"a": 0.07, "b": 0.07}, Unstructured())


@pytest.mark.parametrize("distribute", [lambda d: uniform(SHAPES, d), lambda d: erdos_renyi(SHAPES, d)], ids=["uniform", "erk"])
def test_highest_sparsity_is_right_at_the_edge(distribute) -> None:
    shapes = SHAPES | {"tiny": Size((10, 3))}

    def distribution(density: float) -> dict[str, float]:
        return {**distribute(density), "tiny": density}

    highest = highest_sparsity(shapes, distribution, Unstructured())
    assert allocate(shapes, distribution(1 - highest), Unstructured())
    with pytest.raises(ValueError, match="would keep 0"):
        allocate(shapes, distribution(1 - highest - 1e-4), Unstructured())
