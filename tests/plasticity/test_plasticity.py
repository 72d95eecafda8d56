"""The command on trained checkpoints: what it prints and saves, that it starts each probe anew, and what it refuses."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse import evaluate
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.config import Config
from dist_sparse.errors import UserError
from dist_sparse.plasticity.__main__ import main
from dist_sparse.plasticity.conditions import Request, recovery_config
from dist_sparse.sparsity.plasticity import PROBES
from tests.command import Outcome, here, train_here
from tests.values import QUIET, TINY_VIT

VALUES: dict[str, Any] = {
    **QUIET,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": TINY_VIT,
    "train.epochs": 2,
    "train.batch_size": 64,
    "optim.name": "adamw",
    "optim.lr": 0.01,
    "data.augment": False,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``trained(method)``: the folder of a run of the module's."""
    known: dict[str, Path] = {}

    def folder(method: str) -> Path:
        if method not in known:
            known[method] = tmp_path_factory.mktemp(method) / "run"
            values = {**VALUES, "sparsity.method": method, "output": known[method]}
            extra = SHARED.get(method, {} if method == "dense" else {"sparsity.density": 0.3})
            assert train_here(values | extra).code == 0
        return known[method]

    return folder


@pytest.fixture
def copy(trained: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """``copy(method)``: such a folder for the test alone."""
    return lambda method: Path(shutil.copytree(trained(method), tmp_path / method))


def probe(folder: Path, *options: str) -> Outcome:
    return here(main, [str(folder), *options])


def tables(folder: Path) -> list[list[dict[str, str]]]:
    return [list(csv.DictReader(path.open(newline=""))) for path in sorted((folder / "plasticity").glob("*.csv"))]


@pytest.mark.parametrize("method", ["dense", "rigl"])
def test_what_is_printed_is_saved(copy: Callable[[str], Path], method: str) -> None:
    folder = copy(method)
    outcome = probe(folder, "--rate=0.5", "--recovery-epochs=1")
    assert (outcome.code, outcome.err) == (0, "")
    (rows,) = tables(folder)
    assert [row["probe"] for row in rows] == list(PROBES)
    top1 = next(each.split()[2] for each in here(evaluate.main, [str(folder)]).out.splitlines() if each.startswith("weights"))
    density = {"dense": 1.0, "rigl": 0.3}[method]
    for row in rows:
        assert f"{float(row['top1_before']):.2%}" == top1
        assert float(row["density_pruned"]) == pytest.approx(density / 2, rel=0.2 if "structured" in row["probe"] else 0.01)
        grown = density if "grow" in row["probe"] else float(row["density_pruned"])
        assert float(row["density"]) == pytest.approx(grown, rel=0.01)
        figures = [f"{float(row[key]):.2%}" for key in ("density", "top1_before", "top1_after", "top1_recovered")]
        (printed,) = [each.split() for each in outcome.out.splitlines() if each.startswith(row["probe"] + " ")]
        assert printed[1:] == ["0.5", f"{float(row['density_pruned']):.2%}", *figures]
    after = {row["probe"]: row["top1_after"] for row in rows}
    for scope in ("uniform", "global", "structured"):
        assert after[f"prune_and_grow_{scope}"] == after[f"prune_{scope}"], "what grows starts at 0"
    (path,) = (folder / "plasticity").glob("*.json")
    saved = json.loads(path.read_text())
    assert [each["top1_recovered"] for each in saved["rows"]] == [float(row["top1_recovered"]) for row in rows]
    assert saved["recovery_epochs"] == 1
    assert {each.name for each in (folder / "plasticity").iterdir()} == {path.name, path.with_suffix(".csv").name}


def test_pruning_costs_accuracy_and_training_on_wins_it_back(copy: Callable[[str], Path]) -> None:
    folder = copy("dense")
    assert probe(folder, "--probe=prune_uniform", "--rate=0.8", "--recovery-epochs=3", "--lr=0.01").code == 0
    ((row,),) = tables(folder)
    before, after, recovered = (float(row[f"top1_{when}"]) for when in ("before", "after", "recovered"))
    assert after < before - 0.2
    assert recovered > after + 0.2


def test_a_probe_does_not_depend_on_those_before_it_and_nothing_is_overwritten(copy: Callable[[str], Path]) -> None:
    folder = copy("rigl")
    assert probe(folder, "--probe=prune_structured,prune_and_grow_global", "--rate=0.8,0.5").code == 0
    first = (folder / "plasticity" / "step_00000044.csv").read_text()
    assert probe(folder, "--probe=prune_and_grow_global", "--rate=0.5").code == 0
    assert (folder / "plasticity" / "step_00000044.csv").read_text() == first
    alone, among = tables(folder)
    assert alone == among[-1:]
    assert {path.name for path in (folder / "plasticity").glob("*-2.*")} == {"step_00000044-2.csv", "step_00000044-2.json"}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_too_the_masks_of_before_are_those_that_grow_again(copy: Callable[[str], Path], precision: str) -> None:
    folder = copy("rigl")
    assert probe(folder, "--rate=0.5", "--engine.device=cuda", f"--train.precision={precision}").code == 0
    (rows,) = tables(folder)
    assert [float(row["density"]) for row in rows if "grow" in row["probe"]] == pytest.approx([0.3] * 3, rel=0.01)
    assert all(float(row["top1_recovered"]) > 0 for row in rows)


SHARED = {
    "ast": {"sparsity.ast.densities": [0.6, 0.3], "sparsity.update.interval": "5 steps"},
    "srste": {"sparsity.structure": "nm:2:4", "sparsity.keep_dense": ["first"]},
}
"""Methods whose checkpoints hold dense weights, and what they need beside their name."""


@pytest.mark.parametrize(("method", "options", "density"), [("ast", [], 0.3), ("ast", ["--subnet=1"], 0.6), ("srste", [], 0.5)])
def test_of_shared_weights_a_masked_network_is_probed(
    copy: Callable[[str], Path], method: str, options: list[str], density: float
) -> None:
    folder = copy(method)
    outcome = probe(
        folder, "--probe=prune_and_grow_uniform", "--rate=0.5", "--recovery-epochs=0", "--checkpoint=last", *options
    )
    assert (outcome.code, outcome.err) == (0, "")
    lines = [
        each.split() for each in here(evaluate.main, [str(folder), "--checkpoint=last"]).out.splitlines() if "top-1" in each
    ]
    ((row,),) = tables(folder)
    assert f"{float(row['top1_before']):.2%}" == lines[0 if options else -1][2]
    assert float(row["density"]) == pytest.approx(density, rel=0.01)
    assert float(row["density_pruned"]) == pytest.approx(density / 2, rel=0.01)


def test_a_sub_net_that_is_not_there(copy: Callable[[str], Path]) -> None:
    folder = copy("ast")
    path = folder / "checkpoints" / "best.pt"
    assert probe(folder, "--subnet=3").errors == [f"--subnet=3: {path} holds sub-nets 1 to 2; give one of their numbers"]
    assert probe(folder, "--subnet=all").errors == ["--subnet=all: should be the number of a sub-net, from 1 on"]


def test_layers_that_stay_dense_are_left_alone(copy: Callable[[str], Path]) -> None:
    folder = copy("rigl")
    options = ("--probe=prune_global", "--rate=0.5", "--recovery-epochs=0")
    assert probe(folder, *options, "--sparsity.keep_dense=[last]").code == 0
    assert probe(folder, *options).code == 0
    saved = [json.loads(path.read_text()) for path in sorted((folder / "plasticity").glob("*.json"))]
    assert set(saved[0]["layers"]) - set(saved[1]["layers"]) == {"head.weight"}
    assert [each["rows"][0]["top1_recovered"] for each in saved] == [None, None]
    assert len({each["rows"][0]["mask_digest"] for each in saved}) == 2


def test_the_default_rate_is_that_of_the_moment_but_not_nothing(copy: Callable[[str], Path]) -> None:
    folder = copy("rigl")
    options = ("--probe=prune_global", "--rate=0.5", "--recovery-epochs=0", "--checkpoint=last")
    assert probe(folder, *options).code == 0  # where a cosine ends
    first = CheckpointStore.load(path := folder / "checkpoints" / "step_00000044.pt")  # without what it says of itself
    first["optimizer"]["param_groups"][0]["lr"] = 0.007
    torch.save(first, path)
    assert probe(folder, *options).code == 0
    assert probe(folder, *options, "--lr=0.5").code == 0
    files = sorted((folder / "plasticity").glob("*.json"), key=lambda each: len(each.name) * 1000 + ord(each.stem[-1]))
    assert [json.loads(path.read_text())["learning_rate"] for path in files] == pytest.approx([0.0001, 0.007, 0.5])


def test_what_grows_does_not_depend_on_how_the_run_computes(copy: Callable[[str], Path]) -> None:
    """Kernels for active weights leave the gradients of the others at 0, which no weight could grow by."""
    folder = copy("rigl")
    options = ("--probe=prune_and_grow_uniform,prune_and_grow_global", "--rate=0.5", "--recovery-epochs=0")
    for compute in ("dense", "sparse"):
        assert probe(folder, *options, f"--execution.compute={compute}").code == 0
    densely, sparsely = ([row["mask_digest"] for row in rows] for rows in tables(folder))
    assert sparsely == densely


def test_a_run_that_has_shrunk_is_probed_whole(tmp_path: Path) -> None:
    values = {**VALUES, "train.epochs": 1, "sparsity.method": "static", "sparsity.density": 0.3}
    values |= {"sparsity.structure": "filter", "sparsity.keep_dense": ["first", "last"]}
    assert train_here({**values, "execution.shrink": True, "output": tmp_path}).code == 0
    assert json.loads((tmp_path / "summary.json").read_text())["flops_saved"] > 0
    outcome = probe(tmp_path, "--probe=prune_uniform", "--rate=0.5", "--recovery-epochs=0")
    assert (outcome.code, outcome.err) == (0, "")
    ((row,),) = tables(tmp_path)
    assert float(row["density_pruned"]) == pytest.approx(0.15, rel=0.05)


@pytest.mark.parametrize("tells", [True, False], ids=["scales", "no scales"])
def test_the_default_rate_is_that_of_the_layers_that_learn_fastest(copy: Callable[[str], Path], tells: bool) -> None:
    """With ``optim.layer_decay`` the first group is of the first layers, whose rate is a small part of the run's.

    DeepSpeed's checkpoints have the rates of the groups alone.
    """
    folder = copy("rigl")
    first = CheckpointStore.load(path := folder / "checkpoints" / "step_00000044.pt")
    group, *_ = first["optimizer"]["param_groups"]
    groups = [{**group, "lr": 0.008 * scale} | ({"lr_scale": scale} if tells else {}) for scale in (0.125, 1.0, 0.25)]
    first["optimizer"]["param_groups"] = groups
    torch.save(first, path)
    options = ("--probe=prune_global", "--rate=0.5", "--recovery-epochs=0", "--checkpoint=last")
    assert probe(folder, *options).code == 0
    (saved,) = (folder / "plasticity").glob("*.json")
    assert json.loads(saved.read_text())["learning_rate"] == pytest.approx(0.008)


@pytest.mark.parametrize("groups", [None, [], [0.1], [{}], [{"lr": "fast"}], [{"lr": 0.1, "lr_scale": 0}]], ids=str)
def test_a_checkpoint_without_a_rate(groups: object) -> None:
    request = Request(
        checkpoint=Path("last.pt"),
        subnet=None,
        probes=(),
        rates=(),
        recovery_epochs=0,
        gradient_batches=1,
        learning_rate=None,
    )
    with pytest.raises(UserError, match=r"'optimizer\.param_groups' has no learning rate; --lr gives one"):
        recovery_config(Config(), request, {"optimizer": {"param_groups": groups}})


MISTAKES: list[tuple[list[str], str]] = [
    (["--probe=prune"], "--probe=prune: should be all, or of prune_uniform, "),
    (["--rate=0.5,1"], "--rate=0.5,1: should be above 0 and below 1"),
    (["--rate=much"], "--rate=much: should be above 0 and below 1"),
    (["--recovery-epochs=-1"], "--recovery-epochs=-1: should be a whole number of 0 or more"),
    (["--gradient-batches=0"], "--gradient-batches=0: should be a whole number of 1 or more"),
    (["--gradient-batches=999"], "--gradient-batches=999: an epoch has only 22 batches"),
    (["--lr=0"], "--lr=0: should be a number above 0"),
    (["--checkpoint=missing.pt"], "missing.pt: no such checkpoint"),
    (["--optim.lrr=1"], "optim.lrr: unknown key"),
    (["--sparsity.keep_dense=[stem]"], "sparsity.keep_dense='stem' fits no layer"),
]


@pytest.mark.parametrize(("options", "beginning"), MISTAKES, ids=[options[0] for options, _ in MISTAKES])
def test_a_mistake_is_one_line(trained: Callable[[str], Path], options: list[str], beginning: str) -> None:
    folder = trained("rigl")
    outcome = probe(folder, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {beginning}")
    assert outcome.err.count("\n") == 1
    assert not list(folder.glob("plasticity/*"))


def test_what_is_no_run(tmp_path: Path) -> None:
    outcome = probe(tmp_path)
    assert (outcome.code, outcome.errors) == (2, [f"{tmp_path} is not the folder of a run: it has no config.yaml"])
