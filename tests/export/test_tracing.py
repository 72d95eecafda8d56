"""Networks that cannot be followed, or whose translation computes something else, are told in one line and not written."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from dist_sparse.errors import Incomplete, UserError
from dist_sparse.export import tracing
from dist_sparse.export.formats import find
from dist_sparse.export.onnx_session import Session
from tests.export.networks import masked, source_of


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32 * 32, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.fc(images.flatten(1))
        return logits if logits.sum() > 0 else -logits


class Eigenvalues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * torch.linalg.eigvals(images[:, 0, :3, :3]).real


class Linear(Branching):
    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.flatten(1))


class OneBatch(Eigenvalues):
    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.flatten(1)[:, :3] + torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("name", "model", "named"),
    [
        ("program", Branching(), ", return logits if logits.sum() > 0 else -logits"),
        ("onnx", Branching(), ", return logits if logits.sum() > 0 else -logits"),
        ("onnx", Eigenvalues(), "aten.linalg_eig"),
        ("program", OneBatch(), "batch"),
    ],
)
def test_what_cannot_be_followed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, model: nn.Module, named: str
) -> None:
    with pytest.raises(UserError) as caught:
        find(name).load()(source_of(model), tmp_path / "file")
    line = str(caught.value)
    assert line.startswith(f"--format={name}: resnet18 cannot be followed: ")
    assert named in line and line.endswith("; --format=timm, safetensors and sparse need no graph") and "\n" not in line
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["program", "onnx"])
def test_other_outputs_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A translation that does something else, here with another network in the place of the one that was traced."""
    traced, other = tracing.trace(source_of(Linear()), name), source_of(Linear())
    monkeypatch.setattr(f"dist_sparse.export.formats.{name}.trace", lambda *_: traced)
    with pytest.raises(Incomplete, match=r"differs from the network by .* on a batch of 1; nothing is written"):
        find(name).load()(other, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_onnx_says_what_it_holds_and_keeps_zeros(tmp_path: Path) -> None:
    source = masked(structure="nm:2:4", pattern="2:4")
    lines = find("onnx").load()(source, tmp_path / "net.onnx")
    assert lines[0].startswith("ONNX Runtime differs from the network by at most ")
    assert lines[1].startswith("ONNX Runtime takes ") and lines[1].endswith(" for one image")
    model = onnx.load(tmp_path / "net.onnx")
    facts = {each.key: each.value for each in model.metadata_props}
    assert facts == source.about.as_texts() == Session(tmp_path / "net.onnx").metadata
    assert (facts["pattern"], facts["class_names"], facts["step"]) == ("2:4", '["cat", "dog", "café"]', "7")
    kernels = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer if len(each.dims) == 4]
    weights = dict(source.model.named_parameters())
    active = [(weights[name] != 0).numpy().tobytes() for name in source.masks]
    assert sorted((kernel != 0).tobytes() for kernel in kernels) == sorted(active)
