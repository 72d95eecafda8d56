"""Checkpoints survive kills, full disks and flipped bits."""

import logging
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.errors import UserError
from dist_sparse.stored import load_weights
from tests.full_disk import file_size_limit, small_disk


def make_state(step: int, numel: int = 100) -> dict[str, Any]:
    return {
        "step": step,
        "name": "x",
        "none": None,
        "weights": OrderedDict(w=torch.arange(numel) * 0.1 + step),
        "masks": {"w": torch.tensor([1, 255], dtype=torch.uint8)},
        "optimizer": {
            "state": {0: {"momentum": torch.ones(3, dtype=torch.float64)}},
            "betas": (0.9, 0.999),
            "groups": [[0, 1]],
        },
    }


def assert_same(left: Any, right: Any) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def store_with(folder: Path, *steps: int, keep: int = 2) -> CheckpointStore:
    store = CheckpointStore(folder, keep)
    for step in steps:
        assert store.save(step, make_state(step))
    return store


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = store_with(tmp_path / "checkpoints", 5)
    path, state = store.newest() or pytest.fail("nothing found")
    assert path.name == "step_00000005.pt"
    reference = make_state(5)
    assert_same(state["weights"]["w"], reference["weights"]["w"])
    assert_same(state["masks"], reference["masks"])
    assert_same(state["optimizer"]["state"], reference["optimizer"]["state"])
    assert {key: state[key] for key in ("step", "name", "none")} == {"step": 5, "name": "x", "none": None}
    assert state["optimizer"]["betas"] == (0.9, 0.999)


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "missing", 2)
    assert store.newest() is None
    assert store.best() is None
    assert store.paths() == []
    assert not (tmp_path / "missing").exists(), "reading leaves no trace"


def test_the_last_ones_and_the_best_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 20, 300, 4000):
        store.save(step, make_state(step), best=step == 20)
    assert names(tmp_path) == ["best.pt", "step_00000300.pt", "step_00004000.pt"]
    best = store.best()
    assert best is not None
    assert best[1]["step"] == 20


def test_the_best_is_not_written_twice(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 1, 2):
        store.save(step, make_state(step), best=True)
        assert store.paths()[-1].samefile(store.best_path)


def test_steps_sort_as_numbers(tmp_path: Path) -> None:
    store = store_with(tmp_path, 99_999_999, 100_000_000)
    assert [path.name for path in store.paths()] == ["step_99999999.pt", "step_100000000.pt"]
    (tmp_path / "step_copy.pt").touch()
    assert len(store.paths()) == 2


def test_a_run_resumed_from_further_back_drops_the_abandoned_future(tmp_path: Path) -> None:
    store = store_with(tmp_path, 10, 20, 30, keep=3)
    store.save(15, make_state(15))
    assert names(tmp_path) == ["step_00000010.pt", "step_00000015.pt"]


def test_leftovers_of_a_killed_run_go_at_the_next_save(tmp_path: Path) -> None:
    (tmp_path / ".step_00000007.pt.partial").write_bytes(b"half")
    store = CheckpointStore(tmp_path, 2)
    assert store.newest() is None
    assert names(tmp_path) == [".step_00000007.pt.partial"], "a reader must not take the file from under a writer"
    store.save(8, make_state(8))
    assert names(tmp_path) == ["step_00000008.pt"]


def test_what_a_kill_left_undone_is_done_by_the_run_that_goes_on(tmp_path: Path) -> None:
    store_with(tmp_path, 1, 2, 3, 9, keep=4)
    (tmp_path / ".step_00000004.pt.partial").write_bytes(b"half")
    CheckpointStore(tmp_path, 2).tidy(3)
    assert names(tmp_path) == ["step_00000002.pt", "step_00000003.pt", "step_00000009.pt"], "a later one may be worth a look"
    CheckpointStore(tmp_path / "missing", 2).tidy(0)


@pytest.mark.parametrize("act", ["save", "tidy"])
def test_what_cannot_be_removed_does_not_keep_the_rest(tmp_path: Path, act: str, caplog: pytest.LogCaptureFixture) -> None:
    store = store_with(tmp_path, 2, 3, 4, keep=3)
    store.path(1).mkdir()
    fewer = CheckpointStore(tmp_path, 2)
    fewer.save(5, make_state(5)) if act == "save" else fewer.tidy(4)
    kept = (4, 5) if act == "save" else (3, 4)
    assert names(tmp_path) == [store.path(step).name for step in (1, *kept)]
    assert "no longer needed stay" in caplog.text


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "empty", "text"])
def test_a_damaged_newest_is_reported_and_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    store = store_with(tmp_path, 1, 2)
    newest = store.paths()[-1]
    content = newest.read_bytes()
    if damage == "flipped bit":
        flip(newest, content.index(make_state(2)["weights"]["w"].numpy().tobytes()) + 17)
    else:
        newest.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"text"}[damage])
    found = store.newest()
    assert found is not None
    assert found[1]["step"] == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(newest) in record.message
    assert "\n" not in record.message
    with pytest.raises(UserError, match=r"step_00000002\.pt: not a sound checkpoint: ") as caught:
        store.load(newest)
    assert "\n" not in str(caught.value)


def test_the_best_is_the_last_resort(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, make_state(1), best=True)
    store.save(2, make_state(2))
    store.paths()[0].write_bytes(b"")
    found = store.newest()
    assert found is not None
    assert found[0] == store.best_path


def test_a_run_does_not_start_anew_over_damaged_checkpoints(tmp_path: Path) -> None:
    store = store_with(tmp_path, 1, 2)
    for path in store.paths():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="all 2 checkpoints are damaged"):
        store.newest()


def test_a_named_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.pt: no such checkpoint"):
        CheckpointStore.load(tmp_path / "missing.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="not a checkpoint of this program, but a list"):
        CheckpointStore.load(tmp_path / "list.pt")
    torch.save({"f": print}, tmp_path / "code.pt")
    with pytest.raises(UserError, match=r"code\.pt: not a sound checkpoint: "):
        CheckpointStore.load(tmp_path / "code.pt")
    with pytest.raises(UserError, match="is a folder, not a file"):
        CheckpointStore.load(tmp_path)


@settings(max_examples=150)
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_no_damage_goes_unnoticed(tmp_path: Path, position: int, bit: int, cut: bool) -> None:
    store = store_with(tmp_path, 1)
    path = store.paths()[0]
    position %= path.stat().st_size
    if cut:
        path.write_bytes(path.read_bytes()[:position])
    else:
        flip(path, position, bit)
    try:
        state = store.load(path)
    except UserError:
        return
    # A bit of the padding between records, or of a date.
    assert not cut
    assert_same(state["weights"]["w"], make_state(1)["weights"]["w"])
    assert repr(state) == repr(make_state(1))


def assert_survives_full_disk(store: CheckpointStore, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not store.save(2, make_state(2, numel=100_000), best=True)
    assert names(folder) == ["best.pt", "step_00000001.pt"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "step_00000002.pt" in record.message
    assert "\n" not in record.message
    found = store.newest()
    assert found is not None
    assert found[1]["step"] == 1


def test_a_full_disk_costs_only_the_new_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", 200_000) as folder:
        store = CheckpointStore(folder, 2)
        store.save(1, make_state(1), best=True)
        assert_survives_full_disk(store, folder, caplog)
        assert "No space left on device" in caplog.text
        assert store.save(3, make_state(3)), "there is room for a small one still"


def test_a_file_that_may_not_grow_costs_only_the_new_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, 2)
    store.save(1, make_state(1), best=True)
    with file_size_limit(100_000):
        assert_survives_full_disk(store, tmp_path, caplog)
    assert "File too large" in caplog.text


def test_a_kill_while_writing_leaves_the_one_before(tmp_path: Path) -> None:
    """The kernel kills the writer at its 100,000th byte, with a signal that is set back to deadly."""
    script = f"""
import resource, signal, torch
from pathlib import Path
from dist_sparse.checkpoint import CheckpointStore
store = CheckpointStore(Path({str(tmp_path)!r}), 1)
store.save(1, {{"step": 1}}, best=True)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
store.save(2, {{"step": 2, "w": torch.ones(100_000)}}, best=True)
"""
    root = Path(__file__).parents[1]
    process = subprocess.run([sys.executable, "-c", script], cwd=root, check=False)
    assert process.returncode == -signal.SIGXFSZ
    assert names(tmp_path) == [".step_00000002.pt.partial", "best.pt", "step_00000001.pt"]
    store = CheckpointStore(tmp_path, 1)
    found = store.newest()
    assert found is not None
    assert found[1]["step"] == 1
    store.save(2, {"step": 2})
    assert names(tmp_path) == ["best.pt", "step_00000002.pt"]


@pytest.mark.parametrize("leaf", [np.float64(1), np.ones(2), {1, 2}, Path("x"), {(1, 2): 3}])
def test_a_leaf_that_could_not_be_read_back_fails_at_the_first_save(tmp_path: Path, leaf: object) -> None:
    with pytest.raises(AssertionError, match=r"state\['a'\]\[0\]"):
        CheckpointStore(tmp_path, 1).save(1, {"a": [leaf]})


def test_another_model_s_weights_are_a_line_that_can_be_read(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(100)))
    with pytest.raises(
        UserError, match=r"best\.pt does not fit the run's model: missing: 0\.weight, 0\.bias, 1\.weight and 197 more$"
    ):
        load_weights(model, {}, tmp_path / "best.pt")
    weights = {**model.state_dict(), "0.weight": torch.zeros(3, 2), "other": torch.zeros(1), "7.bias": None}
    with pytest.raises(UserError) as caught:
        load_weights(model, weights, tmp_path / "best.pt")
    assert str(caught.value).endswith(
        "model: not of this model: other; of another shape or type: "
        "0.weight [3, 2] float32 instead of [2, 2] float32, 7.bias None instead of [2] float32"
    )


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    store = store_with(tmp_path, 1)
    os.mkfifo(tmp_path / "step_00000003.pt")
    (tmp_path / "step_00000004.pt").mkdir()
    with pytest.raises(UserError, match=r"step_00000003\.pt: cannot be read: is a pipe, not a file"):
        store.load(tmp_path / "step_00000003.pt")
    found = store.newest()
    assert found is not None
    assert found[0].name == "step_00000001.pt"
    with pytest.raises(UserError, match=r"File name too long$"):
        store.load(tmp_path / ("x" * 300))
    with pytest.raises(UserError, match=r"no such checkpoint$"):
        store.load(tmp_path / "missing" / "x.pt")


def test_a_checkpoint_under_another_s_name_is_passed_over(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2):
        store.save(step, {"progress": {"step": step}})
    (tmp_path / "step_00000002.pt").rename(tmp_path / "step_00000003.pt")
    found = store.newest()
    assert found is not None
    assert found[0].name == "step_00000001.pt"
