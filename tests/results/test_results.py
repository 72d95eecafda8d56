"""The table of results: which runs are one row, what is counted, and the figures in text, CSV and plot."""

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.config import Config, dump_config, load_config
from dist_sparse.results.__main__ import main
from dist_sparse.results.groups import Group, group
from dist_sparse.results.plot import draw, lines
from dist_sparse.results.runs import find_runs
from tests.command import ROOT, Outcome, here, train_here
from tests.values import QUIET, TINY_VIT


def results(*argv: object) -> Outcome:
    return here(main, [str(word) for word in argv])


def write_run(folder: Path, values: dict[str, Any], **summary: Any) -> Path:
    """A run's folder as training leaves it; without a summary, as long as it trains."""
    config: Config = load_config(None, {"name": folder.name, "output": str(folder), **values})
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def finished(top1: float, density: float = 0.1, **more: Any) -> dict[str, Any]:
    figures = {"best_top1": top1 + 0.01, "inference_flops_relative": 0.2, "train_flops_relative": 0.3}
    return {"exit_reason": "finished", "last_top1": top1, "density": density, **figures, **more}


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Two methods at two densities and three seeds; of rigl at 0.05, one is under way and one has diverged."""
    for method, base in (("set", 0.5), ("rigl", 0.7)):
        for density in (0.05, 0.1):
            for seed in (1, 2, 3):
                asked = {"sparsity.method": method, "sparsity.density": density, "seed": seed}
                # A key that follows from the method, and two that say where and how a run is made.
                asked |= {"sparsity.update.drop_fraction": 0.5 if method == "set" else 0.3}
                asked |= {"data.root": f"node{seed}", "tracking.tags": [f"{method}{seed}"]}
                summary = finished(base + 0.01 * seed**2, density + 1e-4)
                if (method, density, seed) == ("rigl", 0.05, 2):
                    summary = {}
                if (method, density, seed) == ("rigl", 0.05, 3):
                    summary["exit_reason"] = "diverged"
                write_run(tmp_path / "runs" / f"{method}-{density}-{seed}", asked, **summary)
    return tmp_path / "runs"


def groups_of(*folders: Path) -> list[Group]:
    return group(find_runs(folders))


def test_rows_are_methods_and_densities(grid: Path) -> None:
    outcome = results(grid)
    assert (outcome.code, outcome.err) == (0, "")
    header, *rows = [line.split() for line in outcome.out.split("\n\n")[0].splitlines()]
    assert header[:3] == ["method", "density", "n"]
    assert [row[:2] for row in rows] == [["rigl", "0.1"], ["rigl", "0.05"], ["set", "0.1"], ["set", "0.05"]]
    deviation = f"{100 * statistics.stdev([0.71, 0.74, 0.79]):.2f}"
    assert rows[0][2:] == ["3", "74.67", "±", deviation, "75.67", "±", deviation, "10.01", "20.00", "30.00"]


def test_one_run_has_no_deviation_and_none_no_figures(grid: Path) -> None:
    row = results(grid).out.splitlines()[2].split()
    assert row == ["rigl", "0.05", "1", "of", "3", "71.00", "72.00", "5.01", "20.00", "30.00"]
    (grid / "rigl-0.05-1" / "summary.json").unlink()
    row = results(grid).out.splitlines()[2].split()
    assert row == ["rigl", "0.05", "0", "of", "3", *["-"] * 5]


def test_what_is_not_counted_is_named(grid: Path) -> None:
    write_run(grid / "blank", {"sparsity.method": "set", "sparsity.density": 0.1, "seed": 9}, **finished(float("nan")))
    out = results(grid).out
    assert "not counted, 3 of 13 runs:" in out
    assert f"  {grid / 'rigl-0.05-2'}: no summary: not at its end yet, or killed\n" in out
    assert f"  {grid / 'rigl-0.05-3'}: diverged\n" in out
    assert f"  {grid / 'blank'}: finished without last_top1 and best_top1\n" in out


def test_the_grid_s_runs_that_are_not_there_are_named(grid: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.txt").write_text("--name=rigl-0.1-1\n--name=rigl-0.1-4\n")
    assert results(grid, f"--grid={tmp_path / 'grid.txt'}").out.endswith(
        f"\nnot begun, 1 of 2 runs of {tmp_path / 'grid.txt'}:\n  rigl-0.1-4\n"
    )


def test_csv_holds_fractions_that_read_back_equal(grid: Path, tmp_path: Path) -> None:
    path = tmp_path / "tables" / "table.csv"
    assert results(grid, f"--csv={path}").code == 0
    rows = list(csv.DictReader(path.open(newline="")))
    assert [(row["sparsity.method"], row["n"], row["unfinished"]) for row in rows] == [
        ("rigl", "3", "0"), ("rigl", "1", "2"), ("set", "3", "0"), ("set", "3", "0"),
    ]  # fmt: skip
    top1 = [0.5 + 0.01, 0.5 + 0.04, 0.5 + 0.09]
    assert float(rows[2]["last_top1_mean"]) == pytest.approx(statistics.fmean(top1), abs=1e-15)
    assert float(rows[2]["last_top1_deviation"]) == pytest.approx(statistics.stdev(top1), abs=1e-15)
    assert rows[1]["last_top1_deviation"] == ""
    assert float(rows[0]["density_mean"]) == pytest.approx(0.1001)


def test_the_plot_has_a_line_for_each_method(grid: Path, tmp_path: Path) -> None:
    drawn = lines(groups_of(grid))
    assert list(drawn) == ["rigl", "set"]
    deviation = 100 * statistics.stdev([0.51, 0.54, 0.59])
    assert drawn["set"] == [pytest.approx((density, 100 * 1.64 / 3, deviation)) for density in (0.0501, 0.1001)]
    assert drawn["rigl"][0] == pytest.approx((0.0501, 71, float("nan")), nan_ok=True)
    path = tmp_path / "plot.png"
    assert results(grid, f"--plot={path}").code == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert draw(groups_of(grid), "pdf").startswith(b"%PDF")
    assert draw(groups_of(grid / "rigl-0.05-2"), "svg").startswith(b"<?xml"), "no run has finished"


def test_keys_that_differ_within_a_method_are_columns(tmp_path: Path) -> None:
    for number, (end, subnets) in enumerate([("50%", [0.3, 0.1]), ("75%", [0.3, 0.1]), ("75%", [0.2, 0.1])]):
        asked = {"sparsity.method": "ast", "sparsity.ramp.end": end, "sparsity.ast.densities": subnets, "optim.lr": 0.3}
        write_run(tmp_path / str(number), asked, **finished(0.9 + number / 100))
    write_run(tmp_path / "dense", {"sparsity.method": "dense", "seed": 3}, **finished(0.5, density=1.0))
    groups = groups_of(tmp_path)
    assert [list(each.keys.values()) for each in groups] == [
        ["ast", None, "50%", [0.3, 0.1]], ["ast", None, "75%", [0.2, 0.1]], ["ast", None, "75%", [0.3, 0.1]],
        ["dense", None, None, []],
    ]  # fmt: skip
    header, row = results(tmp_path).out.splitlines()[:2]
    assert header.split()[:4] == ["method", "density", "end", "densities"]
    assert row.startswith("ast     -        50%  [0.3, 0.1]  1       90.00")
    assert list(lines(groups))[1] == "ast, end 75%, densities [0.2, 0.1]"


def test_how_a_run_was_made_is_a_row_of_its_own(tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        write_run(tmp_path / device, {"sparsity.density": 0.1, "engine.device": device, "data.root": device}, **finished(0.9))
    assert [dict(each.keys) for each in groups_of(tmp_path)] == [
        {"sparsity.method": "rigl", "sparsity.density": 0.1, "engine.device": device} for device in ("cpu", "cuda")
    ]


def test_folders_of_images_are_told_apart_by_where_they_lie(tmp_path: Path) -> None:
    """The folder is the data set there; of a small set it says nothing, even beside such runs."""
    for seed, (name, root) in enumerate(
        [("image_folder", "pets"), ("image_folder", "birds"), ("digits", "a"), ("digits", "b")]
    ):
        asked = {"sparsity.density": 0.1, "data.name": name, "data.root": root, "seed": seed}
        write_run(tmp_path / root, asked, **finished(0.9))
    groups = groups_of(tmp_path)
    found = [(each.keys["data.name"], each.keys["data.root"], len(each.runs)) for each in groups]
    assert found == [("digits", None, 2), ("image_folder", "birds", 1), ("image_folder", "pets", 1)]
    assert results(tmp_path).code == 0


def test_a_seed_that_stands_twice_is_noted(grid: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "again", {"sparsity.method": "static", "sparsity.density": 0.1, "seed": 4}, **finished(0.5))
    write_run(tmp_path / "copy", {"sparsity.method": "static", "sparsity.density": 0.1, "seed": 4}, **finished(0.5))
    out = results(tmp_path).out
    assert "note: method static, density 0.1: several runs have seed 4" in out
    assert out.count("note: ") == 1


def test_a_run_is_taken_once_and_what_lies_in_it_is_its_own(grid: Path) -> None:
    write_run(grid / "rigl-0.1-1" / "wandb" / "files", {"sparsity.density": 0.3}, **finished(0.1))
    found = find_runs([grid, grid / "rigl-0.1-1", grid / ".." / "runs"])
    assert len(found) == 12


def test_figures_of_real_runs(tmp_path: Path) -> None:
    values = {**QUIET, "model.name": "vit_tiny_patch16_224"}
    values |= {"model.kwargs": TINY_VIT, "train.epochs": 1, "train.batch_size": 256, "sparsity.density": 0.3}
    for seed in (1, 2):
        assert train_here({**values, "seed": seed, "output": tmp_path / f"run{seed}"}).code == 0
    summaries = [json.loads((tmp_path / f"run{seed}" / "summary.json").read_text()) for seed in (1, 2)]
    (only,) = groups_of(tmp_path)
    assert dict(only.keys) == {"sparsity.method": "rigl", "sparsity.density": 0.3}
    for name, figure in only.figures.items():
        assert figure is not None
        assert figure.mean == statistics.fmean(summary[name] for summary in summaries)
        assert figure.deviation == statistics.stdev(summary[name] for summary in summaries)


def test_an_older_summary_lacks_figures() -> None:
    row = results(ROOT / "benchmarks" / "records" / "fashion_mnist_rigl").out.splitlines()[1].split()
    assert row == ["rigl", "0.1", "1", "92.55", "92.55", "10.00", "-", "-"]


@pytest.mark.parametrize(
    ("argv", "beginning"),
    [
        (["missing"], "missing: no such folder"),
        (["empty"], "empty: holds no runs; the folder of a run has a config.yaml"),
        (["broken"], "optim.lrr: unknown key (from broken/config.yaml:1); did you mean optim.lr"),
        (["good", "--plot=plot.txt"], "--plot=plot.txt: should end in .png, .pdf, .svg"),
        (["good", "--plot=plot"], "--plot=plot: should end in .png, .pdf, .svg"),
        (["good", "--csv=/dev/null/a/t.csv"], "--csv=/dev/null/a/t.csv cannot be written: Not a directory"),
        (["good", "--grid=grid.txt"], "grid.txt: no such grid file"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], beginning: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/config.yaml").write_text("optim.lrr: 0.1\n")
    write_run(Path("good"), {"sparsity.density": 0.1}, **finished(0.9))
    outcome = results(*argv)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {beginning}")
    assert outcome.err.count("\n") == 1
    assert not Path("plot.txt").exists()
