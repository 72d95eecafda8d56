"""--smoke as a user meets it: what it shortens, and what stands in for data that is not there."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse.config import load_config
from dist_sparse.data.forgetting import Ranking
from dist_sparse.plan.outlook import look_ahead
from dist_sparse.smoke import shortened
from dist_sparse.train import main
from tests.command import here, metrics, words
from tests.photos import write_photos
from tests.shipped_configs import CONFIGS

NARROW = {"model.kwargs": {"channels": [16, 16, 16, 16], "layers": [1, 1, 1, 1]}, "data.workers": 0, "engine.device": "cpu"}


def smoke(values: dict[str, Any], folder: Path) -> tuple[str, list[dict[str, str]]]:
    """The first line of a smoke run and its metrics."""
    outcome = here(main, ["--smoke", *words({**values, "output": folder})])
    assert (outcome.code, outcome.errors) == (0, [])
    return outcome.out.partition("\n")[0], metrics(folder.with_name(f"{folder.name}-smoke"))


def test_random_images_stand_in_for_missing_ones(tmp_path: Path) -> None:
    values = {"config": CONFIGS / "imagenet/resnet50/rigl_20.yaml", "data.root": tmp_path / "none", **NARROW}
    first, rows = smoke(values, tmp_path / "run")
    assert first == (
        "smoke run of imagenet-resnet50-rigl_20: 2 epochs of a few steps of 2 images each (random ones, since "
        f"{tmp_path / 'none'} does not hold image_folder); neither accuracy nor time mean anything"
    )
    assert [row["step"] for row in rows if row["sparsity/changed"]] == ["2", "4", "6"]


def test_weights_that_are_not_there_are_done_without(tmp_path: Path) -> None:
    """Neither the hub nor a run that would have to be trained first is asked for; what is there is used."""
    pretrained = {"config": CONFIGS / "imagenet/finetune/one_shot_10.yaml", "data.root": tmp_path / "none", **NARROW}
    first, _ = smoke(pretrained, tmp_path / "pretrained")
    assert "does not hold image_folder), from new weights instead of pretrained ones; neither accuracy nor" in first
    file = {"config": CONFIGS / "digits/static.yaml", "engine.device": "cpu", "model.checkpoint": tmp_path / "pretrained-smoke"}
    (line,) = here(main, ["--smoke", *words({**file, "output": tmp_path / "other"})]).errors
    assert "does not fit " in line
    first, _ = smoke({**file, "model.checkpoint": tmp_path / "missing.pth"}, tmp_path / "missing")
    assert f"of 2 images each (of digits), from new weights instead of {tmp_path / 'missing.pth'}; neither" in first
    masks = {**file, "model.checkpoint": tmp_path / "missing.pth", "sparsity.init": "checkpoint", "output": tmp_path / "masks"}
    assert here(main, ["--smoke", *words(masks)]).errors == [f"model.checkpoint={tmp_path / 'missing.pth'}: no such file"]


def test_images_that_are_there_are_used(tmp_path: Path) -> None:
    values = {"config": CONFIGS / "imagenet/resnet50/gmp_20.yaml", "data.root": write_photos(tmp_path / "photos"), **NARROW}
    first, rows = smoke(values, tmp_path / "run")
    assert "of 2 images each (of image_folder); " in first
    assert float(rows[-1]["sparsity/density"]) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("file", ["imagenet/resnet50/dense", "imagenet/resnet50/rigl_5x_10", "cifar10/ast", "digits/mest_ems"])
@pytest.mark.parametrize("ranks", [1, 8, 64])
def test_a_smoke_run_is_short_on_any_number_of_ranks(file: str, ranks: int) -> None:
    config = load_config(str(CONFIGS / f"{file}.yaml"), {"data.root": "/nowhere"})
    short = shortened(config, ranks, data_is_there=False)
    ahead = look_ahead(short, ranks)
    assert 10 <= len(ahead.made) <= 24
    assert short.train.batch_size == 2 * ranks * short.train.accumulation
    assert bool(ahead.update_steps) == (config.sparsity.method != "dense")
    assert short.name == f"{config.name}-smoke"


def test_a_smoke_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """As the tasks of a Slurm array do, which pass --resume=auto: one that is submitted twice has nothing to do."""
    words = ["--smoke", f"--config={CONFIGS / 'digits/set.yaml'}", f"--output={tmp_path / 'run'}", "--engine.device=cpu"]
    assert here(main, words).code == 0
    again = here(main, words)
    assert (again.code, len(again.errors)) == (2, 1)
    assert "already holds a run: resume=auto goes on with it" in again.errors[0]
    third = here(main, [*words, "--resume=auto"])
    assert (third.code, third.errors) == (0, [])
    assert "is finished, nothing is left to do" in third.out
    path = here(main, [*words, f"--resume={tmp_path}/x.pt"])
    assert (path.code, len(path.errors)) == (2, 1)


def test_lengths_keep_their_share_of_the_run() -> None:
    """Ten steps are left of 120 steps an epoch and 100 epochs."""
    config = load_config(str(CONFIGS / "imagenet/resnet50/granet_from_50_10.yaml"), {"data.root": "/nowhere"})
    short = shortened(config, 2, data_is_there=False)
    assert [str(each) for each in short.scheduler.milestones] == ["3 steps", "6 steps", "9 steps"]
    assert str(short.sparsity.ramp.end) == "3 steps"
    assert str(short.sparsity.update.interval) == "2 steps"
    assert (short.model, short.sparsity.density, short.train.precision) == (config.model, 0.1, "bf16")
    assert short.tracking.wandb == "disabled"


SIZES = {"data.progressive.start_size": 128, "data.progressive.start": "20%", "data.eval_size": 288, "data.min_scale": 0.25}


@pytest.mark.parametrize("there", [True, False])
def test_sizes_of_folders_shrink_or_go(tmp_path: Path, there: bool) -> None:
    root = write_photos(tmp_path / "photos") if there else tmp_path / "none"
    values = {"config": CONFIGS / "imagenet/resnet50/rigl_20.yaml", "data.root": root, **NARROW, **SIZES}
    smoke(values, tmp_path / "run")
    data = load_config(str(tmp_path / "run-smoke" / "config.yaml")).data
    sides = (data.image_size, data.eval_size, data.resize, data.progressive.start_size)
    assert sides == ((64, 96, 96, 32) if there else (64, None, None, None))


@pytest.mark.parametrize(
    ("keys", "forgetting"), [({}, (1, 1)), ({"train.mixup": 0.2}, (0, 0)), ({"data.repeated_augment": 2}, (0, 0))]
)
def test_a_ranking_of_the_whole_set_is_not_of_the_few_samples_left(
    tmp_path: Path, keys: dict[str, Any], forgetting: tuple[int, int]
) -> None:
    """The run counts for itself, unless its keys do not go with counting."""
    Ranking(data="digits", counts=torch.zeros(1_437, dtype=torch.int16)).save(tmp_path / "forgetting.pt")
    keys = {"data.forgetting.ranking": tmp_path / "forgetting.pt", "data.forgetting.remove": 150, **keys}
    smoke({"config": CONFIGS / "digits/mest_ems.yaml", "engine.device": "cpu", **keys}, tmp_path / "run")
    data = load_config(str(tmp_path / "run-smoke" / "config.yaml")).data
    assert (data.forgetting.epochs, data.forgetting.remove, data.forgetting.ranking) == (*forgetting, None)
