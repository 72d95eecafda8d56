"""The fault campaign in short form, and whether it would notice: the long one is ``python -m tests.faults --minutes 30``."""

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.faults.bench import Bench, Case
from tests.faults.campaign import Figures, try_case
from tests.faults.compare import differences, not_finite
from tests.faults.processes import servers

pytestmark = pytest.mark.waits

SEED = 1
CASES = {
    "kills": 1, "kills_at_files": 2, "signals": 1, "stopped": 1, "full_disk": 1, "refused_operations": 2, "damage": 3,
    "not_finite": 3,
}  # fmt: skip
"""How many of each kind. A few runs only, so that few references are needed."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with servers(1) as started:
        yield Bench(started, tmp_path_factory.mktemp("faults"), variety=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_a_run_survives_or_says_why_not(bench: Bench, kind: str) -> None:
    figures = Figures(SEED, [(name := f"{kind}/{number}", try_case(bench, SEED, name)) for number in range(CASES[kind])])
    print(figures.report())
    assert not figures.failed, figures.report()


def test_differences_are_seen(bench: Bench, tmp_path: Path) -> None:
    reference = bench.reference(bench.choose(random.Random(0), (1,))).folder
    shutil.copytree(reference, folder := tmp_path / "copy")
    assert differences(folder, reference) == []
    last = sorted((folder / "checkpoints").glob("step_*.pt"))[-1]
    state = torch.load(last, weights_only=True)
    weight = next(iter(state["state_dict"].values())).view(-1)
    weight[0] = -weight[0] if weight[0] else 1.0
    torch.save(state, last)
    assert differences(folder, reference) == [f"{last.name}: 1 values differ, state_dict.{next(iter(state['state_dict']))}"]
    weight[0] = float("nan")
    torch.save(state, last)
    assert not_finite(folder) == [f"{last.name}: state_dict.{next(iter(state['state_dict']))}"]
    last.unlink()
    text = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(text.replace("\n2,", "\n3,"))
    (folder / "summary.json").write_text("{}")
    assert len(differences(folder, reference)) == 3


def test_a_hang_is_seen(bench: Bench, tmp_path: Path) -> None:
    run, case = bench.choose(random.Random(0), (1,)), Case("hang")
    fault = {"signal_at": {"folder": str(tmp_path / "run"), "operation": 3, "number": int(signal.SIGSTOP)}}
    with bench.start(run, tmp_path / "run", {0: fault}) as start:
        bench.tried(case, start.end(limit=5))
    assert case.findings == ["hang: ranks [0] do not end"]
