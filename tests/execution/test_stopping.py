"""A run that is asked to stop before its first step, while it compiles or measures, ends in good order and goes on later."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.execution import available, build, survey
from tests.command import ROOT, metrics, read_until, start, train_here, words
from tests.test_every_method import short

SET: dict[str, Any] = {
    **short(ROOT / "configs" / "digits" / "set.yaml"),
    "train.epochs": 1,
    "train.accumulation": 1,
    "execution.compute": "sparse",
    "resume": "auto",
}

COMPILER = """#!/bin/sh
[ "$1" = --version ] && echo "a compiler that never ends" && exit
echo $$ > {started}
echo compiling
exec sleep 100000
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_the_kernels_are_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    compiler, started, folder = tmp_path / "slow-c++", tmp_path / "started", tmp_path / "run"
    os.mkfifo(started)
    compiler.write_text(COMPILER.format(started=started))
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    process = start(["-m", "dist_sparse.train", *words({**SET, "output": folder})])
    compiling = int(started.read_text())
    process.send_signal(getattr(signal, name))
    said = read_until(process, f"stopped by {name} after step 0 of ")
    assert process.wait() == {"SIGTERM": 75, "SIGINT": 130}[name], said
    assert "Traceback" not in said + process.stdout.read()
    with pytest.raises(ProcessLookupError):
        os.kill(compiling, 0)
    monkeypatch.undo()
    outcome = train_here({**SET, "output": folder})
    assert outcome.code == 0 and "going on after step 0 of 11" in outcome.out and "computed sparsely" in outcome.out


def test_a_signal_while_layers_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is kept, and the run that goes on is as one that was not stopped."""
    measured: list[str] = []
    values = {**SET, "execution.compute": "auto"}

    def cost(seconds: float, key: str) -> float:
        measured.append(key)
        if len(measured) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return seconds

    monkeypatch.setattr(available, "compiling", lambda: iter(()))
    monkeypatch.setattr(build, "_SMALL", 0)
    monkeypatch.setattr(survey, "dense_cost", lambda layer, **how: cost(1.0, f"dense {layer.key} {how}"))
    monkeypatch.setattr(survey, "sparse_cost", lambda _, layer, *how, **__: cost(0.1, f"{layer.key} {how}"))
    networks = iter([30.0, 3.0] * 2)
    monkeypatch.setattr(survey, "network_seconds", lambda *_: next(networks))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    outcome = train_here({**values, "output": tmp_path / "half"})
    assert outcome.code == 75 and "stopped by SIGTERM after step 0 of 11" in outcome.out
    assert len(measured) == 2
    outcome = train_here({**values, "output": tmp_path / "half"})
    assert outcome.code == 0 and "computed sparsely" in outcome.out
    assert len(set(measured)) == len(measured) > 2, "something was measured twice"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    assert train_here({**values, "output": tmp_path / "whole"}).code == 0
    assert metrics(tmp_path / "half") == metrics(tmp_path / "whole")
