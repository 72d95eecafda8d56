"""`python -m dist_sparse.latency`: a row for each way and batch, and a line about a way that cannot be had."""

import re
import sys
from pathlib import Path

import pytest
import torch

from dist_sparse.execution import available
from dist_sparse.execution.compiling import NoKernels
from dist_sparse.export.formats import find
from dist_sparse.latency.__main__ import main as latency
from dist_sparse.latency.ways import ALL_WAYS
from tests.command import here, train_here
from tests.export.networks import masked
from tests.values import QUIET, SMALL_RESNET

WAYS = ["dense", "masked", "sparse kernels", "ONNX Runtime"]
"""Those of a network without dead units."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, file in (("sparse", "net.safetensors"), ("onnx", "net.onnx"), ("program", "net.pt2"), ("timm", "net.pt")):
        find(name).load()(masked(), folder / file)
    return folder


def rows(out: str) -> list[tuple[str, str]]:
    return re.findall(r"^ +(\d+)  (\S.*?) +[\d.]+ +[\d.]+ to [\d.]+(?: +[\d.]+)?$", out, re.MULTILINE)


def test_a_run_in_every_way(tmp_path: Path) -> None:
    """The sparsest sub-net is measured where a run has several. It has dead filters, which the shrunk one does without."""
    sub_nets = {"sparsity.method": "ast", "sparsity.ast.densities": [0.5, 0.2], "sparsity.update.interval": "2 steps"}
    values = {**QUIET, **SMALL_RESNET, **sub_nets, "train.epochs": 1, "train.batch_size": 128, "output": tmp_path / "run"}
    assert train_here(values).code == 0
    before = torch.get_num_threads()
    argv = [str(tmp_path / "run"), "--checkpoint=last", "--batch=1,3", "--rounds=2", "--threads=1"]
    outcome = here(latency, argv)
    assert outcome.code == 0, outcome.err
    assert re.match(r"resnet18, images 1x8x8, density 20\.\d\d%, 1 thread of the CPU\n", outcome.out)
    assert rows(outcome.out) == [(batch, way) for batch in ("1", "3") for way in ALL_WAYS]
    assert re.search(r"^sparse kernels: \d+ of \d+ masked layers are computed sparsely", outcome.out, re.MULTILINE)
    assert torch.get_num_threads() == before
    (line,) = here(latency, [*argv, "--subnet=3"]).errors
    assert line.startswith("--subnet=3: ") and "holds sub-nets 1 to 2" in line


@pytest.mark.parametrize(
    ("file", "ways"), [("net.safetensors", WAYS), ("net.onnx", ["ONNX Runtime"]), ("net.pt2", ["exported program"])]
)
def test_exported_files(files: Path, file: str, ways: list[str]) -> None:
    outcome = here(latency, [str(files / file), "--batch=2", "--rounds=2"])
    assert outcome.code == 0, outcome.err
    assert rows(outcome.out) == [("2", way) for way in ways]
    assert outcome.out.startswith("resnet18, images 1x32x32, density ")


def test_a_way_that_cannot_be_had_is_left_out_with_its_reason(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernels() -> None:
        raise NoKernels("there is no compiler")

    monkeypatch.setattr(available, "BACKENDS", {"cpu": {"compiled": lambda: iter(no_kernels, 0)}})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    outcome = here(latency, [str(files / "net.safetensors"), "--batch=1", "--rounds=2"])
    assert (outcome.code, rows(outcome.out)) == (0, [("1", "dense"), ("1", "masked")])
    no_kernels_said, nothing_to_shrink, no_runtime = outcome.out.splitlines()[-3:]
    assert nothing_to_shrink.startswith("shrunk: not measured: nothing can be removed from the network: ")
    assert [no_kernels_said, no_runtime] == [
        "sparse kernels: not measured: there is no compiler",
        "ONNX Runtime: not measured: --format=onnx needs onnxruntime, not installed here: pip install dist_sparse[export]",
    ]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["net.pt"], "{}/net.pt: should be the folder of a run, or an exported file (.safetensors, .onnx, .pt2)"),
        (["no.onnx"], "{}/no.onnx: no such run's folder or exported file"),
        (["broken.onnx"], "{}/broken.onnx: not a sound ONNX model: "),
        (["broken.pt2"], "{}/broken.pt2: not a sound exported program: "),
        (["broken.safetensors"], "{}/broken.safetensors: not a sound safetensors file: "),
        (["."], "{}/checkpoints holds no best checkpoint"),
        (["net.pt2", "--batch=1,x"], "--batch=1,x: should be whole numbers of 1 or more separated by commas"),
        (["net.pt2", "--batch="], "--batch=: should be whole numbers of 1 or more separated by commas"),
        (["net.pt2", "--rounds=1"], "--rounds=1: should be whole numbers of 2 or more"),
        (["net.pt2", "--threads=0"], "--threads=0: should be whole numbers of 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_one_line(files: Path, argv: list[str], said: str) -> None:
    for suffix in (".onnx", ".pt2", ".safetensors"):
        (files / f"broken{suffix}").write_bytes(b"no network")
    outcome = here(latency, [str(files / argv[0]), *argv[1:]])
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"error: {said.format(files)}")
