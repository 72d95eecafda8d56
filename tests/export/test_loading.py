"""`dist_sparse.load`: the network that was written, or one line about what is wrong with the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import dist_sparse
from dist_sparse.errors import UserError
from dist_sparse.export.formats import find
from dist_sparse.export.loading import compute_sparsely, read_source
from dist_sparse.sparsity.distributions import allocate, erdos_renyi
from dist_sparse.sparsity.layers import sparse_layers
from dist_sparse.sparsity.structures import Unstructured
from dist_sparse.tensor_file import digest
from tests.export.networks import masked, source_of

SPARSE = ["sparse", "safetensors"]


def written(folder: Path, name: str, **facts: object) -> Path:
    file = folder / "net.safetensors"
    find(name).load()(masked(**facts), file)
    return file


@pytest.mark.parametrize("name", SPARSE)
def test_a_loaded_network_is_timm_s_with_what_it_is_for(tmp_path: Path, name: str) -> None:
    resizing = {"interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "squash"}
    source, file = masked(**resizing), written(tmp_path, name, **resizing)
    model = dist_sparse.load(str(file))
    assert resizing.items() <= timm.data.resolve_model_data_config(model).items()
    assert type(model) is timm.models.ResNet and not model.training
    assert timm.data.resolve_model_data_config(model)["input_size"] == (1, 32, 32)
    assert timm.data.resolve_model_data_config(model)["mean"] == (0.5,)
    assert model.pretrained_cfg["label_names"] == ("cat", "dog", "café")
    assert torch.equal(model(source.images(3)), source.model(source.images(3)))
    again = read_source(file)
    assert again.about == source.about
    for key, mask in source.masks.items():
        values = dict(source.model.named_parameters())[key] != 0
        assert torch.equal(again.masks[key], mask if name == "sparse" else values)


@pytest.mark.parametrize(
    ("facts", "crop"),
    [({}, 1.0), ({"crop_pct": 0.875}, 0.875), ({"mean": None, "std": None}, 0.95)],
    ids=["small", "folder", "old"],
)
def test_images_are_resized_as_the_run_s_and_not_as_the_name_s(tmp_path: Path, facts: dict[str, Any], crop: float) -> None:
    """Those of a small set are not: timm's resnet18 would cut 32 pixels out of 33, or resize to 288 in a test.

    A file that tells nothing of the images, not even the mean, leaves timm's.
    """
    model = dist_sparse.load(written(tmp_path, "sparse", **facts))
    for test in (False, True):
        resolved = timm.data.resolve_model_data_config(model, use_test_size=test)
        assert (resolved["input_size"], resolved["crop_pct"]) == ((1, 32, 32), crop)


@pytest.mark.parametrize("name", SPARSE)
def test_active_weights_alone_give_the_same_logits(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, name, channels=1)
    dense, sparse, images = dist_sparse.load(file), dist_sparse.load(file, compute="sparse"), masked().images(5)
    assert {type(module).__name__ for module in sparse.modules()} > {"SparseConv2d"}
    with torch.no_grad():
        torch.testing.assert_close(sparse(images), dense(images), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(each, dense.state_dict()[key]) for key, each in sparse.state_dict().items())


def test_what_cannot_be_computed_sparsely(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    find("safetensors").load()(source_of(), file)
    with pytest.raises(UserError, match=r"^compute='sparse': no layer has a mask; compute='dense' takes it$"):
        dist_sparse.load(file, compute="sparse")
    with pytest.raises(UserError, match=r"^compute='fast': should be dense or sparse$"):
        dist_sparse.load(file, compute="fast")  # pyright: ignore[reportArgumentType]
    source = source_of()
    assert compute_sparsely(source.model, source).current is None


def test_the_layout_is_the_published_one(tmp_path: Path) -> None:
    """Read here by nothing but NumPy, as the documentation of compressed-tensors has it."""
    source, tensors = masked(), load_file(written(tmp_path, "sparse"))
    for name, mask in source.masks.items():
        layer, weight = name.removesuffix(".weight"), dict(source.model.named_parameters())[name].detach().flatten(1).numpy()
        rows, columns = tensors[f"{layer}.shape"].tolist()
        bits = np.unpackbits(tensors[f"{layer}.bitmask"].numpy(), axis=-1, count=columns, bitorder="little")
        values, offsets = tensors[f"{layer}.compressed"].numpy(), tensors[f"{layer}.row_offsets"].numpy()
        assert np.array_equal(bits.astype(bool), mask.flatten(1).numpy()) and weight.shape == (rows, columns)
        for row in range(rows):
            kept = bits[row].astype(bool)
            assert np.array_equal(values[offsets[row] :][: kept.sum()], weight[row][kept])


def test_resnet50_at_density_0_1_takes_17_megabytes_at_most(tmp_path: Path) -> None:
    about = {"model": "resnet50", "model_kwargs": {}, "classes": 1000, "class_names": None, "channels": 3, "image_size": 224}
    model = source_of(**about).model
    shapes = {name: each.shape for name, each in sparse_layers(model, []).items()}
    units, generator = allocate(shapes, erdos_renyi(shapes, 0.1), Unstructured()), torch.Generator().manual_seed(0)
    masks = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for name, mask in masks.items():
        mask.view(-1)[torch.randperm(mask.numel(), generator=generator)[: units[name]]] = True
    source = source_of(model, masks, **about)
    assert source.about.density == pytest.approx(0.1, abs=1e-4)
    (line,) = find("sparse").load()(source, tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").stat().st_size <= 17e6
    assert line == "0.14 of the 102.44 MB that all weights take"
    loaded = dist_sparse.load(tmp_path / "net.safetensors").state_dict()
    assert all(torch.equal(each, loaded[name]) for name, each in source.model.state_dict().items())


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def no_file(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def text(file: Path) -> None:
    file.write_text("weights")


def another_program_s(file: Path) -> None:
    save_file({"weight": torch.ones(3)}, file)


def rewritten(change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> Callable[[Path], None]:
    """Tensors and metadata changed by somebody who keeps the digest right."""

    def rewrite(file: Path) -> None:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        change(tensors := load_file(file), metadata)
        metadata["digest"] = digest(
            tensors, {name: text for name, text in metadata.items() if name not in ("digest", "format")}
        )
        save_file(tensors, file, metadata)

    return rewrite


def more_bits(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
    tensors["conv1.bitmask"][0] = 255


def padded(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
    tensors["conv1.bitmask"][:, -1] |= 128


def without(name: str) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    return lambda tensors, _: tensors.__delitem__(name)


def metadata(**values: str) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    return lambda _, metadata: metadata.update(values)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_file, ": no such file"),
        (a_folder, ": cannot be read: is a folder, not a file"),
        (text, ": not a sound safetensors file: "),
        (cut, ": not a sound safetensors file: "),
        (flip, ": damaged: its contents are not those that were written"),
        (another_program_s, ": not written by `python -m dist_sparse.export`: its metadata lack model, model_kwargs, classes"),
        (rewritten(more_bits), ": damaged: 'conv1."),
        (rewritten(padded), ": damaged: 'conv1.bitmask' has bits beyond its 49 columns"),
        (rewritten(without("layer1.0.conv1.compressed")), ": damaged: 'layer1.0.conv1.compressed' is missing"),
        (rewritten(without("fc.bias")), " does not fit the run's model: missing: fc.bias"),
        (rewritten(metadata(classes='"many"')), ": 'classes' cannot be used: "),
        (rewritten(metadata(classes="{")), ": metadata 'classes': not readable as JSON: "),
        (rewritten(metadata(classes="4")), " does not fit the run's model: of another shape or type: fc.weight"),
        (rewritten(metadata(layers=json.dumps({"fc.scale": 3}))), ": 'fc.scale' is no weight of resnet18"),
        (
            rewritten(metadata(layout="columns")),
            ": layout 'columns' is unknown to this version",
        ),
        (rewritten(metadata(dtype="int4")), "weights of int4 are unknown to this version, which knows float32, float64"),
        (rewritten(metadata(model="hf-hub:somebody/net")), "model.name='hf-hub:somebody/net' is unknown; "),
        (rewritten(metadata(model_kwargs='{"checkpoint_path": "/x"}')), "model.kwargs: checkpoint_path cannot be given"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(file := written(tmp_path, "sparse"))
    with pytest.raises(UserError) as caught:
        dist_sparse.load(file)
    line = str(caught.value)
    assert "\n" not in line
    assert said in line if not said.startswith((":", " ")) else line.startswith(f"{file}{said}"), line
