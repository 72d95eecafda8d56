"""``sparsity.init=checkpoint``: a run begins with the masks of the file whose weights it starts from."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_sparse.build import build_parts, resolved
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.config import load_config
from dist_sparse.distributed import Ranks
from dist_sparse.effects import idle_keys
from dist_sparse.errors import UserError
from dist_sparse.export import __main__ as export
from dist_sparse.networks import networks_of
from dist_sparse.sparsity import bits
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.build import begin
from dist_sparse.sparsity.methods.plan import Plan
from tests.command import here, metrics, train_here
from tests.values import LOGGED, SMALL_RESNET

SMALL: dict[str, Any] = {
    **LOGGED,
    **SMALL_RESNET,
    "data.limit": 256,
    "train.epochs": 2,
    "train.batch_size": 64,
    "scheduler.name": "constant",
}
"""8 steps."""
FIRST = {**SMALL, "sparsity.method": "rigl", "sparsity.density": 0.3, "sparsity.update.interval": "2 steps"}
TAKERS = sorted(name for name, method in METHODS.items() if "checkpoint" in method.inits)
LOWER = {"sparsity.density": 0.1, "sparsity.update.interval": "2 steps"}
"""For methods whose density falls, or is shared out anew, in the run."""
ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with moved masks."""
    folder = tmp_path_factory.mktemp("first") / "run"
    outcome = train_here({**FIRST, "output": folder})
    assert outcome.code == 0, outcome.err
    return folder


def masks_of(folder: Path, checkpoint: str = "best") -> dict[str, Tensor]:
    (network,) = networks_of(CheckpointStore.load(folder / "checkpoints" / f"{checkpoint}.pt"))
    return {name: bits.unpack(packed, network.weights[name].shape) for name, packed in network.masks.items()}


def values_for(method: str, **values: Any) -> dict[str, Any]:
    falls = {} if METHODS[method].keeps_density else LOWER
    ramp = {"sparsity.ramp.initial_density": 0.5} if method.startswith("granet") else {}
    return {**SMALL, "sparsity.method": method, "sparsity.init": "checkpoint", **falls, **ramp, **values}


def planned(values: Mapping[str, Any]) -> Plan:
    given = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    return build_parts(resolved(load_config(None, given)), ALONE).plan


def first_masks(values: Mapping[str, Any]) -> dict[str, Tensor]:
    masks = begin(planned(values)).masks
    return {name: masks[name].clone() for name in masks.names}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("method", TAKERS)
def test_every_method_that_takes_masks_begins_with_them(method: str, first: Path) -> None:
    values, expected = values_for(method, **{"model.checkpoint": first}), masks_of(first)
    assert_same(first_masks(values), expected)
    plan = planned(values)
    assert plan.active == {name: int(mask.sum()) for name, mask in expected.items()}
    random = {**values, "sparsity.init": "random", "sparsity.density": 0.1}
    drawn = first_masks(random)
    assert any(not torch.equal(drawn[name], expected[name]) for name in expected)


@pytest.mark.parametrize("form", ["sparse", "timm", "safetensors"])
def test_masks_of_an_exported_file_are_its_bits_or_its_zeros(form: str, first: Path, tmp_path: Path) -> None:
    assert here(export.main, [str(first), f"--format={form}", f"--output={tmp_path}"]).code == 0
    (file,) = (path for path in tmp_path.iterdir() if path.suffix in (".pt", ".safetensors"))
    found, expected = first_masks(values_for("rigl", **{"model.checkpoint": file})), masks_of(first)
    if form != "sparse":  # what grew last may be 0 still
        state = CheckpointStore.load(first / "checkpoints" / "best.pt")["state_dict"]
        expected = {name: mask & (state[name] != 0) for name, mask in expected.items()}
    assert_same(found, expected)


def test_layers_that_are_dense_on_either_side(first: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = values_for("static", **{"model.checkpoint": first, "sparsity.keep_dense": ["first"]})
    with caplog.at_level(logging.WARNING):
        found = first_masks(values)
    expected = masks_of(first)
    assert not expected.pop("conv1.weight").all()
    assert_same(found, expected)
    assert caplog.messages == [
        f"model.checkpoint={first / 'checkpoints' / 'best.pt'}: masks of layers that have none here are left out: conv1.weight"
    ]


def test_a_layer_without_a_mask_in_the_file_is_all_active(first: Path, tmp_path: Path) -> None:
    state = CheckpointStore.load(first / "checkpoints" / "best.pt")["state_dict"]
    torch.save({**state, "fc.weight": torch.ones_like(state["fc.weight"])}, tmp_path / "net.pth")
    assert first_masks(values_for("set", **{"model.checkpoint": tmp_path / "net.pth"}))["fc.weight"].all()


def test_the_first_run_s_average_has_its_masks(tmp_path: Path) -> None:
    assert train_here({**FIRST, "output": tmp_path / "run", "train.ema": 0.5}).code == 0
    assert_same(first_masks(values_for("static", **{"model.checkpoint": tmp_path / "run"})), masks_of(tmp_path / "run"))


def test_a_structure_s_masks_are_taken_and_others_are_not(first: Path, tmp_path: Path) -> None:
    structured = {"sparsity.structure": "block:4x1", "sparsity.keep_dense": ["first", "last"]}
    assert train_here({**FIRST, **structured, "output": tmp_path / "blocks"}).code == 0
    values = values_for("rigl", **structured, **{"model.checkpoint": tmp_path / "blocks"})
    assert_same(first_masks(values), masks_of(tmp_path / "blocks"))
    with pytest.raises(UserError, match=r"init=checkpoint: the mask of \S+ is not one of structure block:4x1: it keeps parts"):
        planned({**values, "model.checkpoint": first})
    with pytest.raises(UserError, match=r"structure fan_in: where units compete with one another it keeps from \d+ to \d+"):
        planned({**values, "model.checkpoint": first, "sparsity.structure": "fan_in"})


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"model.checkpoint": None}, "sparsity.init=checkpoint needs model.checkpoint: the folder of a run, or a file"),
    "another density": (
        {"sparsity.density": 0.2},
        "sparsity.density=0.2 contradicts sparsity.init=checkpoint, whose masks have density 0.",
    ),
    "a table": (
        {"sparsity.distribution": "table", "sparsity.table": {"*": 0.3}},
        "sparsity.distribution=table does not go with sparsity.init=checkpoint",
    ),
    "a method with masks of its own": (
        {"sparsity.method": "top_kast", "sparsity.density": 0.3},
        "sparsity.init=checkpoint does not go with sparsity.method=top_kast, but with static, ",
    ),
    "a density that would have to rise": (
        {"sparsity.method": "gmp", "sparsity.density": 0.5, "sparsity.update.interval": "2 steps"},
        "which sparsity.init=checkpoint begins with, is below sparsity.density=0.5: pruning only comes down",
    ),
    "no density to come down to": ({"sparsity.method": "gmp"}, "sparsity.density is needed for method gmp: "),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_is_one_line(kind: str, first: Path) -> None:
    values, line = WRONG[kind]
    with pytest.raises(UserError) as caught:
        planned({**values_for("rigl", **{"model.checkpoint": first}), **values})
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_dense_network_has_no_masks(tmp_path: Path, first: Path) -> None:
    state = CheckpointStore.load(first / "checkpoints" / "best.pt")["state_dict"]
    torch.save({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "dense.pth")
    with pytest.raises(UserError, match=r"dense\.pth has no masks, or zeros, in the layers that get masks here"):
        planned(values_for("static", **{"model.checkpoint": tmp_path / "dense.pth"}))


def test_a_masked_classifier_of_another_size(first: Path, tmp_path: Path) -> None:
    state = CheckpointStore.load(first / "checkpoints" / "best.pt")["state_dict"]
    torch.save({**state, "fc.weight": state["fc.weight"][:3], "fc.bias": state["fc.bias"][:3]}, tmp_path / "three.pth")
    values = values_for("static", **{"model.checkpoint": tmp_path / "three.pth"})
    with pytest.raises(
        UserError, match=r"the mask of fc\.weight in \S+ is 3x8, and the layer 10x8: with the name in sparsity\."
    ):
        planned(values)
    assert "fc.weight" not in planned({**values, "sparsity.keep_dense": ["last"]}).active


def test_a_density_of_its_own_is_checked_with_room_for_rounding(first: Path) -> None:
    planned(values_for("rigl", **{"model.checkpoint": first, "sparsity.density": 0.3}))


def test_keys_that_do_nothing_then() -> None:
    keys = {"distribution": "uniform", "er_power": 2.0}
    granet = {f"sparsity.{key}": value for key, value in {**keys, "ramp.initial_density": 0.5}.items()}
    found = idle_keys(load_config(None, {**values_for("granet"), **granet}), 1)
    assert set(granet) <= set(found)
    assert found["sparsity.distribution"] == "the first masks are those of model.checkpoint"
    mest = idle_keys(load_config(None, {**values_for("mest"), "sparsity.distribution": "uniform"}), 1)
    assert "sparsity.distribution" not in mest


@pytest.mark.parametrize("method", ["granet", "rigl"])
def test_a_run_that_goes_on_needs_the_file_no_more(method: str, first: Path, tmp_path: Path) -> None:
    """The ramp begins at the density of the masks that the run had at its start."""
    file = tmp_path / "net.pt"
    file.write_bytes((first / "checkpoints" / "best.pt").read_bytes())
    values = values_for(method, **{"model.checkpoint": file, "sparsity.update.interval": "2 steps", "train.epochs": 3})
    values |= {"sparsity.ramp.end": "75%"} if method == "granet" else {}  # still on its way where the run is interrupted
    assert train_here({**values, "output": tmp_path / "whole"}).code == 0
    assert train_here({**values, "output": tmp_path / "parts"}, interrupt_after=5).code == 130
    file.unlink()
    outcome = train_here({**values, "output": tmp_path / "parts", "resume": "auto"})
    assert outcome.code == 0, outcome.err
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert len({row["sparsity/mask_digest"] for row in metrics(tmp_path / "whole")}) > 1


def test_a_run_that_began_otherwise_does_not_go_on_with_masks_of_a_file(first: Path, tmp_path: Path) -> None:
    values = values_for("rigl", **{"model.checkpoint": first, "resume": first / "checkpoints" / "best.pt"})
    (line,) = train_here({**values, "output": tmp_path / "run"}).errors
    assert line.startswith("the run to go on with did not begin with sparsity.init=checkpoint and masks of these layers: leave")


def test_the_plan_knows_the_densities(first: Path) -> None:
    outcome = train_here({**values_for("granet", **{"model.checkpoint": first})} | {"plan": 1})
    assert outcome.code == 0, outcome.err
    masks = torch.cat([mask.flatten() for mask in masks_of(first).values()])
    assert f"{masks.float().mean():.4f} at most" in outcome.out


@pytest.mark.parametrize("method", ["set", "rigl", "snfs", "granet"])
def test_methods_that_begin_sparse_begin_with_the_largest_weights_if_asked(method: str, first: Path) -> None:
    values = values_for(method, **{"model.checkpoint": first, "sparsity.init": "magnitude", "sparsity.density": 0.1})
    state = CheckpointStore.load(first / "checkpoints" / "best.pt")["state_dict"]
    for name, mask in first_masks(values).items():
        assert state[name][mask].abs().min() >= state[name][~mask].abs().max() if not mask.all() else True, name


@pytest.mark.parametrize(("values", "told"), [({}, 1), ({"sparsity.init": "magnitude"}, 0), ({"sparsity.method": "gmp"}, 0)])
def test_random_masks_on_trained_weights_are_told(
    values: dict[str, Any], told: int, first: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        planned({**FIRST, "model.checkpoint": first, **values})
    assert sum("random masks zero trained weights" in line for line in caplog.messages) == told
