"""A checkpoint whose checksums are right and whose contents are wrong: one line that names the entry, never a traceback."""

import contextlib
import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_sparse import distributed
from dist_sparse.build import build_parts, build_trainer, resolved, take_over
from dist_sparse.config import load_config
from dist_sparse.contents import ENTRY, check_contents
from dist_sparse.errors import UserError
from dist_sparse.evaluate import main as evaluate
from dist_sparse.export.__main__ import main as export
from dist_sparse.plasticity.__main__ import main as probe
from dist_sparse.resuming import check_state
from dist_sparse.run_folder import RunFolder
from dist_sparse.stored import read_checkpoint
from tests.command import Outcome, here, metrics, train_here, words
from tests.values import LOGGED, SMALL_RESNET, TINY_VIT

RIGL = {
    **LOGGED,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {**TINY_VIT, "depth": 1},
    "train.epochs": 2,
    "train.batch_size": 256,
    "train.ema": 0.9,
    "optim.name": "adamw",
    "optim.lr": 0.003,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "4 steps",
    "sparsity.update.gradient_steps": 3,
    "data.forgetting.epochs": 1,
    "data.forgetting.remove": 300,
    "checkpoint.every": "3 steps",
    "checkpoint.keep": 2,
    "resume": "auto",
}
AST = {
    **{
        key: value for key, value in RIGL.items() if not key.startswith(("train.ema", "sparsity.", "model.", "data.", "optim."))
    },
    **SMALL_RESNET,
    "sparsity.method": "ast",
    "sparsity.ast.densities": [0.3, 0.2],
    "sparsity.update.interval": "2 steps",
    "sparsity.ast.offset": "0 steps",
    "sparsity.ramp.end": "4 steps",
}
STOPPED = 7
"""After the checkpoints of steps 5 (with a validation) and 6, where gradients are under way."""

Place = tuple[Any, ...]
Change = Callable[[Any], Any]


class Dropped:
    """Stands for an entry that is taken out."""


class Unchanged:
    """Stands for an entry that there is no such change of."""


def longer(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.cat([value.reshape(-1), value.reshape(-1)[:1]])
    return (
        {**value, "more": 0}
        if isinstance(value, dict)
        else value[:1] + value
        if isinstance(value, list) and value
        else Unchanged
    )


def shorter(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.reshape(-1)[:-1].clone() if value.numel() else Unchanged
    return dict(list(value.items())[:-1]) if isinstance(value, dict) and value else Unchanged


def not_finite(value: Any) -> Any:
    floats = isinstance(value, float) or (isinstance(value, Tensor) and value.is_floating_point())
    return value * float("nan") if floats else Unchanged


def another(value: Any) -> Any:
    """As good a value of the same kind; of floating point numbers in a tensor nobody could tell."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return value ^ 1 if isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.bool else Unchanged


CHANGES: dict[str, Change] = {
    "dropped": lambda _: Dropped,
    "None": lambda value: None if value is not None else Unchanged,
    "text": lambda _: "text",
    "a number": lambda _: -7,
    "a list": lambda _: [1, "x"],
    "another dtype": lambda value: (
        value.to(torch.int32) if isinstance(value, Tensor) and value.dtype != torch.int32 else Unchanged
    ),
    "another shape": lambda value: value[None] if isinstance(value, Tensor) else Unchanged,
    "longer": longer,
    "shorter": shorter,
    "not finite": not_finite,
    "another value": another,
}


def places(tree: Any, place: Place = ()) -> Iterator[Place]:
    """Every entry below a tree."""
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list | tuple) else ():
        yield (*place, key)
        yield from places(tree[key], (*place, key))


def changed(state: dict[str, Any], place: Place, change: Change) -> dict[str, Any] | None:
    """A copy with one entry changed; None if there is no such change of it."""
    tree: Any = copy.copy(state)
    whole = tree
    for key in place[:-1]:
        if isinstance(tree[key], tuple):
            return None
        tree[key] = copy.copy(tree[key])
        tree = tree[key]
    value = change(tree[place[-1]])
    if value is Unchanged:
        return None
    if value is Dropped:
        tree.pop(place[-1])
    else:
        tree[place[-1]] = value
    return whole


def name_of(place: Place) -> str:
    return "".join(f".{key}" if isinstance(key, str) else f"[{key}]" for key in place).lstrip(".")


def stopped_run(values: dict[str, Any], folder: Path) -> Path:
    assert train_here({**values, "output": folder}, interrupt_after=STOPPED).code == 130
    return folder


@pytest.fixture(scope="module", params=["rigl", "ast"])
def stopped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The values and the folder of an interrupted run. Not to be written to."""
    values = RIGL if request.param == "rigl" else AST
    return values, stopped_run(values, tmp_path_factory.mktemp("stopped") / "run")


def newest(folder: Path) -> Path:
    return sorted((folder / "checkpoints").glob("step_*.pt"))[-1]


def raw(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_every_change_of_every_entry_is_noticed_and_named(stopped: tuple[dict[str, Any], Path]) -> None:
    """Each entry is dropped and suffers one other change, and each of the first ones below every branch all of them."""
    whole, seen, tried, path = raw(newest(stopped[1])), set[Place](), 0, Path("wrong.pt")
    changes, state = list(CHANGES.values()), whole
    if stopped[0] is AST:  # the rest is as with the other
        state = {"method": whole["method"]}
        state[ENTRY] = {name: line for name, line in whole[ENTRY].items() if name.partition(".")[0] == "method"}
    for number, place in enumerate(each for each in places(state) if each[0] not in (ENTRY, "config")):
        first = place[:-1] not in seen
        seen.add(place[:-1])
        for change in changes if first else (changes[0], changes[1 + number % (len(changes) - 1)]):
            wrong = changed(state, place, change)
            if wrong is None:
                continue
            tried += 1
            with pytest.raises(UserError) as caught:
                check_contents(wrong, path)
            shifted = change is CHANGES["dropped"] and isinstance(place[-1], int)  # what comes after it in its list
            message = str(caught.value)
            assert message.startswith(f"{path}: entry '{name_of(place[:-1] if shifted else place)}"), (place, message)
            assert "\n" not in message
    assert tried > 200


def test_a_sound_checkpoint_says_nothing(stopped: tuple[dict[str, Any], Path]) -> None:
    state = read_checkpoint(newest(stopped[1]))
    assert ENTRY not in state
    assert state.keys() == raw(newest(stopped[1])).keys() - {ENTRY}


def test_no_change_of_a_checkpoint_of_an_earlier_version_is_a_traceback(
    stopped: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """Those say nothing of their contents: whatever is wrong is a UserError, be it that of loading."""
    values, folder = stopped
    state, path = raw(newest(folder)), tmp_path / "wrong.pt"
    del state[ENTRY], state["tables"]
    config = resolved(load_config(None, words({**values, "output": tmp_path / "run"})))
    ranks, run = distributed.start(config.engine), RunFolder(path=tmp_path / "run")
    seen, refused = set[Place](), 0
    try:
        parts = build_parts(config, ranks)
        trainer = build_trainer(parts, run, None)
        for place in [each for each in places(state) if each[0] != "config" and (values is RIGL or each[0] == "method")]:
            branch, *_ = place
            if place[:-1] in seen and (len(place) > 2 or branch in ("state_dict", "state_dict_ema")):
                continue
            seen.add(place[:-1])
            for change in CHANGES.values():
                wrong = changed(state, place, change)
                if wrong is None:
                    continue
                with contextlib.suppress(UserError):
                    check_state(wrong, path, parts)
                    take_over(trainer, wrong)
                    continue
                refused += 1
        trainer.tracker.close()
        trainer.engine.close()
    finally:
        distributed.stop()
    assert refused > 50


MASK = ("method", "masks", "blocks.0.attn.qkv.weight")
WRONG: list[tuple[Place, Change]] = [
    (MASK, shorter),
    (MASK, another),
    (("method", "explored", MASK[2]), shorter),
    (("method",), lambda _: None),
    (("progress", "step"), another),
    (("optimizer", "state", 3, "exp_avg"), longer),
    (("state_dict_ema",), lambda _: Dropped),
]


@pytest.fixture(scope="module")
def rigl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped_run(RIGL, tmp_path_factory.mktemp("rigl") / "run")


@pytest.mark.parametrize(("place", "change"), WRONG, ids=[name_of(place) for place, _ in WRONG])
def test_a_run_falls_back_to_the_checkpoint_before(
    rigl: Path, tmp_path: Path, place: Place, change: Change, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = shutil.copytree(rigl, tmp_path / "run")
    path = newest(folder)
    wrong = changed(raw(path), place, change)
    torch.save(wrong, path)
    outcome = train_here({**RIGL, "output": folder}, interrupt_after=STOPPED)
    assert outcome.code == 130
    assert f"WARNING: {path}: entry '{name_of(place)}" in outcome.err
    assert "going back to the one before it" in outcome.err
    assert "going on after step 5 of " in outcome.out
    assert metrics(folder) == metrics(rigl)
    torch.save(wrong, tmp_path / "named.pt")
    named = train_here({**RIGL, "output": tmp_path / "other", "resume": tmp_path / "named.pt"})
    assert_one_line(named, tmp_path / "named.pt", place)


@pytest.mark.parametrize("command", [evaluate, export, probe])
@pytest.mark.parametrize(("place", "change"), WRONG[:4], ids=[name_of(place) for place, _ in WRONG[:4]])
def test_other_commands_name_the_entry(
    rigl: Path, tmp_path: Path, place: Place, change: Change, command: Callable[..., int]
) -> None:
    state = raw(newest(rigl))
    for path, tree in ((tmp_path / "new.pt", state), (tmp_path / "old.pt", {key: state[key] for key in state if key != ENTRY})):
        torch.save(changed(tree, place, change), path)
        outcome = here(command, [str(rigl), f"--checkpoint={path}"])
        if path.name == "new.pt" or change is not another:
            assert_one_line(outcome, path, place)


def assert_one_line(outcome: Outcome, path: Path, place: Place) -> None:
    assert outcome.code == 2
    (line,) = outcome.errors
    assert line.startswith(f"{path}: entry '{name_of(place)}")
