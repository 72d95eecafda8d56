"""Which structure goes with which method: the table holds what it says, and what cannot go together is one clear line."""

import dataclasses
import logging
from typing import ClassVar

import pytest
import torch
from torch import Size, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import AstConfig, MestConfig, RampConfig, ShuffledBlockConfig, SparsityConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.build import plan_method
from dist_sparse.sparsity.methods.combinations import table
from dist_sparse.sparsity.methods.context import RunFacts
from dist_sparse.sparsity.methods.drop_grow.method import DropAndGrow
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.sparsity.structures import STRUCTURES, Structure, parse_structure
from tests.idle import idle

SHARED = ("gmp", "granet", "snfs", "ast", "acdc")
EXAMPLES = [cls.example for cls in STRUCTURES.values()]
STRUCTURED = [name for name, cls in METHODS.items() if "structure" in cls.uses]
RUN = RunFacts(seed=0, steps_per_epoch=100, total_steps=1000, rank=0, world_size=1, device=torch.device("cpu"))


def config(structure: str, method: str = "static", **keys) -> SparsityConfig:
    return SparsityConfig(method=method, structure=structure, **keys)


def model() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 4))


LINEAR = ["5.weight", "7.weight"]


def ramp(cutter: Structure) -> RampConfig:
    """Over after two steps, from the densest that the structure can be."""
    return RampConfig(
        start=Length(0, "steps"),
        end=Length(2, "steps"),
        initial_density=float(cutter.capacity) if cutter.capacity < 1 else None,
    )


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("structure", EXAMPLES)
@pytest.mark.parametrize(
    ("method", "form"),
    [
        (name, form)
        for name in STRUCTURED
        for form in (("original", "itop") if issubclass(METHODS[name], DropAndGrow) else ("",))
    ],
)
def test_what_the_table_allows_trains(small_run, structure: str, method: str, form: str) -> None:
    """Every selection set keeps its units through all updates, the masks move, and nothing but whole units is kept.

    What is pruned has its units when the ramp is over, after two steps. Where layers share the total, only that is known.
    """
    cutter = parse_structure(structure)
    update = {"update": UpdateConfig(form=form, interval=Length(1, "steps"), drop_fraction=0.5)} if form else {}
    pruned = "ramp.end" in METHODS[method].uses
    if pruned:
        update = {"update": UpdateConfig(interval=Length(1, "steps")), "ramp": ramp(cutter)}
    density = cutter.density or 0.5 * float(cutter.capacity)
    if method == "mest":
        bounds = MestConfig(keep=[density / 2], grow_to=[density], decay=[])
        update = {"update": UpdateConfig(interval=Length(1, "steps")), "mest": bounds}
    if method == "shuffled_block":
        update["shuffled_block"] = ShuffledBlockConfig(size=2)
    if METHODS[method].condition(cutter):
        assert METHODS[method].condition(cutter) == "with `update.redistribution: none`"
        update["update"] = dataclasses.replace(update["update"], redistribution="none")
    keep_dense = LINEAR if cutter.misfit(Size((12, 32))) else []
    if method == "ast":
        update["ast"] = AstConfig(structures=[structure]) if cutter.density else AstConfig(densities=[0.5])
    settings = config(structure, method, density=density, distribution="uniform", keep_dense=keep_dense, **update)
    if METHODS[method].refusal(cutter):
        with pytest.raises(UserError):
            resolve(settings)
        return
    network = model()
    run = small_run(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), settings)
    masks = run.method.masks
    first = masks.digest()
    for step in range(4):
        images = torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(step))
        run.step(images, torch.arange(8) % 4)
        for name in masks.names:
            sets, units, _ = cutter.counts(masks[name].shape)
            active = cutter.active(masks[name])
            if method not in SHARED and (not pruned or step >= 2):
                assert active.sum(1).tolist() == [units // 2] * sets, name
            assert torch.equal(cutter.mask(active, masks[name].shape, before=masks[name]), masks[name])
            assert int(masks[name].sum()) == int(active.sum()) * cutter.counts(masks[name].shape)[2]
            with run.method.networks()[-1].applied():
                assert not network.get_parameter(name)[~masks[name]].count_nonzero()
    assert (masks.digest() != first) == (bool(update) or method == "srste")
    assert 0.4 < masks.density() / cutter.capacity <= 0.5 + 1e-9


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("form", ["original", "itop"])
def test_a_small_fraction_moves_some_of_many_small_sets(small_run, form: str) -> None:
    """A tenth of the pairs that 2:4 keeps: row by row it would round to none of them, or to one in each."""
    network = nn.Linear(64, 32)
    update = UpdateConfig(form=form, interval=Length(1, "steps"), drop_fraction=0.1, drop_schedule="constant")
    run = small_run(network, torch.optim.SGD(network.parameters(), lr=0.1), config("nm:2:4", "set", update=update))
    before = run.method.masks["weight"]
    run.step(torch.randn(8, 64), torch.arange(8))
    after = run.method.masks["weight"]
    most = round(0.1 * 32 * 32) + 1
    assert most / 3 < int((before & ~after).sum()) <= most


def test_n_of_m_settles_density_and_distribution() -> None:
    settled = resolve(config("nm:1:4"))
    assert (settled.density, settled.distribution) == (0.25, "uniform")
    assert resolve(settled) == settled
    assert resolve(config("nm:1:3", density=0.333)).density == 1 / 3
    shapes = {"a": torch.ones(6, 8), "b": torch.ones(4, 4, 3, 3)}
    assert plan_method(settled, shapes, RUN).context.units() == {"a": 1, "b": 1}


def test_other_structures_have_the_usual_distribution() -> None:
    assert resolve(config("filter", density=0.5)).distribution == "erk"
    assert resolve(config("filter", density=0.5, distribution="uniform")).distribution == "uniform"


def test_a_structure_without_masks_is_no_matter() -> None:
    assert resolve(config("nm:2:4", "dense")).density is None
    assert idle(sparsity=config("nm:2:4", "dense")) == {"sparsity.structure": "method dense does not use it"}


def refusal(settings: SparsityConfig, **shapes: tuple[int, ...]) -> str:
    with pytest.raises(UserError) as caught:
        plan_method(resolve(settings), {name: torch.ones(shape) for name, shape in shapes.items()}, RUN)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config("blok"), "sparsity.structure='blok' is unknown; did you mean block? known: "),
        (config("nm:4:2"), "sparsity.structure='nm:4:2': N and M are whole numbers, N at least 1 and M more than N; it is"),
        (
            config("nm:2:4", density=0.1),
            "sparsity.density=0.1 contradicts sparsity.structure=nm:2:4, which is density 0.5: leave sparsity.density out",
        ),
        (
            config("nm:2:4", distribution="erk"),
            "sparsity.structure=nm:2:4 cannot go with sparsity.distribution=erk: it gives every layer density 0.5; ",
        ),
        (config("nm:2:4", distribution="table", table={"*": 0.5}), "sparsity.structure=nm:2:4 cannot go with"),
        (config("nm:2:4", table={"*": 0.5}), "sparsity.table needs sparsity.distribution=table, not uniform"),
        (config("filter"), "sparsity.density is needed for method static"),
        (config("fan_in", "granet", density=0.1), "sparsity.structure=fan_in cannot go with sparsity.method=granet: it"),
        (
            config("filter", "snfs", density=0.5),
            "sparsity.update.redistribution=momentum moves single weights between layers, which structure filter does not",
        ),
        (config("pattern", "gmp_uniform", density=0.1), "sparsity.structure=pattern cannot go with sparsity.method=gmp"),
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_is_one_line(settings: SparsityConfig, message: str) -> None:
    assert refusal(settings, a=(8, 8)).startswith(message)


def test_layers_that_do_not_fit_are_named_with_the_key_that_leaves_them_out() -> None:
    shapes = {"stem": (64, 3, 7, 7), "mid": (64, 64, 3, 3), "head": (10, 63)}
    message = refusal(config("nm:2:4", keep_dense=["last"]), **shapes)
    assert message == (
        "sparsity.structure=nm:2:4 does not fit every layer (stem: 3 input channels do not divide by 4; head: 63 input "
        "channels do not divide by 4); sparsity.keep_dense=[last, stem, head] leaves these dense"
    )
    assert refusal(config("block:5x1", density=0.5), stem=(64, 3, 7, 7)) == (
        "sparsity.structure=block:5x1 fits none of the sparse layers; stem, for one: 64 output filters do not divide by 5"
    )
    many = {f"layer{number}": (8, 3) for number in range(9)}
    assert "; and 6 more); sparsity.keep_dense=[layer0, " in refusal(config("nm:2:4"), fits=(8, 8), **many)


def test_a_layer_too_small_for_a_unit_is_refused_with_what_can_be_had() -> None:
    message = refusal(config("filter", density=0.1, distribution="uniform"), a=(4, 8), b=(64, 8))
    assert "layer 'a' would keep 0 of its 4 units at density 0.1; the highest sparsity" in message
    assert "(density 0.1250)" in message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"density": 0.5, "distribution": "uniform"},
            "sparsity.density=0.5 cannot be reached: layer 'a' would have density 0.5, ",
        ),
        ({"density": 0.3}, "sparsity.density=0.3 cannot be reached: layer 'a' would have density 1, "),
        ({"density": 0.5}, "sparsity.density=0.5 cannot be reached: layer 'a' would have density 1, "),
        ({"distribution": "table", "table": {"*": 0.45}}, "sparsity.table: layer 'a' would have density 0.45, "),
        (
            {"density": 0.3, "distribution": "uniform", "method": "granet_uniform"},
            "sparsity.ramp.initial_density=1 cannot be reached: layer 'a' would have density 1, ",
        ),
        (
            {"density": 0.3, "distribution": "uniform", "method": "mest", "mest": MestConfig(keep=[0.3], grow_to=[0.5])},
            "sparsity.mest.grow_to=0.5 cannot be reached: layer 'a' would have density 0.5, ",
        ),
    ],
    ids=["density", "erk", "above all", "table", "ramp", "bound"],
)
def test_more_than_a_pattern_can_hold_is_one_line(keys: dict, message: str) -> None:
    shapes = {"a": (16, 16, 3, 3), "b": (64, 64, 3, 3)}
    line = refusal(config("pattern", **{"method": "static", **keys}), **shapes)
    capacity = "and structure pattern holds 4/9 of the weights at most"
    erk = "; sparsity.distribution=uniform gives all layers the same" if keys == {"density": 0.3} else ""
    assert line == message + capacity + erk


def test_layers_without_kernels_are_left_dense_by_a_key() -> None:
    shapes = {"stem": (64, 3, 7, 7), "mid": (64, 64, 3, 3), "down": (64, 64, 1, 1), "head": (10, 64)}
    message = refusal(config("pattern", density=0.1, distribution="uniform"), **shapes)
    assert message.endswith("it has no 3x3 kernels); sparsity.keep_dense=[stem, down, head] leaves these dense")


def test_coarse_units_are_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    keys = {"density": 0.3, "distribution": "uniform"}
    with caplog.at_level(logging.WARNING):
        plan_method(resolve(config("fan_in", **keys)), {"a": torch.ones(4, 100)}, RUN)
        assert not caplog.records
        plan_method(resolve(config("filter", **keys)), {"a": torch.ones(4, 100)}, RUN)
    assert "whole units of structure filter make the density 0.2500 instead of 0.3000" in caplog.text


class OnlyWeights(Method):
    """A method that cannot do everything."""

    name = "only_weights"
    REASON: ClassVar[str] = "it moves single weights"

    @classmethod
    def refusal(cls, structure: Structure) -> str | None:
        return None if structure.counts(Size((8, 8, 3, 3)))[2] == 1 else cls.REASON


def test_a_method_refuses_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "only_weights", OnlyWeights)
    assert refusal(config("filter", "only_weights", density=0.5), a=(8, 8)) == (
        "sparsity.structure=filter cannot go with sparsity.method=only_weights: it moves single weights"
    )
    assert resolve(config("nm:2:4", "only_weights")).density == 0.5
    header, _, *rows = table().splitlines()
    cells = {row.split(" | ")[0]: row.split(" | ")[-1] for row in rows if row.startswith("|")}
    assert header.endswith("| `only_weights` |")
    (number,) = [row.split()[0] for row in rows if row.endswith(") it moves single weights")]
    assert cells["| `filter`"] == f"no {number} |" and cells["| `nm:2:4`"] == "yes |"


def test_the_table_has_every_structure_and_every_method_that_has_masks() -> None:
    header, rule, *lines = table().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    names = [cell.strip(" `") for cell in header.strip("|").split("|")]
    assert names[3:] == STRUCTURED and "dense" not in names
    assert rule.count("---") == len(names)
    assert [row.split("`")[1] for row in rows] == EXAMPLES
    assert all(row.count("|") == len(names) + 1 for row in rows)
