"""The short form of the fuzz: always the same command lines. The long one: ``python -m tests.fuzz --cases 1000 --seed N``."""

import threading
from pathlib import Path

import pytest

from dist_sparse.config.tree import leaves
from dist_sparse.trainer import Trainer
from tests.fuzz.campaign import campaign
from tests.fuzz.cases import GOOD, HANG, RAN, REFUSED, TRACEBACK, UNCLEAR, Verdict, run
from tests.fuzz.strategies import BASE, NAMES, NOT_HERE, fine, odd

RIGL = [*(f"--{key}={value}" for key, value in BASE.items()), "--sparsity.density=0.3"]


def test_every_command_line_trains_or_is_refused() -> None:
    told: list[Verdict] = []
    counts = campaign(40, 0, 60, told.append)
    assert [f"{each.kind}: {each.command}\n{each.said}" for each in told if each.kind not in GOOD] == []
    assert counts[RAN] >= 15
    assert counts[REFUSED] >= 5


def test_every_key_is_among_them() -> None:
    """A type that no strategy knows would raise here."""
    for leaf in leaves().values():
        assert not fine(leaf).is_empty
        assert not odd(leaf).is_empty
    assert {*NAMES, *NOT_HERE} <= leaves().keys()


def test_what_counts_as_what(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run([*RIGL, "--sparsity.update.interval=2"], [], 60).kind == RAN
    assert run([*RIGL, "--train.epochs=1000000"], [], 60).kind == RAN, "interrupted"
    assert run([*RIGL, "--seed=x"], [], 60).kind == REFUSED
    assert run(["--seed=x", "--seed=y"], [], 60).kind == UNCLEAR, "two lines, and no key was said to be drawn"

    def trips(*arguments: object) -> None:
        raise RuntimeError("tripped")

    def waits(*arguments: object) -> None:
        threading.Event().wait()

    for function, kind, limit in ((trips, TRACEBACK, 60), (waits, HANG, 5)):
        monkeypatch.setattr(Trainer, "fit", function)
        verdict = run(RIGL, [], limit)
        assert verdict.kind == kind
        assert function.__name__ in verdict.said
        assert verdict.command.startswith("python -m dist_sparse.train --data.limit=48 ")
    assert not list(Path().glob("fuzz-*"))
