"""A run that is killed anywhere and started again goes on as if nothing had happened: the same metrics.csv, bit for bit."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_sparse import finished
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.sparsity.bits import popcount
from tests.command import Outcome, here, metrics, read_until, start, train_here, words
from tests.photos import write_photos
from tests.values import QUIET, TINY_VIT

COMMON = {**QUIET, "tracking.log_every": 2, "resume": "auto"}

DIGITS = {
    **COMMON,
    "data.name": "digits",
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {**TINY_VIT, "proj_drop_rate": 0.1},
    "train.epochs": 3,
    "train.batch_size": 128,
    "train.accumulation": 2,
    "train.ema": 0.9,
    "train.mixup": 0.2,
    "optim.name": "adamw",
    "optim.lr": 0.003,
    "scheduler.warmup": "5 steps",
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "4 steps",
    "sparsity.update.gradient_steps": 3,
    "checkpoint.every": "3 steps",
}
"""33 steps in 3 epochs; dropout, mixup, a moving average, and what is collected over several steps: gradients and losses."""

RAMP = {
    **{key: value for key, value in DIGITS.items() if key != "sparsity.update.gradient_steps"},
    "sparsity.method": "granet",
    "sparsity.update.interval": "2 steps",
    "sparsity.update.growth": "momentum",
    "sparsity.ramp.end": "28 steps",
}
"""The same run on a ramp that is not over when it is interrupted."""

BLOCKS = {
    **COMMON,
    "model.name": "cifar_resnet20",
    "model.kwargs": {"width": 0.5, "blocks": 1},
    "train.epochs": 3,
    "train.batch_size": 128,
    "sparsity.method": "shuffled_block",
    "sparsity.density": 0.3,
    "sparsity.shuffled_block.size": 4,
    "sparsity.update.interval": "5 steps",
    "checkpoint.every": "3 steps",
}

FOLDER = {
    **COMMON,
    "data.name": "image_folder",
    "data.image_size": 32,
    "data.resize": 32,
    "data.workers": 1,
    "model.name": "cifar_resnet20",
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "train.epochs": 4,
    "train.batch_size": 4,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.form": "itop",
    "sparsity.update.interval": "2 steps",
    "checkpoint.every": "3 steps",
}
"""24 steps in 4 epochs, with batch norm and random crops of JPEG files."""

Uninterrupted = Callable[[dict[str, Any]], list[dict[str, str]]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """``uninterrupted(values)``: the metrics of the run that nothing happens to."""
    known: dict[str, list[dict[str, str]]] = {}

    def run(values: dict[str, Any]) -> list[dict[str, str]]:
        if repr(values) not in known:
            folder = tmp_path_factory.mktemp("uninterrupted")
            assert train_here({**values, "output": folder}).code == 0
            known[repr(values)] = metrics(folder)
        return known[repr(values)]

    return run


def kill_at(step: int, values: dict[str, Any]) -> None:
    """Train in a process of its own, and kill it when it has told of a step."""
    process = start(["-m", "dist_sparse.train", *words(values)])
    read_until(process, f"step {step}/")
    process.kill()
    process.communicate()


@pytest.mark.parametrize("data", ["digits", "image folder"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, uninterrupted: Uninterrupted, data: str
) -> None:
    values = DIGITS if data == "digits" else {**FOLDER, "data.root": write_photos(tmp_path_factory.mktemp("photos"))}
    reference = uninterrupted(values)
    steps = int(reference[-1]["step"])
    killed_at = random.Random(f"kill {data}").randrange(4, steps // 2, 2)  # well before the end
    kill_at(killed_at, {**values, "output": tmp_path})
    assert int(metrics(tmp_path)[-1]["step"]) >= killed_at
    assert not (tmp_path / "summary.json").exists()
    outcome = train_here({**values, "output": tmp_path})
    assert outcome.code == 0
    (resumed_at,) = map(int, re.findall(rf"going on after step (\d+) of {steps}", outcome.out))
    assert killed_at - 3 <= resumed_at < steps
    assert metrics(tmp_path) == reference


def test_a_run_goes_on_in_the_middle_of_its_ramp(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    values = {**RAMP, "output": tmp_path}
    assert train_here(values, interrupt_after=14).code == 130
    assert "going on after step 12 of 33" in train_here(values).out
    assert metrics(tmp_path) == uninterrupted(RAMP)


def test_mest_goes_on_where_it_was_about_to_mutate(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """The checkpoint of step 12 stands right before a mutation, whose score needs that step's gradient."""
    mest = {"sparsity.method": "mest", "sparsity.mest.removal_gradient": 0.5, "sparsity.update.gradient_steps": 1}
    values = {**DIGITS, **mest}
    assert train_here({**values, "output": tmp_path}, interrupt_after=12).code == 130
    outcome = train_here({**values, "output": tmp_path})
    assert outcome.code == 0
    assert "going on after step 12 of 33" in outcome.out
    assert metrics(tmp_path) == uninterrupted(values)


@pytest.mark.parametrize("stopped_at", [1, 4])
def test_masks_that_a_gradient_chose_are_not_chosen_again(
    tmp_path: Path, uninterrupted: Uninterrupted, stopped_at: int
) -> None:
    values = {**{key: value for key, value in DIGITS.items() if not key.startswith("sparsity.update")}, "checkpoint.every": 1}
    values |= {"sparsity.method": "static", "sparsity.init": "snip"}
    assert train_here({**values, "output": tmp_path}, interrupt_after=stopped_at).code == 130
    outcome = train_here({**values, "output": tmp_path})
    assert f"going on after step {stopped_at} of 33" in outcome.out
    assert metrics(tmp_path) == uninterrupted(values)


def test_patterns_go_on_as_they_were(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    values = {**{key: value for key, value in DIGITS.items() if key != "model.kwargs"}, "model.name": "cifar_resnet20"}
    values |= {
        "model.kwargs": {"width": 0.25, "blocks": 1},
        "sparsity.structure": "pattern",
        "sparsity.distribution": "uniform",
    }
    values |= {"sparsity.keep_dense": ["first", "last", "*.downsample.*"]}
    assert train_here({**values, "output": tmp_path}, interrupt_after=14).code == 130
    assert "going on after step 12 of 33" in train_here({**values, "output": tmp_path}).out
    assert metrics(tmp_path) == uninterrupted(values)


@pytest.mark.parametrize("dynamic", [True, False])
def test_shuffled_blocks_come_with_the_checkpoint(tmp_path: Path, uninterrupted: Uninterrupted, dynamic: bool) -> None:
    """The blocks go on where they were, between two updates; and they are those whose union the masks are."""
    values = {**BLOCKS, "sparsity.shuffled_block.dynamic": dynamic}
    assert train_here({**values, "output": tmp_path}, interrupt_after=14).code == 130
    (newest,) = list((tmp_path / "checkpoints").glob("step_*12.pt"))
    method = CheckpointStore.load(newest)["method"]
    outcome = train_here({**values, "output": tmp_path})
    assert outcome.code == 0 and "going on after step 12 of 33" in outcome.out
    assert metrics(tmp_path) == uninterrupted(values)
    assert len(method["blocks"]) > 5
    for name, parts in method["blocks"].items():
        assert popcount(method["masks"][name]) == 16 * len(parts["columns"])


@pytest.mark.parametrize(("stopped_at", "resumed_at"), [(16, 15), (28, 28)])
def test_forgetting_is_counted_on_and_left_out_again(
    tmp_path: Path, uninterrupted: Uninterrupted, stopped_at: int, resumed_at: int
) -> None:
    """Stopped within the epochs that count, and within the short one after them: steps 23, 25, 26, 28, 29, 31, 33."""
    values = {**DIGITS, "train.mixup": 0.0, "data.forgetting.epochs": 2, "data.forgetting.remove": 500}
    reference = uninterrupted(values)
    assert train_here({**values, "output": tmp_path}, interrupt_after=stopped_at).code == 130
    outcome = train_here({**values, "output": tmp_path})
    assert outcome.code == 0
    assert f"going on after step {resumed_at} of 33" in outcome.out
    assert metrics(tmp_path) == reference
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 11 + 11 + 7
    again = {**values, "data.forgetting.ranking": tmp_path / "forgetting.pt", "output": tmp_path / "again"}
    if stopped_at == 28:  # a ranking that is read does what the counting run did
        assert train_here(again).code == 0
        assert metrics(tmp_path / "again") == reference


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    values = {**DIGITS, "output": tmp_path}
    assert train_here(values, interrupt_after=19).code == 130
    _, newest = sorted((tmp_path / "checkpoints").glob("step_*.pt"))
    assert newest.name == "step_00000018.pt"
    newest.write_bytes(newest.read_bytes()[:10_000])
    outcome = train_here(values)
    assert outcome.code == 0
    assert f"WARNING: {newest}: not a sound checkpoint: " in outcome.err
    assert "going on after step 15 of 33" in outcome.out
    assert metrics(tmp_path) == uninterrupted(DIGITS)


def test_a_run_goes_on_from_a_named_checkpoint(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert train_here({**DIGITS, "output": first}, interrupt_after=13).code == 130
    outcome = train_here({**DIGITS, "output": second, "resume": first / "checkpoints" / "best.pt"})
    assert outcome.code == 0
    assert "going on after step 11 of 33" in outcome.out
    assert metrics(second) == [row for row in uninterrupted(DIGITS) if int(row["step"]) > 11]


def test_a_run_that_has_no_checkpoint_yet_begins_again(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    values = {**DIGITS, "output": tmp_path}
    assert train_here(values, interrupt_after=2).code == 130
    outcome = train_here(values)
    assert outcome.code == 0
    assert "going on" not in outcome.out
    assert metrics(tmp_path) == uninterrupted(DIGITS)


SMALL = {
    **COMMON,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": TINY_VIT,
    "train.epochs": 2,
    "train.batch_size": 256,
    "sparsity.method": "static",
    "sparsity.density": 0.3,
}
"""10 steps in 2 epochs."""


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    values = {**SMALL, "output": tmp_path, "train.epochs": 1}
    assert train_here(values).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "logs"}
    outcome = train_here(values)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{tmp_path} is finished, nothing is left to do\n", "")
    assert {path: path.read_bytes() for path in before} == before
    refused = train_here({**values, "resume": "never"})
    assert refused.code == 2
    (line,) = refused.errors
    assert line.startswith(f"output={tmp_path} already holds a run: resume=auto goes on with it")


def test_a_finished_run_is_not_taken_for_another_one(tmp_path: Path) -> None:
    values = {**SMALL, "output": tmp_path, "train.epochs": 1}
    assert train_here(values).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "logs"}
    for changed in ({"train.epochs": 2}, {"sparsity.density": 0.2, "seed": 7}, {"sparsity.init": "magnitude"}):
        refused = train_here({**values, **changed})
        assert (refused.code, refused.out) == (2, "")
        (line,) = refused.errors
        assert line.startswith(f"{tmp_path} is finished, and was trained with another ")
        assert all(f"{key} (was " in line for key in changed)
        assert here(finished.main, words({**values, **changed})) == refused
    free = {**values, "checkpoint.keep": 1, "tracking.log_every": 1, "data.workers": 3}
    assert train_here(free).code == 0
    assert here(finished.main, words(free)) == Outcome(0, "", "")
    assert here(finished.main, words({**values, "output": tmp_path / "none"})).code == finished.NOT_FINISHED
    assert {path: path.read_bytes() for path in before} == before
    (tmp_path / "config.yaml").write_text("of_another_version: 1\n")
    assert train_here({**values, "train.epochs": 2}).code == 0


def test_what_decides_the_results_cannot_change_on_the_way(tmp_path: Path) -> None:
    values = {**SMALL, "output": tmp_path}
    assert train_here(values, interrupt_after=7).code == 130
    for changed in (
        {"optim.lr": 0.05},
        {"model.kwargs": {**TINY_VIT, "depth": 3}},
        {"model.name": "cifar_resnet20", "model.kwargs": {}},
    ):
        refused = train_here({**values, **changed})
        assert refused.code == 2
        (line,) = refused.errors
        assert line.startswith("cannot resume with another ")
        assert all(f"{key} (was " in line for key in changed)
    accepted = train_here({**values, "tracking.log_every": 3, "checkpoint.keep": 1})
    assert (accepted.code, accepted.err) == (0, "")
