"""Commands that torchrun starts on several ranks speak once, and write once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dist_sparse import evaluate
from tests.command import ROOT, metrics, train_here, words
from tests.distributed import cases
from tests.distributed.world import World
from tests.values import LOGGED, TINY_VIT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = {**LOGGED, "model.name": "vit_tiny_patch16_224", "model.kwargs": TINY_VIT, "train.epochs": 1}
    path = tmp_path_factory.mktemp("commands")
    assert train_here({**values, "sparsity.density": 0.3, "output": path}).code == 0
    return path


def test_evaluate_prints_the_figures_of_all_ranks_once(worlds: Callable[[int], World], folder: Path) -> None:
    outcomes = worlds(2).run(cases.call, evaluate.main, [str(folder), "--local_rank=0"])
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert (outcomes[1].out, outcomes[1].err) == ("", "")
    assert f"top-1 {float(metrics(folder)[-1]['val/top1']):.2%}" in outcomes[0].out
    assert f"density           {json.loads((folder / 'summary.json').read_text())['density']:.2%}" in outcomes[0].out


def test_ranks_that_could_not_share_out_the_run_s_batch_evaluate_all_the_same(
    worlds: Callable[[int], World], folder: Path
) -> None:
    whole, *others = (worlds(size).run(cases.call, evaluate.main, [str(folder), "--train.batch_size=101"]) for size in (1, 2))
    assert [outcome.code for outcome in others[0]] == [0, 0]
    assert others[0][0].out == whole[0].out


@pytest.mark.parametrize(
    "more",
    [["--checkpoint=missing.pt"], ["--data.name=digts"], ["--data.limmit=3"], ["--model.kwargs.depth=9"]],
)  # fmt: skip
def test_a_mistake_is_told_once(worlds: Callable[[int], World], folder: Path, more: Sequence[str]) -> None:
    outcomes = worlds(2).run(cases.call, evaluate.main, [str(folder), *more])
    assert [outcome.code for outcome in outcomes] == [2, 2]
    assert [len(outcome.errors) for outcome in outcomes] == [1, 0]


def test_fewer_images_than_ranks_are_refused_by_their_key(worlds: Callable[[int], World], folder: Path) -> None:
    outcomes = worlds(2).run(cases.call, evaluate.main, [str(folder), "--data.limit=1"])
    assert outcomes[0].errors == ["data.limit=1 should be at least 2, one image for each of the ranks"]


@pytest.mark.parametrize("module", ["export", "latency", "results", "grid", "models", "sparsity.methods", "data.pack"])
def test_a_command_for_one_process_is_needless_in_the_others(module: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", f"dist_sparse.{module}"]
    done = subprocess.run(command, env=environment, cwd=ROOT, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_torchrun_exports_once(folder: Path, tmp_path: Path) -> None:
    options = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dist_sparse.export"]
    command = [sys.executable, *options, str(folder), f"--output={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("subnet1.pt") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["subnet1.json", "subnet1.pt"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_program_trains_twice(tmp_path: Path, ranks: int) -> None:
    """The second run is none that torchrun has restarted, and its ranks meet anew."""
    options = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "tests.distributed.two_runs"]
    values = {**LOGGED, "model.name": "vit_tiny_patch16_224", "model.kwargs": TINY_VIT, "sparsity.density": 0.3}
    command = [sys.executable, *options, *words({**values, "train.epochs": 1})]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (tmp_path / "runs").iterdir()
    assert metrics(first) == metrics(second)
