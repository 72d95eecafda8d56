"""What `python -m dist_sparse.export` is asked for and cannot do is one line; files that exist are kept."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dist_sparse.export.__main__ import main as export
from dist_sparse.export.formats import FORMATS
from tests.command import ROOT, Outcome, here, train_here
from tests.values import QUIET, TINY_VIT

STATIC = {
    **QUIET,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": TINY_VIT,
    "train.epochs": 1,
    "train.batch_size": 479,
    "sparsity.method": "static",
    "sparsity.density": 0.3,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train_here({**STATIC, "output": folder}).code == 0
    return folder


def refusal(outcome: Outcome) -> str:
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    return line.removeprefix("error: ")


def test_an_unknown_format_is_told_the_known_ones(run: Path) -> None:
    line = "--format=onx is unknown; did you mean onnx? known: timm, safetensors, sparse, shrunk, onnx, program"
    assert refusal(here(export, [str(run), "--format=onx"])).startswith(line)


@pytest.mark.parametrize("name", FORMATS)
def test_a_run_without_checkpoints(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    line = refusal(here(export, [str(tmp_path / "run"), f"--format={name}"]))
    assert line == f"{tmp_path / 'run' / 'checkpoints'} holds no best checkpoint"


@pytest.mark.parametrize("name", ["timm", "sparse"])
def test_a_file_that_exists_is_kept(run: Path, tmp_path: Path, name: str) -> None:
    argv, (first, *_) = [str(run), f"--format={name}", f"--output={tmp_path}"], FORMATS[name].beside or (FORMATS[name].suffix,)
    file = tmp_path / f"subnet1{first}"
    file.write_text("mine")
    assert refusal(here(export, argv)) == f"{file} exists already; --overwrite replaces it"
    assert file.read_text() == "mine" and [each.name for each in tmp_path.iterdir()] == [file.name]
    outcome = here(export, [*argv, "--overwrite"])
    assert outcome.code == 0 and f"{tmp_path}/subnet1{FORMATS[name].suffix}  density 30." in outcome.out
    assert file.read_bytes() != b"mine"


def test_the_output_may_be_the_file(run: Path, tmp_path: Path) -> None:
    for name, file in (("timm", "new/net.pt"), ("sparse", "net.safetensors"), ("timm", "folder")):
        assert here(export, [str(run), f"--format={name}", f"--output={tmp_path / file}"]).code == 0
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"new/net.pt", "new/net.json", "net.safetensors", "folder/subnet1.pt", "folder/subnet1.json"}
    torch.load(tmp_path / "new/net.pt", weights_only=True)


@pytest.mark.parametrize("name", FORMATS)
def test_an_output_that_cannot_be_written(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "below"
    line = refusal(here(export, [str(run), f"--format={name}", f"--output={output}"]))
    assert line == f"--output={output} cannot be written: Not a directory"


def test_a_missing_extra_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    line = refusal(here(export, [str(run), "--format=onnx", f"--output={tmp_path}"]))
    assert line == "--format=onnx needs onnx and onnxruntime, not installed here: pip install dist_sparse[export]"
    assert list(tmp_path.iterdir()) == []


def test_heavy_packages_wait_until_they_are_needed() -> None:
    program = (
        "import sys, dist_sparse, dist_sparse.export.__main__, dist_sparse.latency.__main__;"
        "print({'torch', 'numpy', 'timm', 'onnx', 'pydantic'} & sys.modules.keys(), hasattr(dist_sparse, 'lod'))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == ("set() False\n", "")
