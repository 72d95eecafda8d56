"""What a configuration and a device allow of sparse execution."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse import evaluate
from dist_sparse.build import resolved
from dist_sparse.config import Config, load_config, with_values
from dist_sparse.config.execution import Compute, ExecutionConfig
from dist_sparse.errors import UserError
from dist_sparse.executing import check_storage, impossible
from dist_sparse.plan.outlook import look_ahead
from dist_sparse.plasticity import __main__ as plasticity
from dist_sparse.trainer import Moment, Trainer
from tests.command import ROOT, here, train_here
from tests.forecast_bytes import assert_forecast
from tests.values import QUIET, SMALL_RESNET, TINY_VIT

NOT_MEASURED = "nothing is measured on CUDA yet; execution.compute=sparse takes what there is for it"


@pytest.mark.parametrize(
    ("compute", "device", "reason"),
    [("auto", "cpu", ""), ("sparse", "cpu", ""), ("auto", "cuda", NOT_MEASURED), ("sparse", "cuda", ""), ("auto", None, "")],
)
def test_on_cuda_it_has_to_be_asked_for(compute: Compute, device: str | None, reason: str) -> None:
    config = load_config(str(ROOT / "configs" / "digits" / "set.yaml"))
    config = dataclasses.replace(config, execution=ExecutionConfig(compute=compute))
    assert impossible(config, None if device is None else torch.device(device)) == reason


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"sparsity.method": "ast", "sparsity.density": None, "sparsity.ast.densities": [0.5, 0.3]},
            "cannot go with sparsity.method=ast, which trains inactive weights too",
        ),
        (
            {"sparsity.method": "srste", "sparsity.structure": "nm:2:4", "sparsity.density": None},
            "cannot go with sparsity.method=srste",
        ),
        ({"sparsity.method": "top_kast"}, "cannot go with sparsity.method=top_kast"),
        (
            {"engine.name": "deepspeed", "engine.zero.stage": 3},
            (
                "cannot go with engine.zero.stage=3, which cuts each weight into parts that ranks gather; engine.name=ddp or "
                "engine.zero.stage=0 can"
            ),
        ),
        ({"train.compile": True}, "cannot go with train.compile=true"),
        ({"train.precision": "fp16"}, "cannot go with train.precision=fp16"),
        ({"optim.name": "muon"}, "optim.name=muon: does not step every weight by itself, as execution.storage=packed needs"),
        ({"optim.lookahead": True}, "execution.storage=masked takes it"),
    ],
)
def test_packed_weights_are_refused_where_they_cannot_be(values: dict[str, Any], reason: str) -> None:
    given = {"sparsity.method": "rigl", "sparsity.density": 0.1, "execution.storage": "packed", **values}
    with pytest.raises(UserError) as refused:
        check_storage(resolved(with_values(Config(), given)))
    assert reason in str(refused.value) and "execution.storage=masked takes it" in str(refused.value)
    assert "\n" not in str(refused.value)


SETTLED: dict[str, Any] = {"sparsity.mest.keep": [0.3], "sparsity.mest.grow_to": [0.3], "sparsity.mest.decay": []}
MOVED: dict[str, Any] = {**SETTLED, "sparsity.mest.keep": [0.2]}
CHANGING: dict[str, tuple[dict[str, Any], bool]] = {
    "static": ({}, False),
    "static by SNIP": ({"sparsity.method": "static", "sparsity.init": "snip"}, True),
    "set": ({}, False),
    "rigl": ({}, False),
    "rigl that redistributes": ({"sparsity.method": "rigl", "sparsity.update.redistribution": "momentum"}, True),
    "snfs": ({}, True),
    "snfs without redistribution": ({"sparsity.method": "snfs", "sparsity.update.redistribution": "none"}, False),
    "mest": ({**MOVED}, True),
    "mest that rests": ({**SETTLED, "sparsity.method": "mest"}, False),
    "shuffled_block": ({}, False),
    **dict.fromkeys(
        ("granet", "granet_uniform", "gmp", "gmp_uniform", "acdc"), ({"sparsity.update.interval": "2 steps"}, True)
    ),
}
"""Whether the number of a layer's active weights changes, within an update too."""


@pytest.mark.parametrize("name", CHANGING)
def test_numbers_that_change_are_refused_where_parameters_keep_their_sizes(name: str) -> None:
    keys, changes = CHANGING[name]
    values = {"sparsity.method": name, "sparsity.density": 0.3, "train.epochs": 2, **keys}
    values |= {"engine.name": "deepspeed", "engine.zero.stage": 2, "execution.storage": "packed"}
    if not changes:
        look_ahead(with_values(Config(), values), 2)
        return
    with pytest.raises(UserError) as refused:
        look_ahead(with_values(Config(), values), 2)
    assert str(refused.value) == (
        "execution.storage=packed cannot go with engine.zero.stage=2, whose parameters keep their sizes, where "
        f"sparsity.method={values['sparsity.method']} changes how many weights of a layer are active; engine.name=ddp or "
        "execution.storage=masked takes it"
    )
    look_ahead(with_values(Config(), {**values, "engine.name": "ddp", "engine.zero.stage": None}), 2)


@pytest.mark.parametrize("storage", ["masked", "packed"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_plan_foresees_the_bytes_of_the_state(tmp_path: Path, storage: str, optimizer: str) -> None:
    values = {
        **QUIET,
        "output": str(tmp_path),
        "train.epochs": 1,
        "optim.name": optimizer,
        "sparsity.method": "rigl",
        "sparsity.density": 0.1,
        "execution.compute": "dense",
        "execution.storage": storage,
    }
    assert train_here(values).code == 0
    assert_forecast(json.loads((tmp_path / "summary.json").read_text())["state_bytes"], values)


@pytest.mark.parametrize(
    "method", [{"sparsity.method": "rigl"}, {"sparsity.method": "granet", "sparsity.ramp.initial_density": 0.3}], ids=str
)
def test_of_whole_gradients_packed_runs_keep_what_may_grow(tmp_path: Path, method: dict[str, Any]) -> None:
    """On the steps that update, and nothing of all weights on any other."""
    held: list[dict[str, int]] = []
    most: list[dict[str, int]] = []

    def look(moment: Moment, trainer: Trainer) -> None:
        if moment is Moment.GRADIENTS_READY:
            of_all = {name: each.numel() for name, each in trainer.engine.held("gradients") if "of all weights" in name}
            held.append({name.removesuffix(" of all weights"): count for name, count in of_all.items()})
            most.append({name: math.ceil(1.3 * count) for name, count in trainer.method.masks.active().items()})

    update = {"sparsity.update.interval": 3, "sparsity.update.drop_fraction": 0.3}
    values = {**QUIET, **SMALL_RESNET, **method, **update, "sparsity.density": 0.1, "train.epochs": 1, "output": tmp_path}
    more = {"execution.storage": "packed", "execution.compute": "dense"}
    assert train_here({**values, **more}, hooks=[look]).code == 0
    updates = [step for step, layers in enumerate(held, start=1) if layers]
    assert updates[:2] == [3, 6] and all(step % 3 == 0 for step in updates)
    for step in updates:
        assert held[step - 1].keys() == most[step - 1].keys()
        for name, count in held[step - 1].items():
            assert count <= most[step - 1][name], (step, name)


def test_all_that_comes_after_a_run_is_the_same_of_either_storage(tmp_path: Path) -> None:
    """The checkpoint, what ``evaluate`` prints, what a probe finds."""
    found = []
    for storage in ("masked", "packed"):
        folder = tmp_path / storage
        values = {
            **QUIET,
            "output": folder,
            "model.name": "vit_tiny_patch16_224",
            "model.kwargs": TINY_VIT,
            "train.epochs": 2,
            "train.ema": 0.9,
            "train.precision": "fp64",
            "sparsity.method": "rigl",
            "sparsity.density": 0.3,
            "sparsity.update.interval": "5 steps",
            "execution.storage": storage,
        }
        assert train_here(values).code == 0
        evaluated = here(evaluate.main, [str(folder), "--checkpoint=last"])
        probed = here(plasticity.main, [str(folder), "--probe=prune_and_grow_uniform", "--rate=0.5"])
        assert (evaluated.code, probed.code) == (0, 0), evaluated.err + probed.err
        lines = [line for line in evaluated.out.splitlines() if str(folder) not in line]
        (table,) = (folder / "plasticity").glob("*.csv")
        last = max((folder / "checkpoints").glob("step_*.pt"))
        found.append((lines, table.read_text().splitlines(), torch.load(last)))
    (*masked, one), (*packed, other) = found
    assert masked == packed
    for part in ("state_dict", "state_dict_ema", "optimizer"):
        torch.testing.assert_close(one[part], other[part], rtol=1e-9, atol=1e-12)
