"""Whole runs on images that DALI decodes."""

from pathlib import Path

import pytest
from torch import Size

from dist_sparse import evaluate, executing
from dist_sparse.execution.execution import Execution
from dist_sparse.execution.setting import Setting
from tests.command import here, metrics, train_here

RUN = {
    "data.name": "image_folder",
    "data.backend": "dali",
    "data.workers": 1,
    "data.image_size": 48,
    "data.eval_size": 64,
    "data.progressive.start_size": 32,
    "data.progressive.start": "0%",
    "data.progressive.end": "2 epochs",
    "data.progressive.multiple": 8,
    "model.name": "cifar_resnet20",
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "train.epochs": 3,
    "train.batch_size": 4,
    "train.accumulation": 2,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "2 steps",
    "checkpoint.every": "1 steps",
    "tracking.log_every": 1,
    "tracking.wandb": "disabled",
    "engine.device": "cpu",
}
"""Six steps in three epochs, at 32, 40 and 48 pixels."""


AUGMENTED = {
    "data.auto_augment": "rand-m9-mstd0.5-inc1",
    "data.random_erasing": 0.5,
    "data.vertical_flip": True,
    "data.interpolation": "random",
    "data.crop_mode": "squash",
    "data.repeated_augment": 2,
}


@pytest.mark.parametrize("more", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_a_run_that_is_interrupted_within_an_epoch_goes_on_bit_for_bit(imagenet_photos: Path, tmp_path: Path, more) -> None:
    values = {**RUN, "data.root": imagenet_photos, **more}
    assert train_here({**values, "output": tmp_path / "whole"}).code == 0
    broken = {**values, "output": tmp_path / "broken", "resume": "auto"}
    assert train_here(broken, interrupt_after=3).code == 130
    assert train_here({**broken, "data.workers": 2}).code == 0
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")


def test_a_network_that_cannot_take_all_sizes_is_refused(imagenet_photos: Path, tmp_path: Path) -> None:
    vit = {"model.name": "vit_tiny_patch16_224", "model.kwargs": {"depth": 1, "embed_dim": 24}, "data.eval_size": 48}
    (line,) = train_here({**RUN, **vit, "data.root": imagenet_photos, "output": tmp_path / "run"}).errors
    assert line.startswith(
        "model.name: vit_tiny_patch16_224 cannot take images of 3x32x32 (data.eval_size, data.progressive): "
    )


def test_layers_are_chosen_for_the_size_of_training_images(
    imagenet_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest one, at which steps take longest; and whoever evaluates the run computes its layers in the same ways."""
    shapes: list[Size] = []

    def build(setting: Setting, *_: object) -> Execution:
        shapes.append(setting.shape)
        return Execution(state={"side": setting.shape[-1]})

    def build_for_evaluation(*_: object, shape: Size, **__: object) -> Execution:
        shapes.append(shape)
        return Execution()

    monkeypatch.setattr(executing, "build_execution", build)
    monkeypatch.setattr(executing, "build_for_evaluation", build_for_evaluation)
    values = {**RUN, "data.backend": "torchvision", "data.root": imagenet_photos, "output": tmp_path / "run"}
    assert train_here(values).code == 0
    assert here(evaluate.main, [str(tmp_path / "run")]).code == 0
    assert shapes == [Size([2, 3, 48, 48])] * 2
