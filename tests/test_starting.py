"""``model.checkpoint``: every form in which weights come, what does not fit, and that a run needs the file only once."""

import argparse
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dist_sparse import evaluate
from dist_sparse.build import load_model
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.config import load_config
from dist_sparse.data import DataInfo
from dist_sparse.engines.precision import Precision
from dist_sparse.errors import UserError
from dist_sparse.export import __main__ as export
from tests.command import Outcome, here, train_here
from tests.values import QUIET

SMALL: dict[str, Any] = {
    **QUIET,
    "model.name": "cifar_resnet20",
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "data.limit": 256,
    "train.epochs": 2,
    "train.batch_size": 64,
    "sparsity.method": "static",
    "sparsity.density": 0.3,
    "sparsity.init": "magnitude",
}
"""8 steps."""


def network(classes: int = 10, name: str = "cifar_resnet20", **kwargs: Any) -> nn.Module:
    kwargs = kwargs or {"width": 0.25, "blocks": 1}
    torch.manual_seed(7)
    model = timm.create_model(name, num_classes=classes, in_chans=1, **kwargs)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return model


def weights(classes: int = 10) -> dict[str, Tensor]:
    return network(classes).state_dict()


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in weights().items()}


def start(path: object, **values: Any) -> nn.Module:
    config = load_config(None, {**SMALL, "model.checkpoint": str(path), **values})
    info = DataInfo("digits", 10, 1, 8, 1437, 360)
    return load_model(config, info, Precision(device=torch.device("cpu")))


def assert_equal(model: nn.Module, expected: dict[str, Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


OTHER = {name: tensor + 1 for name, tensor in weights().items()}
FORMS: dict[str, Callable[[Path], object]] = {
    "a state dict": lambda path: torch.save(weights(), path),
    "the old format of torch": lambda path: torch.save(weights(), path, _use_new_zipfile_serialization=False),
    "of DDP": lambda path: torch.save(prefixed("module."), path),
    "compiled": lambda path: torch.save(prefixed("_orig_mod."), path),
    "DDP, compiled": lambda path: torch.save(prefixed("_orig_mod.module."), path),
    "compiled, DDP": lambda path: torch.save(prefixed("module._orig_mod."), path),
    "below state_dict": lambda path: torch.save({"epoch": 3, "state_dict": weights()}, path),
    "below model": lambda path: torch.save({"model": weights(), "args": argparse.Namespace(lr=0.1)}, path),
    "state_dict_ema before state_dict": lambda path: torch.save({"state_dict": OTHER, "state_dict_ema": weights()}, path),
    "model_ema before model": lambda path: torch.save({"model": OTHER, "model_ema": weights()}, path),
    "in fp16": lambda path: torch.save(
        {name: each.half() if each.is_floating_point() else each for name, each in weights().items()}, path
    ),
    "without the batches counted": lambda path: torch.save(
        {name: each for name, each in weights().items() if "num_batches" not in name}, path
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FORMS[form](tmp_path / "file.pth")
    with caplog.at_level(logging.WARNING):
        model = start(tmp_path / "file.pth")
    expected = {
        name: each.half().float() if form == "in fp16" and each.is_floating_point() else each
        for name, each in weights().items()
    }
    assert_equal(model, expected)
    assert model.training
    assert caplog.messages == []


def test_safetensors(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "model.safetensors")
    assert_equal(start(tmp_path / "model.safetensors"), weights())


def test_torchvision(tmp_path: Path) -> None:
    import torchvision

    theirs = torchvision.models.resnet18(num_classes=10).state_dict()
    torch.save(theirs, tmp_path / "resnet18.pth")
    config = load_config(
        None, {**SMALL, "model.name": "resnet18", "model.kwargs": {}, "model.checkpoint": str(tmp_path / "resnet18.pth")}
    )
    model = load_model(config, DataInfo("image_folder", 10, 3, 32, 9, 9), Precision(device=torch.device("cpu")))
    assert_equal(model, theirs)


def test_positions_are_fitted_to_another_image_size(tmp_path: Path) -> None:
    vit = {"embed_dim": 12, "depth": 1, "num_heads": 1, "patch_size": 4}
    theirs = network(name="vit_tiny_patch16_224", img_size=16, **vit).state_dict()
    torch.save(theirs, tmp_path / "vit.pth")
    model = start(tmp_path / "vit.pth", **{"model.name": "vit_tiny_patch16_224", "model.kwargs": vit})
    assert model.state_dict()["pos_embed"].shape == (1, 5, 12)
    assert torch.equal(model.state_dict()["head.weight"], theirs["head.weight"])


@pytest.mark.parametrize("classes", [3, 0])
def test_a_classifier_of_another_size_begins_anew(classes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = weights(classes)
    torch.save(theirs, tmp_path / "file.pth")
    fresh = start_fresh().state_dict()
    model = start(tmp_path / "file.pth").state_dict()
    assert torch.equal(model["fc.weight"], fresh["fc.weight"])
    assert torch.equal(model["conv1.weight"], theirs["conv1.weight"])
    (line,) = caplog.messages
    assert line.startswith(f"model.checkpoint={tmp_path / 'file.pth'}: the classifier begins anew: fc.bias ")


def start_fresh() -> nn.Module:
    return load_model(load_config(None, SMALL), DataInfo("digits", 10, 1, 8, 1437, 360), Precision(device=torch.device("cpu")))


def broken(path: Path) -> None:
    torch.save(weights(), path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = max(archive.infolist(), key=lambda each: each.file_size)
    data[info.header_offset + 200] ^= 0xFF
    path.write_bytes(data)


def code(path: Path) -> None:
    torch.save({"state_dict": weights(), "hook": Path}, path)


MISFITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.touch(), "not a sound file of weights: "),
    "a folder": (lambda path: path.mkdir(), "neither a file of weights nor the folder of a run: "),
    "a text": (lambda path: path.write_text("weights"), "not a sound file of weights: "),
    "damaged": (broken, "not a sound file of weights: checksum of "),
    "runs code": (code, "not a sound file of weights: weights_only=True blocked loading this checkpoint"),
    "a list": (lambda path: torch.save([1], path), "not a sound file of weights: "),
    "no weights": (lambda path: torch.save({"epoch": 3}, path), "not a state dict, nor one under state_dict, model, "),
    "another width": (
        lambda path: torch.save(network(width=0.5, blocks=1).state_dict(), path),
        "does not fit cifar_resnet20: of another shape or type: conv1.weight [8, 1, 3, 3] float32 instead of ",
    ),
    "another network": (
        lambda path: torch.save({"stem.weight": torch.zeros(3), **weights()}, path),
        "does not fit cifar_resnet20: not of this model: stem.weight",
    ),
    "a part": (
        lambda path: torch.save({"conv1.weight": weights()["conv1.weight"]}, path),
        "does not fit cifar_resnet20: missing: ",
    ),
    "not finite": (
        lambda path: torch.save({**weights(), "fc.bias": torch.full((10,), float("nan"))}, path),
        "not all values are finite in fc.bias",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISFITS)
def test_what_is_wrong_is_one_line(kind: str, tmp_path: Path) -> None:
    make, reason = MISFITS[kind]
    make(tmp_path / "file.pth")
    with pytest.raises(UserError) as caught:
        start(tmp_path / "file.pth")
    assert str(caught.value).startswith(f"model.checkpoint={tmp_path / 'file.pth'}")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pretrained_beside_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.pretrained and model\.checkpoint=file\.pth exclude each other"):
        load_config(None, {"model.pretrained": True, "model.checkpoint": "file.pth"})


def run(**values: Any) -> Outcome:
    outcome = train_here({**SMALL, **values})
    assert outcome.code == 0, outcome.err
    return outcome


def test_a_run_needs_the_file_only_once(tmp_path: Path) -> None:
    file, folder = tmp_path / "dense.pth", tmp_path / "run"
    torch.save(weights(), file)
    whole = {"model.checkpoint": file, "output": tmp_path / "whole"}
    run(**whole)
    assert train_here({**SMALL, **whole, "output": folder}, interrupt_after=4).code == 130
    file.unlink()
    run(**{**whole, "output": folder, "resume": "auto"})
    rows = [(path / "metrics.csv").read_text().splitlines()[-1].split(",")[1] for path in (tmp_path / "whole", folder)]
    assert rows[0] == rows[1]
    assert f"checkpoint: {file}" in (folder / "config.yaml").read_text()
    assert here(evaluate.main, [str(folder)]).code == 0
    assert here(export.main, [str(folder), f"--output={tmp_path}"]).code == 0
    outcome = train_here({**SMALL, **whole, "output": tmp_path / "new"})
    assert (outcome.code, outcome.errors) == (2, [f"model.checkpoint={file}: no such file"])
    assert not (tmp_path / "new").exists()


def test_masks_by_magnitude_are_those_of_the_weights_in_the_file(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "dense.pth")
    values = {"model.checkpoint": tmp_path / "dense.pth", "sparsity.distribution": "uniform", "optim.lr": 1e-6}
    run(**values, output=tmp_path / "run")
    state = CheckpointStore.load(tmp_path / "run" / "checkpoints" / "step_00000008.pt")
    for name, given in weights().items():
        if name not in state["method"]["masks"]:
            continue
        kept = state["state_dict"][name] != 0
        threshold = given.abs().flatten().sort(descending=True).values[int(kept.sum()) - 1]
        assert torch.equal(kept, given.abs() >= threshold), name


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_run_starts_from_the_best_of_another(tmp_path: Path, ema: float | None) -> None:
    run(**{"output": tmp_path / "first", "train.ema": ema})
    state = CheckpointStore.load(tmp_path / "first" / "checkpoints" / "best.pt")
    expected = state["state_dict_ema" if ema else "state_dict"]
    assert_equal(start(tmp_path / "first"), expected)
    assert_equal(start(tmp_path / "first" / "checkpoints" / "best.pt"), expected)
    assert json.loads((tmp_path / "first" / "summary.json").read_text())["density"] < 0.4


def test_an_exported_sparse_file(tmp_path: Path) -> None:
    """Bits and values are unpacked, to the weights that the run's checkpoint has."""
    assert train_here({**SMALL, "output": tmp_path / "run"}).code == 0
    words = [str(tmp_path / "run"), "--format=sparse", "--checkpoint=last", f"--output={tmp_path / 'net.safetensors'}"]
    outcome = here(export.main, words)
    assert outcome.code == 0, outcome.err
    config = load_config(None, {**SMALL, "model.checkpoint": str(tmp_path / "net.safetensors")})
    info = DataInfo("digits", 10, 1, 8, 1_437, 360)
    model = load_model(config, info, Precision(name="fp32", device=torch.device("cpu")))
    expected = CheckpointStore.load(tmp_path / "run" / "checkpoints" / "step_00000008.pt")["state_dict"]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
    other = train_here({**SMALL, "model.kwargs": {"width": 0.5, "blocks": 1}, "model.checkpoint": tmp_path / "net.safetensors"})
    assert other.code == 2
    assert len(other.errors) == 1 and "does not fit" in other.errors[0]


def test_a_name_on_the_hub_that_is_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit, folder = "0" * 40, tmp_path / "models--us--net"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    expected = weights()
    save_file(expected, snapshot / "model.safetensors")
    config = load_config(None, {**SMALL, "model.checkpoint": "hf-hub:us/net"})
    info = DataInfo("digits", 10, 1, 8, 1_437, 360)
    model = load_model(config, info, Precision(name="fp32", device=torch.device("cpu")))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_the_hub_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    outcome = train_here({**SMALL, "model.checkpoint": "hf-hub:nobody/no_such_network", "output": tmp_path / "run"})
    assert outcome.code == 2
    (line,) = outcome.errors
    assert line.startswith("model.checkpoint=hf-hub:nobody/no_such_network: cannot be fetched: ")
