"""Whole runs on images that DALI decodes."""

import json
from pathlib import Path

import pytest
from torch import Size

from dist_sparse import evaluate, executing
from dist_sparse.config import parse_args
from dist_sparse.execution.execution import Execution
from dist_sparse.execution.setting import Setting
from dist_sparse.plan.outlook import look_ahead
from tests.command import here, metrics, train_here, words

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


GROWING = {
    "sparsity.method": "gmp_uniform",
    "sparsity.keep_dense": ["last"],
    "sparsity.update.interval": "1 steps",
    "sparsity.ramp.start": "0 steps",
    "sparsity.ramp.end": "4 steps",
    "checkpoint.every": "100 steps",
}
"""Pruned from dense while the images grow."""

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


def test_training_costs_what_the_steps_cost_at_their_sizes(imagenet_photos: Path, tmp_path: Path) -> None:
    """Convolutions are all but a thousandth of the cost, which goes by the area, and have one density at a time."""
    values = {**RUN, **GROWING, "data.root": imagenet_photos, "output": tmp_path}
    assert train_here(values).code == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    after = {int(row["step"]): float(density) for row in metrics(tmp_path) if (density := row["sparsity/density"])}
    densities = [*(after[step] for step in range(5)), after[4]]  # the last update is that of step 4
    areas = [side**2 for side in (32, 32, 40, 40, 48, 48)]
    assert len(set(densities)) > 2
    expected = sum(area * density for area, density in zip(areas, densities, strict=True)) / sum(areas)
    unweighted = sum(densities) / len(densities)
    assert abs(expected - unweighted) > 0.02
    assert summary["train_flops_relative"] == pytest.approx(expected, rel=3e-3)
    planned = look_ahead(parse_args(words(values)).config, 1)
    assert planned.training_share == pytest.approx(summary["train_flops_relative"], rel=1e-4)
