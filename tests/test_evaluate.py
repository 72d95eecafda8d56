"""`evaluate` finds in a checkpoint what training has written down."""

import json
import re
from pathlib import Path

import pytest
import torch

from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.evaluate import main
from tests.command import Outcome, here, metrics, train_here
from tests.values import QUIET, TINY_VIT

VALUES = {
    **QUIET,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": TINY_VIT,
    "train.epochs": 3,
    "train.batch_size": 128,
    "train.ema": 0.99,
    "optim.lr": 0.01,
    "sparsity.method": "static",
    "sparsity.density": 0.2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluate")
    assert train_here({**VALUES, "output": path}).code == 0
    return path


def evaluate(*argv: object) -> Outcome:
    return here(main, [str(word) for word in argv])


@pytest.mark.parametrize("which", ["best", "last", "FILE"])
def test_the_figures_are_those_of_the_run(folder: Path, which: str) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    file = folder / "checkpoints" / "step_00000022.pt"
    step = {"best": summary["best_step"], "last": 33, "FILE": 22}[which]
    row = next(row for row in metrics(folder) if row["step"] == str(step) and row["val/top1"])
    outcome = evaluate(folder, f"--checkpoint={file if which == 'FILE' else which}")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"(step {step})" in outcome.out
    for label, prefix in (("weights", "val/"), ("averaged weights", "val/ema_")):
        expected = [
            f"{float(row[prefix + 'top1']):.2%}",
            f"{float(row[prefix + 'top5']):.2%}",
            f"{float(row[prefix + 'loss']):.4f}",
        ]
        (found,) = re.findall(rf"^{label}\s+top-1 (\S+)  top-5 (\S+)  loss (\S+)$", outcome.out, flags=re.MULTILINE)
        assert list(found) == expected
    assert f"density           {summary['density']:.2%}" in outcome.out
    assert f"{summary['active_parameters']:,} of {summary['parameters']:,}" in outcome.out
    assert f"{summary['flops']:,.0f} of {summary['dense_flops']:,.0f}" in outcome.out


def test_a_network_with_an_emptied_layer(folder: Path, tmp_path: Path) -> None:
    state = CheckpointStore.load(folder / "checkpoints" / "best.pt")  # without what it says of itself
    next(iter(state["method"]["masks"].values())).zero_()
    torch.save(state, tmp_path / "emptied.pt")
    outcome = evaluate(folder, f"--checkpoint={tmp_path / 'emptied.pt'}")
    assert (outcome.code, outcome.err) == (0, "")
    assert "of the sparse layers" in outcome.out


def test_keys_can_be_set_anew(folder: Path) -> None:
    assert evaluate(folder, "--train.eval_batch_size=7").out == evaluate(folder).out
    refused = evaluate(folder, "--train.eval_batch=7")
    assert refused.code == 2
    assert refused.errors[0].startswith("train.eval_batch: unknown key")


def test_what_is_of_training_alone_is_not_in_the_way(folder: Path) -> None:
    """Neither a batch that the training samples in use do not fill, nor what cannot go together in training."""
    few = evaluate(folder, "--data.limit=100")
    assert (few.code, few.err) == (0, "")
    assert evaluate(folder, "--data.forgetting.epochs=1", "--data.repeated_augment=2").out == evaluate(folder).out


def test_what_cannot_be_evaluated(folder: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("name: begun\n")
    for argv, line in (
        ([tmp_path / "missing"], f"{tmp_path / 'missing'} is not the folder of a run: it has no config.yaml"),
        ([tmp_path / "begun"], f"{tmp_path / 'begun' / 'checkpoints'} holds no best checkpoint"),
        ([folder, "--checkpoint=missing.pt"], "missing.pt: no such checkpoint"),
        ([folder, f"--checkpoint={tmp_path / 'foreign.pt'}"], f"{tmp_path / 'foreign.pt'}: not a checkpoint of this program"),
        ([folder, "--model.name=cifar_resnet20", "--model.kwargs={}"], ""),
    ):
        refused = evaluate(*argv)
        assert refused.code == 2
        (error,) = refused.errors
        assert error.startswith(line)
