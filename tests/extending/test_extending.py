"""A new method, structure, engine or backend is one file and one line: those of this folder train by an entry in a table."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse.config import Config, with_values
from dist_sparse.execution import available
from dist_sparse.plan.outlook import look_ahead
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.structures import STRUCTURES
from tests.command import metrics, train_here
from tests.distributed.world import World
from tests.execution.test_runs import KEYS, check_alike, trained
from tests.extending import backend, cases
from tests.extending.method import GrowByMomentum
from tests.extending.structure import KernelRow
from tests.values import QUIET

RIGL: dict[str, Any] = {
    **KEYS,
    **QUIET,
    "train.batch_size": 128,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "2 steps",
}
"""11 steps on digits."""


def changed(folder: Path) -> list[int]:
    """The steps at which masks moved."""
    return [int(row["step"]) for row in metrics(folder) if float(row["sparsity/changed"] or 0)]


def test_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runs move their masks when the plan says so."""
    monkeypatch.setitem(METHODS, GrowByMomentum.name, GrowByMomentum)
    values = {**RIGL, "sparsity.method": GrowByMomentum.name}
    outcome = train_here({**values, "output": tmp_path})
    assert outcome.code == 0, outcome.err
    forecast = look_ahead(with_values(Config(), values), 1).update_steps
    assert changed(tmp_path) == forecast and len(forecast) >= 2


def test_a_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRUCTURES, KernelRow.name, KernelRow)
    outcome = train_here({**RIGL, "sparsity.structure": KernelRow.name, "output": tmp_path})
    assert outcome.code == 0, outcome.err
    assert changed(tmp_path)
    weights = torch.load(tmp_path / "checkpoints/best.pt")["state_dict"]
    rows = [KernelRow().split(weight)[0] for name, weight in weights.items() if weight.dim() == 4 and "conv" in name]
    assert any(not row.any() for kernel_rows in rows for row in kernel_rows)
    assert all(row.all() or not row.any() for kernel_rows in rows for row in kernel_rows), "active as a whole or not at all"


def test_an_engine(tmp_path: Path) -> None:
    """On two ranks it makes DDP's run."""
    world = World(2)
    try:
        by_ddp, by_itself = (
            world.run(cases.train, {**RIGL, "engine.name": name}, str(tmp_path / name)) for name in ("ddp", "plain")
        )
    finally:
        world.close()
    for ours, theirs in zip(by_itself, by_ddp, strict=True):
        assert (ours.final, ours.digests) == (theirs.final, theirs.digests) and ours.updates >= 2
        assert list(ours.losses.values()) == pytest.approx(list(theirs.losses.values()), rel=1e-9)


def test_a_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**RIGL, "sparsity.structure": "channel", "sparsity.keep_dense": ["conv1.weight"]}
    dense = trained(tmp_path, values, "dense")
    monkeypatch.setitem(available.BACKENDS, "cpu", {"columns": backend.make, **available.BACKENDS["cpu"]})  # pyright: ignore
    outcome = train_here({**values, "execution.compute": "sparse", "output": tmp_path / "sparse"})
    assert "masked layers are computed sparsely by active columns" in outcome.out, outcome
    check_alike(metrics(tmp_path / "sparse"), dense)
