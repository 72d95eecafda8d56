"""Short runs in every format: read with the tool that it is for, they are as right on the validation set as the runs were."""

import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import dist_sparse
from dist_sparse import distributed
from dist_sparse.build import load_data
from dist_sparse.config import load_config
from dist_sparse.export.__main__ import main as export
from dist_sparse.export.formats import FORMATS
from dist_sparse.export.loading import read_source
from tests.command import here, metrics, train_here
from tests.values import QUIET, SMALL_RESNET, TINY_VIT

Logits = Callable[[Tensor], Tensor]

COMMON = {**QUIET, **SMALL_RESNET, "train.epochs": 2, "train.batch_size": 128, "optim.lr": 0.05, "scheduler.warmup": "0 steps"}
RUNS: dict[str, dict[str, Any]] = {
    "packed": {
        **COMMON,
        "sparsity.method": "rigl",
        "sparsity.density": 0.2,
        "sparsity.update.interval": "3 steps",
        "execution.storage": "packed",
        "checkpoint.format": "packed",
        "train.ema": 0.5,
    },
    "2:4 of dense weights": {
        **COMMON,
        "sparsity.method": "srste",
        "sparsity.structure": "nm:2:4",
        "sparsity.keep_dense": ["first"],
    },
    "two sub-nets": {
        **COMMON,
        "sparsity.method": "ast",
        "sparsity.ast.structures": ["nm:2:4", "nm:1:4"],
        "sparsity.ast.offset": "1 steps",
        "sparsity.update.interval": "2 steps",
        "sparsity.ramp.end": "12 steps",
        "sparsity.keep_dense": ["first", "last"],
    },
    "a transformer in double precision": {
        **COMMON,
        "model.name": "vit_tiny_patch16_224",
        "model.kwargs": {key: value for key, value in TINY_VIT.items() if key != "img_size"},
        "train.precision": "fp64",
        "sparsity.method": "static",
        "sparsity.density": 0.3,
        "train.epochs": 1,
    },
}
ONE_IMAGE = 1 / 360
"""A share of the validation set: rounding may turn the order of two logits."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Trains each run once, in whatever order tests come."""

    @functools.cache
    def train(name: str) -> Path:
        folder = tmp_path_factory.mktemp("runs") / "run"
        outcome = train_here({**RUNS.get(name, WITH_DEAD_FILTERS), "output": folder})
        assert outcome.code == 0, outcome.err
        return folder

    return train


WITH_DEAD_FILTERS = {**COMMON, "sparsity.method": "static", "sparsity.density": 0.5, "sparsity.structure": "filter"}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest, trained: Callable[[str], Path]) -> Path:
    return trained(request.param)


@pytest.fixture(scope="module")
def validation(trained: Callable[[str], Path]) -> Sequence[tuple[Tensor, Tensor]]:
    """Digits' whole validation set in float32, which all of the runs have."""
    config = load_config(str(trained("packed") / "config.yaml"))
    ranks = distributed.start(config.engine)
    try:
        return [(images, labels) for images, labels, _ in load_data(config, ranks).val]
    finally:
        distributed.stop()


def as_timm(file: Path) -> Logits:
    about = json.loads(file.with_suffix(".json").read_text())
    sizes = {"num_classes": about["classes"], "in_chans": about["channels"]}
    return timm.create_model(about["model"], checkpoint_path=str(file), **sizes, **about["model_kwargs"]).eval()


def as_safetensors(file: Path) -> Logits:
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    sizes = {"num_classes": int(about["classes"]), "in_chans": int(about["channels"])}
    model = timm.create_model(about["model"], **sizes, **json.loads(about["model_kwargs"]))
    model.load_state_dict(load_file(file), strict=True)
    return model.eval()


def as_onnx(file: Path) -> Logits:
    onnx.checker.check_model(onnx.load(file), full_check=True)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.float().numpy()})[0])


def as_program(file: Path) -> Logits:
    return torch.export.load(file).module()


READERS = {
    "timm": as_timm,
    "safetensors": as_safetensors,
    "sparse": dist_sparse.load,
    "onnx": as_onnx,
    "program": as_program,
}


def top1(logits: Logits, batches: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype) -> float:
    if isinstance(logits, nn.Module):
        logits = logits.to(dtype)
    with torch.no_grad():
        right = [logits(images.to(dtype)).argmax(1) == labels for images, labels in batches]
    return torch.cat(right).double().mean().item()


def exported(run: Path, *argv: str) -> list[Path]:
    outcome = here(export, [str(run), "--checkpoint=last", f"--output={run / 'exported'}", "--overwrite", *argv])
    assert outcome.code == 0, outcome.err
    return [Path(line.split("  ")[0]) for line in outcome.out.splitlines() if not line.startswith(" ")]


def accuracies(run: Path) -> list[float]:
    """The run's own, by network."""
    row = [each for each in metrics(run) if each["val/top1"]][-1]
    several = [value for name, value in sorted(row.items()) if name.startswith("val/subnet") and name.endswith("_top1")]
    return [float(each) for each in several or [row["val/top1"]]]


@pytest.mark.parametrize("name", READERS)
def test_accuracy_is_the_run_s(run: Path, validation: Sequence[tuple[Tensor, Tensor]], name: str) -> None:
    files = exported(run, f"--format={name}")
    expected = accuracies(run)
    assert [file.name for file in files] == [f"subnet{number}{FORMATS[name].suffix}" for number in range(1, len(expected) + 1)]
    dtype = torch.float64 if load_config(str(run / "config.yaml")).train.precision == "fp64" else torch.float32
    found = [top1(READERS[name](file), validation, dtype) for file in files]
    assert found == pytest.approx(expected, abs=1.01 * ONE_IMAGE if name == "onnx" else 1e-9)


@pytest.mark.parametrize(
    ("argv", "read"),
    [
        (["--format=shrunk"], dist_sparse.load),
        (["--format=onnx", "--shrink"], as_onnx),
        (["--format=program", "--shrink"], as_program),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_shrunk_networks_are_smaller_and_as_right(
    trained: Callable[[str], Path],
    validation: Sequence[tuple[Tensor, Tensor]],
    argv: list[str],
    read: Callable[[Path], Logits],
) -> None:
    run = trained("dead filters")
    (whole,) = exported(run, argv[0].replace("shrunk", "safetensors"))
    size = whole.stat().st_size  # before a file of the same name takes its place
    (file,) = exported(run, *argv)
    assert file.stat().st_size < 0.9 * size
    assert top1(read(file), validation, torch.float32) == pytest.approx(accuracies(run)[0], abs=1.01 * ONE_IMAGE)


def test_a_shrunk_network_knows_what_it_was_trained_on(trained: Callable[[str], Path]) -> None:
    (file,) = exported(trained("dead filters"), "--format=shrunk")
    model = dist_sparse.load(file)
    assert model.pretrained_cfg["input_size"] == (1, 8, 8) and not model.training  # pyright: ignore[reportIndexIssue, reportArgumentType]
    with pytest.raises(ValueError, match=r"compute='sparse': .* holds a dense network, which was shrunk"):
        dist_sparse.load(file, compute="sparse")


@pytest.mark.parametrize(
    ("name", "argv", "said"),
    [
        ("packed", ["--format=shrunk"], r"--format=shrunk: nothing can be removed .*; --format=sparse makes the file smaller"),
        ("packed", ["--format=onnx", "--shrink"], r"--shrink: nothing can be removed from the network: "),
        ("packed", ["--format=sparse", "--shrink"], r"--shrink goes with --format=onnx or program; --format=shrunk writes"),
    ],
)
def test_what_cannot_shrink_is_told_in_one_line(trained: Callable[[str], Path], name: str, argv: list[str], said: str) -> None:
    outcome = here(export, [str(trained(name)), *argv])
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert re.search(said, outcome.err), outcome.err


def test_averaged_weights(trained: Callable[[str], Path], validation: Sequence[tuple[Tensor, Tensor]]) -> None:
    run = trained("packed")
    (file,) = exported(run, "--format=sparse", "--averaged")
    row = [each for each in metrics(run) if each["val/top1"]][-1]
    assert top1(dist_sparse.load(file), validation, torch.float32) == pytest.approx(float(row["val/ema_top1"]))
    assert row["val/ema_top1"] != row["val/top1"]


def test_sparse_files_are_the_same_to_the_last_bit(run: Path) -> None:
    plain, dense, sparse = (exported(run, f"--format={name}") for name in ("timm", "safetensors", "sparse"))
    for files in zip(plain, dense, sparse, strict=True):
        weights = torch.load(files[0], weights_only=True)
        for model in map(dist_sparse.load, files[1:]):
            state = model.state_dict()
            assert list(state) == list(weights)
            assert all(bits(state[name]) == bits(weights[name]) for name in weights)
            assert not model.training


def test_the_pattern_is_kept_and_told(run: Path) -> None:
    """As TensorRT looks for it: along the input channels."""
    sparsity = load_config(str(run / "config.yaml")).sparsity
    structures = sparsity.ast.structures if sparsity.method == "ast" else [sparsity.structure]
    for file, structure in zip(exported(run, "--format=sparse"), structures, strict=True):
        source = read_source(file)
        assert source.about.structure == structure
        assert source.about.pattern == (structure.removeprefix("nm:") if structure.startswith("nm:") else None)
        weights = dict(source.model.named_parameters())
        for name in source.about.layers if source.about.pattern else ():
            n, m = map(int, source.about.pattern.split(":"))
            groups = weights[name].movedim(1, -1).reshape(-1, m)
            assert 0 < int((groups != 0).sum(1).max()) <= n


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()
