"""Runs beside published figures: what is recorded, and the table."""

import re
from pathlib import Path

import pytest

from benchmarks import published, published_plain
from benchmarks.published import ROWS, Attempt, Row, main
from benchmarks.study.record import append, read
from tests.command import logging_restored


def test_a_run_is_recorded_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "MNIST").symlink_to(images / "FashionMNIST")
    keys = ("train.epochs=1", "scheduler.name=constant", "scheduler.decay_rate=0.1", "sparsity.update.end=50%")
    row = published.ROWS[-1]
    attempt = Attempt(published=row, seed=0)
    monkeypatch.setattr(Attempt, "overrides", [*attempt.overrides, *(f"--{key}" for key in keys)])
    with logging_restored():
        found = published.train(attempt, str(tmp_path))
    assert found.what == row.what and 0 < found.error <= 100 and found.best_error <= found.error
    assert found.active_density == pytest.approx(0.02488, abs=1e-4)
    record = tmp_path / "published.csv"
    append(record, found)
    monkeypatch.setattr(published, "ROWS", (row,))
    assert main(["--record", str(record), "--seeds", "1", "--data-root", str(tmp_path)]) == 0
    assert read(record, Row) == [found]
    assert f"| {row.what} | {row.source} | 1.48 | 1 | {found.error:.2f} | {found.best_error:.2f} |" in capsys.readouterr().out


def test_without_the_images_no_run_begins(tmp_path: Path) -> None:
    record = tmp_path / "published.csv"
    with pytest.raises(SystemExit, match=r"^--data-root=.*/nowhere: mnist is missing or damaged: expected .*idx3"):
        main(["--record", str(record), "--data-root", str(tmp_path / "nowhere")])
    assert not record.exists()


@pytest.mark.parametrize("words", [["dense"], ["snip", "--density=0.1", "--redraw", "--init=fan_in"], ["rigl"]])
def test_the_plain_program_trains(
    words: list[str], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "MNIST").symlink_to(images / "FashionMNIST")
    monkeypatch.setattr(published_plain, "RIGL_INTERVAL", 2)
    monkeypatch.setattr(published_plain, "BATCH", 10)
    published_plain.main([*words, f"--data-root={tmp_path}", "--steps=5"])
    assert re.fullmatch(
        r"error [\d.]+ %, least of the last ten thousand steps [\d.]+ %, of all [\d.]+ %\n", capsys.readouterr().out
    )


def test_every_figure_has_a_recipe_of_its_density() -> None:
    densities = [Attempt(published=row, seed=0).config.sparsity.density for row in ROWS]
    assert densities == [None, None, 0.05, 0.02, 0.05, 0.02, None]
    assert len({Attempt(published=row, seed=seed).settings for row in ROWS for seed in (0, 1)}) == 2 * len(ROWS)


def test_the_plain_program_says_where_images_should_be(tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"^error: no .*/MNIST/raw/train-images-idx3-ubyte, gzipped or not; --data-root should be"
    ):
        published_plain.main(["snip", f"--data-root={tmp_path}"])
