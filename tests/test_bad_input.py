"""What a user can get wrong costs one clear line and exit code 2, and nothing that was there before."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse.checkpoint import CheckpointStore
from tests.command import metrics, train_here
from tests.full_disk import small_disk
from tests.photos import write_photos
from tests.values import QUIET, TINY_VIT

SMALL = {
    **QUIET,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": TINY_VIT,
    "train.epochs": 1,
    "train.batch_size": 256,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "2 steps",
}
"""5 steps."""

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"optim.lrr": 0.1}, "optim.lrr: unknown key (from the command line); did you mean optim.lr"),
    ({"train.epochs": "many"}, "train.epochs=many (from the command line): "),
    ({"train.batch_size": 0}, "train.batch_size=0 (from the command line): "),
    ({"sparsity.density": 1.5}, "sparsity.density=1.5 (from the command line): "),
    ({"sparsity.update.interval": "2 weeks"}, "sparsity.update.interval=2 weeks (from the command line): "),
    (
        {"model.name": "cifar_resnet2O"},
        "model.name='cifar_resnet2O' is unknown; did you mean cifar_resnet",
    ),
    ({"model.kwargs": {"width": "wide"}}, "model.kwargs: vit_tiny_patch16_224 cannot be built with {"),
    ({"data.image_size": 9}, "model.name: vit_tiny_patch16_224 cannot take images of 1x9x9 (data.image_size): "),
    ({"sparsity.method": "rigll"}, "sparsity.method='rigll' is unknown; did you mean rigl"),
    ({"sparsity.structure": "unstructure"}, "sparsity.structure='unstructure' is unknown; did you mean unstructured"),
    ({"sparsity.structure": "block:5x"}, "sparsity.structure='block:5x': a block has two sides"),
    ({"sparsity.structure": "block:4x1"}, "sparsity.structure=block:4x1 does not fit every layer (head.weight: 10 output"),
    ({"sparsity.structure": "block:512x1"}, "sparsity.structure=block:512x1 fits none of the sparse layers; patch_embed.proj."),
    ({"sparsity.structure": "nm:2:4"}, "sparsity.density=0.3 contradicts sparsity.structure=nm:2:4, which is density 0.5"),
    ({"sparsity.structure": "channel"}, "sparsity.structure=channel does not fit every layer (patch_embed.proj.weight: it"),
    ({"sparsity.density": None}, "sparsity.density is needed for method rigl"),
    ({"sparsity.density": 1e-6}, "sparsity.density=1e-06 cannot be reached: layer "),
    ({"sparsity.keep_dense": ["stem.*"]}, "sparsity.keep_dense='stem.*' fits no layer; the layers are patch_embed.proj."),
    ({"sparsity.update.gradient_steps": 3}, "sparsity.update.gradient_steps=3 is longer than the interval of 2 steps"),
    ({"data.name": "digts"}, "data.name='digts' is unknown; did you mean digits? known: digits, mnist, fashion_mnist, "),
    (
        {"train.batch_size": 255, "train.accumulation": 2},
        "train.batch_size=255 does not divide by 1 ranks x 2 accumulation steps; 254 or 256 would",
    ),
    ({"train.batch_size": 4096}, "train.batch_size=4096 is more than the "),
    (
        {"engine.exchange": "masked", "sparsity.method": "dense", "sparsity.density": None, "sparsity.update.interval": None},
        "engine.exchange=masked needs masks, and sparsity.method=dense has none",
    ),
    ({"optim.name": "sdg"}, "optim.name='sdg' is unknown; did you mean sgd"),
    ({"optim.kwargs": {"betas": [0.9, 0.9]}}, "optim.kwargs.betas: sgd takes no such argument"),
    ({"scheduler.name": "cosin"}, "scheduler.name='cosin' is unknown; did you mean cosine"),
    ({"scheduler.warmup": "2 epochs"}, "scheduler.warmup=2 epochs: is 10 steps, the run has only 5"),
    ({"train.mixup": 0.2, "train.batch_size": 255}, "train.mixup and train.cutmix mix samples in pairs"),
    ({"engine.timeout": 1e13}, "engine.timeout=1"),
    ({"name": "a/b"}, "name=a/b (from the command line): should be of letters, digits and _ . - only"),
    ({"scheduler.warmup": "1e308 epochs"}, "scheduler.warmup=1e308 epochs (from the command line): should be at most 1e12"),
    ({"checkpoint.every": 0}, "checkpoint.every=0 (from the command line): should be longer than 0"),
    (
        {"sparsity.method": "mest", "sparsity.mest.keep": [0.2, 0.3], "sparsity.mest.grow_to": [0.3]},
        "sparsity.mest: keep has 2 densities, grow_to 1 and decay 0 lengths",
    ),
    (
        {"sparsity.method": "shuffled_block", "sparsity.shuffled_block.size": 4},
        "sparsity.shuffled_block.size=4 fits no sparse convolution: it must divide the output channels and the columns of the ",
    ),
    (
        {"sparsity.method": "ast", "sparsity.density": None, "sparsity.ast.densities": [0.1, 0.3]},
        "sparsity.ast.densities=[0.1, 0.3] is out of order: each sub-net is sparser than the one before it",
    ),
    ({"sparsity.method": "ast"}, "sparsity.ast needs its sub-nets: sparsity.ast.densities, falling, such as [0.1, 0.05, 0.02]"),
    ({"sparsity.method": "srste"}, "sparsity.structure=unstructured cannot go with sparsity.method=srste: its masks"),
    ({"data.forgetting.remove": 9}, "data.forgetting.remove=9 needs data.forgetting.epochs to count over"),
    ({"resume": "missing.pt"}, "missing.pt: no such checkpoint"),
    ({"output": "/dev/null/run"}, "output=/dev/null/run cannot be written: Not a directory"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "beginning"), MISTAKES, ids=[" ".join(values) for values, _ in MISTAKES])
def test_a_mistake_is_one_line(tmp_path: Path, values: dict[str, Any], beginning: str) -> None:
    outcome = train_here({**SMALL, "output": tmp_path / "run", **values})
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith(f"error: {beginning}")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run" / "config.yaml").exists(), "the corrected command can use the same folder"


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    outcome = train_here({**SMALL, "optim.lrr": 0.1, "train.epochs": -1, "output": tmp_path / "run"})
    assert outcome.code == 2
    assert len(outcome.errors) == 2


def test_an_unreachable_density_comes_with_one_that_can_be_had(tmp_path: Path) -> None:
    (line,) = train_here({**SMALL, "sparsity.density": 1e-6, "output": tmp_path / "low"}).errors
    highest = float(line.split("(density ")[1].split(")")[0])
    assert train_here({**SMALL, "sparsity.density": highest, "output": tmp_path / "reachable"}).code == 0
    assert train_here({**SMALL, "sparsity.density": highest - 1e-4, "output": tmp_path / "unreachable"}).code == 2


FOLDER = {
    **SMALL,
    "data.name": "image_folder",
    "data.workers": 0,
    "data.image_size": 8,
    "data.resize": 8,
    "train.batch_size": 4,
    "tracking.log_every": 1,
}


@pytest.mark.parametrize("missing", ["root", "val", "images", "class"])
def test_missing_images_are_one_line(tmp_path: Path, missing: str) -> None:
    root = tmp_path / "photos"
    if missing != "root":
        write_photos(root)
        (root / "val").rename(tmp_path / "taken")
    if missing == "images":
        (root / "val" / "flower").mkdir(parents=True)
        (root / "val" / "temple").mkdir()
    if missing == "class":
        (root / "val").mkdir()
        (tmp_path / "taken" / "flower").rename(root / "val" / "flower")
    outcome = train_here({**FOLDER, "data.root": root, "output": tmp_path / "run"})
    assert outcome.code == 2
    (line,) = outcome.errors
    assert str(root / ("train" if missing == "root" else "val")) in line


def test_a_missing_data_set_is_one_line(tmp_path: Path) -> None:
    outcome = train_here({**SMALL, "data.name": "cifar10", "data.root": tmp_path, "output": tmp_path / "run"})
    assert outcome.code == 2
    (line,) = outcome.errors
    assert str(tmp_path) in line
    assert "data.download=true" in line


@pytest.mark.parametrize("mode", ["stop", "skip"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_corrupt_image_is_named(tmp_path: Path, split: str, mode: str) -> None:
    root = write_photos(tmp_path / "photos")
    bad = root / split / "flower" / "2.JPEG"
    bad.write_bytes(bad.read_bytes()[:300])
    outcome = train_here({**FOLDER, "data.root": root, "data.bad_images": mode, "output": tmp_path / "run"})
    if mode == "stop":
        assert outcome.code == 2
        (line,) = outcome.errors
        assert line.startswith(f"{bad} cannot be decoded (")
        assert "data.bad_images=skip" in line
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"].startswith("stopped: ")
    else:
        assert outcome.code == 0
        assert outcome.err.count(f"{bad} cannot be decoded (") == 1


def test_a_foreign_checkpoint_is_one_line(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "foreign.pt")
    outcome = train_here({**SMALL, "resume": tmp_path / "foreign.pt", "output": tmp_path / "run"})
    assert outcome.code == 2
    (line,) = outcome.errors
    assert line.startswith(f"{tmp_path / 'foreign.pt'}: not a checkpoint of this program")


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    values = {
        **SMALL,
        "optim.lr": 1e30,
        "train.epochs": 4,
        "train.nan_limit": 3,
        "checkpoint.every": "1 steps",
        "output": tmp_path,
    }
    outcome = train_here(values)
    assert outcome.code == 2
    (line,) = outcome.errors
    assert re.match(r"the loss has not been finite for \d+ steps in a row, up to step ", line)
    good = sorted((tmp_path / "checkpoints").glob("step_*.pt"))
    assert f"the last good checkpoint is {good[-1]};" in line
    for path in good:
        assert all(weight.isfinite().all() for weight in CheckpointStore.load(path)["state_dict"].values())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["exit_reason"] == "diverged"
    assert summary["steps"] < 20


def test_a_full_disk_does_not_end_the_run(tmp_path: Path) -> None:
    """There is room for the first checkpoint and not for the second, which is the last: the run is made, but not finished."""
    values = {**SMALL, "train.epochs": 2, "checkpoint.every": "5 steps", "output": tmp_path / "spacious"}
    assert train_here(values).code == 0
    size = max(path.stat().st_size for path in (tmp_path / "spacious" / "checkpoints").iterdir())
    with small_disk(tmp_path / "disk", size * 3 // 2 + 50_000) as disk:
        outcome = train_here({**values, "output": disk / "run"})
        assert outcome.code == 1
        assert "WARNING: no checkpoint at step 10: " in outcome.err
        (line,) = outcome.errors
        assert line.startswith("the last checkpoint could not be written: ")
        assert "No space left on device" in outcome.err
        assert [path.name for path in sorted((disk / "run" / "checkpoints").glob("*.pt"))] == ["best.pt", "step_00000005.pt"]
        assert metrics(disk / "run") == metrics(tmp_path / "spacious")
