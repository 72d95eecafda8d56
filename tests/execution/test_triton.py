"""Triton's kernels: what they compute, in its interpreter; that its compiler takes them for GPUs; and whole runs on a GPU."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT, metrics, train_here
from tests.execution.test_runs import check_alike
from tests.execution.test_without_compiler import DSB
from tests.test_every_method import short

triton = pytest.importorskip("triton")


@pytest.mark.slow
def test_products_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "tests/execution/interpreted.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("name", ["_forward", "_backward_input", "_backward_weights"])
def test_the_compiler_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dtype: str, capability: int
) -> None:
    """As far as machine code, which needs no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dist_sparse.execution import triton_groups

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(triton_groups, name)
    constants = {
        "KH": 3,
        "KW": 3,
        "SY": 2,
        "SX": 1,
        "PY": 1,
        "PX": 1,
        "DY": 1,
        "DX": 2,
        "PLACES": 64,
        "COLUMNS": 32,
        "ROWS": 16,
    }
    values, indices = {"images", "out", "gradient", "made", "values"}, {"start", "entries", "column", "group", "rows", "tiles"}
    kinds = {**dict.fromkeys(values, f"*{dtype}"), **dict.fromkeys(indices, "*i32"), **dict.fromkeys(constants, "constexpr")}
    signature = {argument: kinds.get(argument, "i32") for argument in kernel.arg_names}
    held = {(place,): constants[each] for place, each in enumerate(kernel.arg_names) if each in constants}
    source = ASTSource(fn=kernel, signature=signature, constexprs=held)
    assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


@pytest.mark.gpu
@pytest.mark.parametrize("keys", [{}, {"train.channels_last": True}])
def test_a_run_trains_as_it_does_densely(tmp_path: Path, keys: dict[str, Any]) -> None:
    values, found = {**DSB, "engine.device": "cuda", **keys}, []
    for compute in ("sparse", "dense"):
        outcome = train_here({**values, "execution.compute": compute, "output": tmp_path / compute})
        assert outcome.code == 0, outcome.err
        assert ("computed sparsely by Triton's kernels" in outcome.out) == (compute == "sparse")
        found.append(metrics(tmp_path / compute))
    check_alike(*found)


@pytest.mark.gpu
def test_what_cannot_be_had_is_told_in_one_line(tmp_path: Path) -> None:
    values = {**short(ROOT / "configs" / "digits" / "set.yaml"), "engine.device": "cuda"}
    outcome = train_here({**values, "output": tmp_path / "auto"})
    assert "layers are computed densely: nothing is measured on CUDA yet" in outcome.out
    outcome = train_here({**values, "execution.compute": "sparse", "output": tmp_path / "sparse"})
    told = "no masked layer has rows that agree in groups of 16"
    assert outcome.errors == [f"execution.compute=sparse: {told}; execution.compute=auto goes on densely"]
