"""The table of engines: what is refused beside it, what every engine states, and that nothing goes by an engine's name."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dist_sparse
from dist_sparse.config import Config, with_values
from dist_sparse.config.engine import EngineConfig
from dist_sparse.config.tree import leaves
from dist_sparse.engines import ENGINES, NARROWING_ENGINES, PACKING_ENGINES
from dist_sparse.engines.base import Engine
from dist_sparse.engines.build import capabilities_of, resolve_engine
from dist_sparse.engines.capabilities import Capabilities
from dist_sparse.errors import UserError
from dist_sparse.sparsity.access import WeightAccess

PACKAGE = Path(dist_sparse.__file__).parent


def test_an_engine_that_is_not_in_the_table_is_refused_with_what_is() -> None:
    with pytest.raises(UserError) as refused:
        resolve_engine(EngineConfig(name="deepsped"))
    assert str(refused.value) == "engine.name='deepsped' is unknown; did you mean deepspeed? known: ddp, deepspeed"


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_leaves_something_out_cannot_be_built(name: str) -> None:
    """An explicit subclass of a protocol inherits the bodies of methods that are not abstract, which return None."""
    assert not inspect.isabstract(ENGINES[name])
    asked = {method for method in vars(WeightAccess) if not method.startswith("_")}
    assert len(asked) >= 10
    assert all(getattr(vars(WeightAccess)[method], "__isabstractmethod__", False) for method in asked)
    assert Engine.__abstractmethods__ >= asked - {"batch_norms", "held_weight", "kept_grad", "values"}


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_states_what_it_can_do_before_its_section_is_resolved_too(name: str) -> None:
    section = with_values(Config(), {"engine.name": name}).engine
    assert capabilities_of(section) == capabilities_of(resolve_engine(section))
    assert capabilities_of(section).cause in (f"engine.name={name}", *(f"{key}={value}" for key, value in keys_of(section)))


def keys_of(section: EngineConfig) -> Iterator[tuple[str, Any]]:
    for key in ENGINES[section.name].keys:
        value: Any = resolve_engine(section)
        for part in key.split(".")[1:]:
            value = getattr(value, part)
        yield key, value


def test_keys_that_act_with_one_engine_only_are_the_schemas() -> None:
    named = {key for kind in ENGINES.values() for key in kind.keys}
    assert named and named <= leaves().keys()


def test_ddp_is_the_one_that_keeps_everything_whole() -> None:
    """Which messages offer instead of what an engine refuses."""
    expected = Capabilities(cause="engine.name=ddp", packs_gradients=True, packs_weights=True, loses_units=True)
    assert capabilities_of(EngineConfig()) == expected
    assert all("engine.name=ddp" in kind.capabilities(EngineConfig()).otherwise for kind in ENGINES.values())


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_states_that_it_packs_weights_or_loses_units_has_a_class_that_does(name: str) -> None:
    states = capabilities_of(with_values(Config(), {"engine.name": name}).engine)
    assert (name in PACKING_ENGINES, name in NARROWING_ENGINES) == (states.packs_weights, states.loses_units)


@pytest.mark.parametrize(
    ("stage", "sharded"),
    [(0, set()), (1, {"optimizer"}), (2, {"optimizer", "gradients"}), (3, {"optimizer", "gradients", "weights"})],
)
def test_what_each_stage_of_zero_can_do(stage: int, sharded: set[str]) -> None:
    section = with_values(Config(), {"engine.name": "deepspeed", "engine.zero.stage": stage}).engine
    engine = capabilities_of(resolve_engine(section))
    assert engine.sharded == sharded
    assert engine.copies_weights == engine.steps_pieces == engine.counts_steps_once == engine.fixed_world == (stage > 0)
    assert (engine.flattens_weights, engine.packs_gradients, engine.offloads) == (True, False, False)


def test_keys_of_another_engine_are_refused_by_name() -> None:
    with pytest.raises(UserError) as caught:
        resolve_engine(with_values(Config(), {"engine.zero.offload": "cpu"}).engine)
    assert str(caught.value) == "engine.zero.offload: acts with engine.name=deepspeed only, and engine.name is ddp"


def test_outside_of_its_folder_no_code_goes_by_an_engines_name_or_a_stage_of_zero() -> None:
    """Comparing with a name, or reading a stage: what an engine can do is asked of its :class:`Capabilities`."""
    asking = [
        (str(path.relative_to(PACKAGE)), ast.unparse(node))
        for path in sorted(PACKAGE.rglob("*.py"))
        # The last two look at packages and start launchers, without a run.
        if path.relative_to(PACKAGE).parts[0] not in ("engines", "config", "doctor", "launch.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Constant) and node.value in ENGINES)
        or (isinstance(node, ast.Attribute) and node.attr in ("zero", "deepspeed_config"))
    ]
    assert asking == [("tracking/provenance.py", "'deepspeed'")], "which lists the packages whose versions it writes down"
