"""Several ranks agree on whether their run is finished, on what could not be saved, and on the best."""

from collections.abc import Callable
from pathlib import Path

from tests.command import Outcome, metrics
from tests.distributed import cases
from tests.distributed.world import World
from tests.full_disk import small_disk
from tests.test_completeness import SMALL, summary
from tests.test_contents import MASK, another, changed, newest, raw, torch


def codes(outcomes: list[Outcome]) -> list[int]:
    return [outcome.code for outcome in outcomes]


def test_a_run_on_two_ranks_is_completed_after_its_checkpoints_are_gone_or_wrong(
    worlds: Callable[[int], World], tmp_path: Path
) -> None:
    values = {**SMALL, "output": tmp_path}
    assert codes(worlds(2).run(cases.command, values)) == [0, 0]
    before = metrics(tmp_path)
    torch.save(changed(raw(newest(tmp_path)), MASK, another), newest(tmp_path))
    (tmp_path / "checkpoints/best.pt").unlink()
    first, other = worlds(2).run(cases.command, values)
    assert (first.code, other.code) == (0, 0), first.err
    assert "WARNING: this run was finished, but " in first.err
    assert "entry 'method.masks.blocks.0.attn.qkv.weight" in first.err
    assert "going on after step 14 of 15" in first.out
    assert metrics(tmp_path) == before
    assert summary(tmp_path)["exit_reason"] == "finished"
    assert (tmp_path / "checkpoints/best.pt").is_file()


def test_no_room_for_a_checkpoint_ends_two_ranks_alike(worlds: Callable[[int], World], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 100_000) as disk:
        outcomes = worlds(2).run(cases.command, {**SMALL, "output": disk / "run"})
        assert codes(outcomes) == [1, 1]
        (line,) = outcomes[0].errors
        assert line.startswith("the last checkpoint could not be written: ")
        assert not outcomes[1].errors
        assert summary(disk / "run")["exit_reason"] == f"not saved: {line}"
