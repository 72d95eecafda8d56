"""A run's data set in another place, with other classes, other images or other pixels: on resume, evaluation, export."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from dist_sparse import evaluate
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.data import pack
from dist_sparse.export import __main__ as export
from dist_sparse.plasticity import __main__ as plasticity
from tests.command import here, metrics, train_here
from tests.photos import write_photos

VALUES = {
    "data.name": "image_folder",
    "data.backend": "torchvision",
    "data.workers": 0,
    "data.image_size": 32,
    "model.name": "cifar_resnet20",
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "train.epochs": 2,
    "train.batch_size": 4,
    "sparsity.method": "static",
    "sparsity.density": 0.3,
    "checkpoint.every": "1 steps",
    "checkpoint.keep": 99,
    "tracking.wandb": "disabled",
    "tracking.log_every": 1,
    "engine.device": "cpu",
    "resume": "auto",
}
"""Two epochs of two steps."""


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_photos(tmp_path / "photos", train=4, val=2)


@pytest.fixture
def stopped(photos, tmp_path) -> dict[str, Any]:
    """The values of a run that Ctrl-C has stopped in its first epoch."""
    values = {**VALUES, "data.root": photos, "output": tmp_path / "run"}
    assert train_here(values, interrupt_after=1).code == 130
    return values


@pytest.fixture
def finished(photos, tmp_path) -> Path:
    assert train_here({**VALUES, "data.root": photos, "output": tmp_path / "run", "train.epochs": 1}).code == 0
    return tmp_path / "run"


def rename_class(root: Path) -> None:
    """flower, the first of two, becomes zinnia, the second."""
    for split in ("train", "val"):
        (root / split / "flower").rename(root / split / "zinnia")


def rewrite(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the checkpoints of a run."""
    for path in (run / "checkpoints").glob("*.pt"):
        state = CheckpointStore.load(path)
        change(state)
        torch.save(state, path)


def test_a_class_folder_that_was_renamed_is_found_on_resume(stopped, photos):
    rename_class(photos)
    outcome = train_here(stopped)
    assert (outcome.code, outcome.errors) == (
        2,
        ["cannot resume with another data set: the checkpoint's has class 0 flower (now temple)"],
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_another_image_is_found_on_resume(stopped, photos, split):
    text = {"train": "training", "val": "validation"}[split]
    (photos / split / "temple" / "1.JPEG").rename(photos / split / "temple" / "one.JPEG")
    (line,) = train_here(stopped).errors
    assert line.startswith("cannot resume with another data set: the checkpoint's has ")
    assert line.endswith(f"has other {text} samples of class temple, or another order of them")


def test_a_run_may_move_to_another_place_and_to_shards(stopped, photos, tmp_path):
    whole = {**stopped, "output": tmp_path / "whole"}
    assert train_here(whole).code == 0
    assert here(pack.main, [str(photos), str(tmp_path / "shards"), "--format=tfrecord", "--shard-size=3"]).code == 0
    photos.rename(tmp_path / "moved")
    assert train_here({**stopped, "data.root": tmp_path / "moved"}, interrupt_after=2).code == 130
    assert train_here({**stopped, "data.root": tmp_path / "shards"}).code == 0
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_a_checkpoint_that_knows_no_names_goes_on_with_a_warning(stopped, photos):
    def forget(state: dict[str, Any]) -> None:
        state["data"] = {key: value for key, value in state["data"].items() if not key.endswith(("names", "samples"))}
        state["config"] = {key: value for key, value in state["config"].items() if key not in ("data.mean", "data.std")}

    rewrite(Path(stopped["output"]), forget)
    outcome = train_here(stopped)
    assert outcome.code == 0
    assert "kept no names of classes and samples: the data set's are not compared" in outcome.err


@pytest.mark.parametrize("command", [evaluate.main, plasticity.main])
def test_figures_on_a_data_set_of_other_classes_are_refused(finished, photos, command):
    rename_class(photos)
    outcome = here(command, [str(finished)])
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.errors == ["the data set has other classes than the checkpoint's, which has class 0 flower (now temple)"]


def test_figures_on_other_images_of_the_same_classes_are_for_asking(finished, tmp_path):
    """Even where their training images would not fill a batch, or with another batch sizes would not grow in order."""
    other = write_photos(tmp_path / "other", train=1, val=3)
    grown = {"start_size": 32, "start": "0.5 epochs", "end": "1 steps"}
    words = [f"--data.progressive.{key}={value}" for key, value in grown.items()]
    outcome = here(evaluate.main, [str(finished), f"--data.root={other}", *words])
    assert (outcome.code, outcome.err) == (0, "")
    assert "top-1" in outcome.out


def test_exported_weights_come_with_what_their_outputs_mean(finished, tmp_path):
    assert here(export.main, [str(finished), f"--output={tmp_path}/out"]).code == 0
    about = json.loads((tmp_path / "out" / "subnet1.json").read_text())
    assert (
        about.items()
        >= {
            "model": "cifar_resnet20",
            "model_kwargs": {"width": 0.25, "blocks": 1},
            "classes": 2,
            "channels": 3,
            "image_size": 32,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "class_names": ["flower", "temple"],
        }.items()
    )
    model = timm.create_model("cifar_resnet20", num_classes=2, width=0.25, blocks=1)
    model.load_state_dict(torch.load(tmp_path / "out" / "subnet1.pt", weights_only=True), strict=True)


def test_names_that_are_not_utf8_go_through_a_whole_run(photos, tmp_path):
    """Folders, shards, checkpoint, log, evaluation and export; a bad image of such a name is one line on the way."""
    name = os.fsdecode(b"fl\xe9ur\nx")
    for split in ("train", "val"):
        (photos / split / "flower").rename(photos / split / name)
    (photos / "val" / name / "0.JPEG").write_bytes(b"no image")
    run = tmp_path / "run"
    values = {**VALUES, "data.root": photos, "output": run, "data.bad_images": "skip", "train.epochs": 1}
    assert train_here(values, interrupt_after=1).code == 130
    outcome = train_here(values)
    assert outcome.code == 0
    shown = f"{photos}/val/fl\\xe9ur\\nx/0.JPEG cannot be decoded (not an image in a known format)"
    assert shown in outcome.err
    assert shown in (run / "logs" / "rank_0.log").read_text()
    assert here(evaluate.main, [str(run)]).code == 0
    assert here(export.main, [str(run)]).code == 0
    assert json.loads((run / "subnet1.json").read_text())["class_names"] == ["fl\\xe9ur\\nx", "temple"]
