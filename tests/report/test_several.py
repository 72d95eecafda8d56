"""The report of several runs: means and deviations over seeds, the dense line, and links to the runs."""

import html
import json
import statistics
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from dist_sparse.report.__main__ import main
from dist_sparse.report.several import page_of_runs
from dist_sparse.results.runs import find_runs
from tests.command import Outcome, here, train_here
from tests.report.html_page import read_page
from tests.report.runs import VALUES
from tests.results.test_results import finished, write_run

TOP1 = {"rigl": (0.71, 0.74, 0.79), "set": (0.51, 0.54, 0.59), "dense": (0.8, 0.84, 0.85)}
"""Accuracies of the seeds 1 to 3 at any density."""


def report(*words: object) -> Outcome:
    return here(main, [str(word) for word in words])


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Two methods at two densities and dense, three seeds each; of set at 0.05 one is under way and one has crashed."""
    folder = tmp_path / "runs"
    for method, tops in TOP1.items():
        for density in (1.0,) if method == "dense" else (0.05, 0.1):
            for seed, top1 in enumerate(tops, start=1):
                asked = {"sparsity.method": method, "seed": seed}
                asked |= {} if method == "dense" else {"sparsity.density": density}
                flops = {"inference_flops_relative": density * 1.5, "train_flops_relative": density * (1.5 + 0.1 * seed)}
                summary = finished(top1, density, **flops, wall_seconds=100.0 + seed)
                if (method, density, seed) == ("set", 0.05, 2):
                    summary = {}
                if (method, density, seed) == ("set", 0.05, 3):
                    summary["exit_reason"] = "crashed"
                write_run(folder / f"{method}-{density}-{seed}", asked, **summary)
    (folder / "set-0.05-2" / "lock").touch()
    return folder


def spread(values: tuple[float, ...]) -> str:
    return f"{100 * statistics.fmean(values):.2f} ± {100 * statistics.stdev(values):.2f}%"


def test_settings_have_means_and_deviations(grid: Path) -> None:
    outcome = report(grid)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{grid / 'report.html'}\n", "")
    page = read_page(grid / "report.html")
    rows = {(row["method"], row["density"]): row for row in page.table("method", "density", "n")}
    assert list(rows) == [("dense", "–"), ("rigl", "0.1"), ("rigl", "0.05"), ("set", "0.1"), ("set", "0.05")]
    for (method, density), row in rows.items():
        if (method, density) != ("set", "0.05"):
            assert row["last top-1"] == spread(TOP1[method])
            assert row["n"] == "3"
    assert rows["rigl", "0.1"]["density reached"] == "10.00%"
    assert rows["rigl", "0.1"]["training FLOPs"] == "17.00%"
    assert (rows["set", "0.05"]["n"], rows["set", "0.05"]["last top-1"]) == ("1 of 3", "51.00%")
    assert page.facts["dense"] == (spread(TOP1["dense"]), "last top-1")
    assert page.facts["best sparse"] == (spread(TOP1["rigl"]), "method rigl, density 0.1")
    assert (page.facts["runs"][0], page.facts["not counted"][0]) == ("13", "2")


def test_accuracy_is_drawn_over_density_and_flops(grid: Path) -> None:
    density, flops = (picture.make().axes[0] for picture in page_of_runs(find_runs([grid]), grid).pictures)
    for axes, places in ((density, [5, 10]), (flops, [8.5, 17])):
        lines = {container.get_label(): container.lines for container in axes.containers}
        assert list(lines) == ["rigl", "set"]
        line, _, (bars,) = lines["rigl"]
        np.testing.assert_allclose(line.get_xdata(orig=False), places, rtol=0.02)  # lines stand a little apart
        mean, deviation = 100 * statistics.fmean(TOP1["rigl"]), 100 * statistics.stdev(TOP1["rigl"])
        np.testing.assert_allclose(line.get_ydata(orig=False), [mean, mean])
        np.testing.assert_allclose(bars.get_segments()[0][:, 1], [mean - deviation, mean + deviation])
        (across,) = (line for line in axes.lines if line.get_label() == "dense")
        np.testing.assert_allclose(across.get_ydata(orig=False), 100 * statistics.fmean(TOP1["dense"]))
        (band,) = axes.patches
        half = 100 * statistics.stdev(TOP1["dense"])
        low, high = band.get_extents().transformed(axes.transData.inverted()).intervaly
        np.testing.assert_allclose([low, high], [across.get_ydata()[0] - half, across.get_ydata()[0] + half])


def test_every_run_is_in_the_table_with_its_state(grid: Path) -> None:
    report(grid)
    rows = {row["run"]: row for row in read_page(grid / "report.html").table("run", "state")}
    assert len(rows) == 15
    assert {name: row["state"] for name, row in rows.items() if row["state"] != "finished"} == {
        "set-0.05-2": "under way",
        "set-0.05-3": "crashed",
    }
    assert rows["rigl-0.1-2"]["last top-1"] == "74.00%"
    assert rows["rigl-0.1-2"]["wall time"] == "102.0 s"
    assert rows["set-0.05-2"]["last top-1"] == "–"


def test_links_lead_to_the_runs_own_reports_or_folders(grid: Path, tmp_path: Path) -> None:
    odd = write_run(grid / "a b" / "50%#?&'\"<i>ü:1", {"name": "odd", "sparsity.density": 0.1}, **finished(0.5))
    (grid / "set-0.1-1" / "report.html").touch()
    output = tmp_path / "else" / "where.html"
    assert report(grid, f"--output={output}").code == 0
    page = read_page(output)
    assert len(page.links) == 16
    for text, address in page.links.items():
        assert "://" not in address
        target = (output.parent / unquote(html.unescape(address))).resolve()
        folder = odd if text == "odd" else grid / text
        assert target == (folder / "report.html" if text == "set-0.1-1" else folder).resolve()
    assert "i" not in page.tags


def test_no_run_has_finished(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"run{seed}", {"seed": seed, "sparsity.density": 0.1})
    assert report(tmp_path).code == 0
    page = read_page(tmp_path / "report.html")
    assert "No run has finished yet." in page.paragraphs
    assert page.sources == []
    assert {row["state"] for row in page.table("run", "state")} == {"cut off"}


def test_a_seed_that_stands_twice_is_told(grid: Path) -> None:
    write_run(grid / "again", {"sparsity.method": "rigl", "sparsity.density": 0.1, "seed": 1}, **finished(0.5))
    assert report(grid).code == 0
    paragraphs = read_page(grid / "report.html").paragraphs
    assert "method rigl, density 0.1: several runs have seed 1, so n seeds are fewer." in paragraphs


def test_folders_and_runs_may_be_mixed_and_the_report_lies_here(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report("runs/set-0.1-1", "runs/rigl-0.1-1", "runs/set-0.1-1").out == "report.html\n"
    assert read_page(Path("report.html")).heading == "2 runs"


def test_each_run_gets_a_report_of_its_own(tmp_path: Path) -> None:
    values = {**VALUES, "train.epochs": 1, "output": tmp_path / "real"}
    assert train_here(values).code == 0
    write_run(tmp_path / "other", {"seed": 2, "sparsity.density": 0.1})
    assert report(tmp_path, "--each", "--no-evaluate").code == 0
    page = read_page(tmp_path / "report.html")
    assert sorted(page.links.values()) == ["other/report.html", "real/report.html"]
    own, top1 = (
        read_page(tmp_path / "real" / "report.html"),
        json.loads((tmp_path / "real/summary.json").read_text())["last_top1"],
    )
    assert own.facts["last top-1"][0] == f"{top1:.2%}"


def test_words_for_an_evaluation_that_is_not_made_are_refused(grid: Path) -> None:
    assert report(grid, "--engine.device=cpu").errors == [
        "--engine.device=cpu: is for the evaluation of a run, and none is made; --help tells what is accepted"
    ]
    assert not (grid / "report.html").exists()
