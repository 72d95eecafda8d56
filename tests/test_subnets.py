"""Whole runs of methods with dense weights: AST against GraNet, going on, evaluating and exporting every sub-net."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_sparse import distributed
from dist_sparse.build import load_data, load_model, load_precision
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.config import Config, load_config
from dist_sparse.evaluate import main as evaluate
from dist_sparse.export.__main__ import main as export
from dist_sparse.validation import validate
from tests.command import here, metrics, train_here
from tests.values import QUIET, TINY_VIT

COMMON = {
    **QUIET,
    "tracking.log_every": 2,
    "model.name": "cifar_resnet20",
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "train.epochs": 3,
    "train.batch_size": 128,
    "optim.lr": 0.05,
}
"""33 steps with batch norm."""

LADDER = {
    **COMMON,
    "sparsity.method": "ast",
    "sparsity.keep_dense": ["first"],
    "sparsity.ast.densities": [0.5, 0.3, 0.2],
    "sparsity.ast.offset": "2 steps",
    "sparsity.update.interval": "3 steps",
    "sparsity.ramp.end": "15 steps",
    "checkpoint.every": "5 steps",
    "resume": "auto",
}
GROUPS = {
    **{key: value for key, value in LADDER.items() if key != "sparsity.ast.densities"},
    "sparsity.keep_dense": ["first", "last"],
    "sparsity.ast.structures": ["nm:2:4", "nm:1:4"],
    "sparsity.ast.correction": "whole",
}
SRSTE = {
    **COMMON,
    "sparsity.method": "srste",
    "sparsity.structure": "nm:2:4",
    "sparsity.keep_dense": ["first"],
    "checkpoint.every": "5 steps",
    "resume": "auto",
}


def last_state(folder: Path) -> dict[str, Any]:
    return CheckpointStore.load(CheckpointStore(folder / "checkpoints", keep=1).paths()[-1])


@pytest.mark.parametrize(
    "options",
    [{}, {"train.accumulation": 2, "train.precision": "bf16"}, {"sparsity.ramp.initial_density": 0.6}, {"optim.name": "muon"}],
    ids=["plain", "accumulated in bf16", "sparse from the start", "an optimizer that does not keep zeros"],
)
def test_one_subnet_without_correction_is_granet(tmp_path: Path, options: dict[str, Any]) -> None:
    """Bit for bit: losses, accuracies, digests at every update, and the weights in the end, where no layer is emptied."""
    shared = {
        **COMMON,
        "sparsity.keep_dense": ["last"],
        "sparsity.update.interval": "3 steps",
        "sparsity.ramp.end": "60%",
        **options,
    }
    granet = {**shared, "sparsity.method": "granet", "sparsity.density": 0.1}
    ast = {**shared, "sparsity.method": "ast", "sparsity.ast.densities": [0.1], "sparsity.ast.correction": "none"}
    for values, name in ((granet, "granet"), (ast, "ast")):
        assert train_here({**values, "output": tmp_path / name}).code == 0
    assert metrics(tmp_path / "ast") == metrics(tmp_path / "granet")
    one, other = (last_state(tmp_path / name)["state_dict"] for name in ("ast", "granet"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("values", "stopped_at"), [(LADDER, 12), (LADDER, 16), (GROUPS, 11), (SRSTE, 11)])
def test_a_run_goes_on_within_a_group(tmp_path: Path, values: dict[str, Any], stopped_at: int) -> None:
    """From checkpoints after the first and the third sub-net's step."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train_here({**values, "output": whole}).code == 0
    assert train_here({**values, "output": broken}, interrupt_after=stopped_at).code == 130
    outcome = train_here({**values, "output": broken})
    assert outcome.code == 0
    assert f"going on after step {stopped_at // 5 * 5}" in outcome.out or "going on after step 11" in outcome.out
    assert metrics(broken) == metrics(whole)
    assert torch.equal(last_state(broken)["state_dict"]["fc.weight"], last_state(whole)["state_dict"]["fc.weight"])


def test_micro_batches_do_not_change_whose_turn_it_is(tmp_path: Path) -> None:
    """In double precision without batch statistics the masks of all sub-nets are the same."""

    values = {**LADDER, "model.name": "vit_tiny_patch16_224", "model.kwargs": TINY_VIT, "train.precision": "fp64"}
    for accumulation in (1, 2):
        assert train_here({**values, "train.accumulation": accumulation, "output": tmp_path / str(accumulation)}).code == 0
    one, other = ([row["sparsity/mask_digest"] for row in metrics(tmp_path / name)] for name in ("1", "2"))
    assert one == other and len(set(one)) > 20


@pytest.mark.parametrize(
    "options",
    [
        {"train.precision": "fp16", "train.accumulation": 2, "train.clip_norm": 1.0, "train.mixup": 0.2},
        {
            "train.precision": "bf16",
            "train.channels_last": True,
            "optim.name": "adamw",
            "optim.lr": 0.01,
            "optim.momentum": 0.9,
        },
        {"optim.name": "muon", "sparsity.ast.unused": "zero", "sparsity.ast.correction": "whole"},
        {"optim.lookahead": True, "data.forgetting.epochs": 1, "data.forgetting.remove": 700},
    ],
    ids=["fp16, accumulated, clipped, mixed", "bf16 in channels_last with adamw", "muon", "lookahead and fewer samples"],
)
@pytest.mark.parametrize("values", [LADDER, SRSTE], ids=["ast", "srste"])
def test_options_go_together(tmp_path: Path, values: dict[str, Any], options: dict[str, Any]) -> None:
    keys = options if values is LADDER else {key: value for key, value in options.items() if not key.startswith("sparsity.ast")}
    outcome = train_here({**values, **keys, "output": tmp_path})
    assert (outcome.code, outcome.errors) == (0, [])
    rows = metrics(tmp_path)
    assert all(math.isfinite(float(row["train/loss"])) for row in rows if row["train/loss"])
    expected = {"subnet1_": 0.5, "subnet2_": 0.3, "subnet3_": 0.2} if values is LADDER else {"": 0.5}
    for label, density in expected.items():
        assert float(rows[-1][f"sparsity/{label}density"]) == pytest.approx(density, abs=1e-3)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    assert train_here({**LADDER, "output": folder}).code == 0
    return folder


def test_validation_logs_every_subnet_and_goes_by_the_sparsest(several: Path) -> None:
    rows = [row for row in metrics(several) if row["val/top1"]]
    assert len(rows) == 3
    for row in rows:
        assert row["val/top1"] == row["val/subnet3_top1"]
        assert row["sparsity/density"] == row["sparsity/subnet3_density"]
    densities = [float(rows[-1][f"sparsity/subnet{number}_density"]) for number in (1, 2, 3)]
    assert densities == pytest.approx([0.5, 0.3, 0.2], abs=1e-3)
    assert any(len({row[f"val/subnet{number}_top1"] for number in (1, 2, 3)}) > 1 for row in rows)
    summary = json.loads((several / "summary.json").read_text())
    assert summary["density"] == densities[-1]
    assert summary["best_top1"] == max(
        float(row["val/top1"]) for row in rows if float(row["sparsity/density"]) == densities[-1]
    )


def test_an_update_is_logged_as_that_of_its_subnet(several: Path) -> None:
    """And the density of all rows is that of the sparsest, which comes down and never up again."""
    rows = metrics(several)
    densities = [float(row["sparsity/density"]) for row in rows if row["sparsity/density"]]
    assert densities == sorted(densities, reverse=True) and len(set(densities)) > 3
    updates = [row for row in rows if row["sparsity/changed"] and not row["val/top1"]]
    moved = [[name for name in ("subnet1", "subnet2", "subnet3") if row[f"sparsity/{name}_density"]] for row in updates]
    assert all(len(names) == 1 for names in moved) and len({name for (name,) in moved}) == 3
    with (several / "layers.csv").open(newline="") as file:
        layers = {(row["step"], row["layer"].split()[0]) for row in csv.DictReader(file)}
    assert layers >= {(row["step"], name) for row, (name,) in zip(updates, moved, strict=True)}


def test_evaluate_prints_every_subnet(several: Path) -> None:
    outcome = here(evaluate, [str(several), "--checkpoint=last"])
    assert outcome.code == 0
    row = metrics(several)[-1]
    found = re.findall(r"^(subnet\d) +top-1 (\S+)  top-5 \S+  loss \S+\n  density +(\S+) ", outcome.out, flags=re.MULTILINE)
    assert found == [
        (name, f"{float(row[f'val/{name}_top1']):.2%}", f"{float(row[f'sparsity/{name}_density']):.2%}")
        for name in ("subnet1", "subnet2", "subnet3")
    ]
    assert outcome.out.count("FLOPs") == 3


def exported(folder: Path, *argv: str) -> dict[str, dict[str, Tensor]]:
    outcome = here(export, [str(folder), "--checkpoint=last", f"--output={folder / 'exported'}", "--overwrite", *argv])
    assert outcome.code == 0, outcome.err
    files = [Path(line.split("  ")[0]) for line in outcome.out.splitlines()]
    return {file.stem: torch.load(file, weights_only=True) for file in files}


def top1(folder: Path, weights: dict[str, Tensor]) -> float:
    """What the run's plain model does with exported weights."""
    config: Config = load_config(str(folder / "config.yaml"))
    ranks = distributed.start(config.engine)
    try:
        data, precision = load_data(config, ranks), load_precision(config, ranks)
        model = load_model(config, data.info, precision)
        model.load_state_dict(weights, strict=True)
        return validate(model, data.val, precision)["top1"]
    finally:
        distributed.stop()


def test_every_subnet_is_exported_as_a_plain_model(several: Path) -> None:
    state = last_state(several)
    weights = exported(several)
    assert list(weights) == ["subnet1", "subnet2", "subnet3"]
    assert list(exported(several, "--subnet=2")) == ["subnet2"]
    row = metrics(several)[-1]
    statistics = set()
    for name, each in weights.items():
        assert list(each) == list(state["state_dict"])
        assert top1(several, each) == float(row[f"val/{name}_top1"])
        sparse = [tensor for key, tensor in each.items() if tensor.ndim > 1 and key != "conv1.weight"]
        kept = sum(int(tensor.count_nonzero()) for tensor in sparse) / sum(tensor.numel() for tensor in sparse)
        assert kept == pytest.approx(float(row[f"sparsity/{name}_density"]), abs=1e-6)
        statistics.add(float(each["layer3.0.bn2.running_var"].sum()))
    assert len(statistics) == 3
    assert torch.equal(weights["subnet1"]["bn1.running_mean"], weights["subnet3"]["bn1.running_mean"])
    assert state["state_dict"]["fc.weight"].all(), "the checkpoint itself is dense"


@pytest.mark.parametrize("values", [SRSTE, {**COMMON, "sparsity.method": "static", "sparsity.density": 0.2}])
def test_any_method_is_exported(tmp_path: Path, values: dict[str, Any]) -> None:
    assert train_here({**values, "train.epochs": 1, "output": tmp_path}).code == 0
    ((name, weights),) = exported(tmp_path).items()
    assert name == "subnet1"
    assert top1(tmp_path, weights) == float(metrics(tmp_path)[-1]["val/top1"])
    sparse = weights["layer1.0.conv1.weight"]
    assert 0 < int(sparse.count_nonzero()) < sparse.numel()
    assert f"top-1 {float(metrics(tmp_path)[-1]['val/top1']):.2%}" in here(evaluate, [str(tmp_path)]).out


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--subnet=4"], "--subnet=4: {best} holds sub-nets 1 to 3; give one of their numbers, or all"),
        (["--subnet=two"], "--subnet=two: {best} holds sub-nets 1 to 3; give one of their numbers, or all"),
        (["--checkpoint=missing.pt"], "missing.pt: no such checkpoint"),
        (["--averaged"], "{best} holds no averaged weights: the run had no train.ema"),
        (["--output=/dev/null/x"], "--output=/dev/null/x cannot be written: Not a directory"),
    ],
)
def test_what_cannot_be_exported_is_one_line(several: Path, argv: list[str], line: str) -> None:
    outcome = here(export, [str(several), *argv])
    assert outcome.code == 2
    assert outcome.errors == [line.format(best=several / "checkpoints" / "best.pt")]


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    assert here(export, [str(tmp_path / "no")]).errors == [f"{tmp_path / 'no'} is not the folder of a run"]
    assert here(export, [str(tmp_path)]).errors == [f"{tmp_path / 'checkpoints'} holds no best checkpoint"]


@pytest.mark.parametrize("values", [LADDER, SRSTE], ids=["ast", "srste"])
def test_averaged_weights_are_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    outcome = train_here({**values, "train.ema": 0.9, "output": tmp_path / "run"})
    assert outcome.code == 2
    (line,) = outcome.errors
    assert line.startswith(f"train.ema cannot go with sparsity.method={values['sparsity.method']}: ")
