"""The study of benchmarks/study: runs are those of the recipes, none is made twice, and the intervals are right."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from benchmarks.study.__main__ import arguments, main, wanted
from benchmarks.study.cases import ABLATIONS, BLOCKS, METHODS, NM, RECIPES, Case, cases
from benchmarks.study.plot import AXES, lines, picture
from benchmarks.study.record import append, read
from benchmarks.study.runs import Row, row_of, rows_of
from benchmarks.study.statistics import paired
from benchmarks.study.table import overview, tables
from dist_sparse.build import resolved
from dist_sparse.config import to_flat
from tests.command import Outcome, here, train_here
from tests.shipped_configs import plan
from tests.values import QUIET

TINY = ["--seeds", "1", "--densities", "0.1", "--epochs", "1", "--jobs", "1", "--methods", "dense", "static", "granet"]
"""Two steps: GraNet cannot begin, since no update falls into them."""


@pytest.fixture(scope="module")
def record(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The record of the tiny study, and what the command said."""
    file = tmp_path_factory.mktemp("study") / "runs.csv"
    return file, study(file, images)


def study(record: Path, images: Path, *more: str) -> Outcome:
    return here(main, [*TINY, "--record", str(record), "--data-root", str(images), *more])


def test_runs_are_recorded_and_a_failed_one_is_told(record: tuple[Path, Outcome]) -> None:
    file, said = record
    assert said.code == 1 and "granet, density 0.1, seed 0: failed: sparsity.ramp" in said.err
    assert [row.case for row in read(file, Row)] == ["dense", "static"]
    assert "| static | 1 |" in said.out and "2 of 3 runs" in said.out


def test_a_row_is_what_the_training_command_gives(record: tuple[Path, Outcome], images: Path, tmp_path: Path) -> None:
    case = Case(recipe="static", network="lenet_300_100", density=0.1, seed=0, epochs=1)
    keys = dict(option.removeprefix("--").split("=", 1) for option in case.overrides)
    keys |= {**QUIET, "config": RECIPES / "static.yaml", "output": tmp_path, "data.root": images}
    assert train_here(keys).code == 0
    (row,) = rows_of([case], read(record[0], Row)).values()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert row == row_of(case, summary, row.cpu_seconds)


def test_a_finished_run_is_not_made_again(record: tuple[Path, Outcome], images: Path) -> None:
    before = record[0].read_bytes()
    assert study(record[0], images, "--methods", "dense", "static").code == 0
    assert record[0].read_bytes() == before


def test_no_run_begins_after_the_time_is_over(tmp_path: Path) -> None:
    said = study(tmp_path / "runs.csv", tmp_path, "--hours", "0")
    assert said.code == 0 and "0 of 3 runs" in said.out and not (tmp_path / "runs.csv").exists()


def test_summary_trains_nothing_and_draws(record: tuple[Path, Outcome], tmp_path: Path) -> None:
    said = study(record[0], tmp_path, "--summary", "--plot", str(tmp_path))
    assert said.code == 0 and "| dense | 1 |" in said.out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"accuracy_over_density.svg", "accuracy_over_training_flops.svg"}


def test_an_ablation_has_a_plot_of_its_values(images: Path, tmp_path: Path) -> None:
    asked = wanted(arguments(["--ablation", "drop_fraction", "--densities", "0.1", "0.02", "--seeds", "2"]))
    for case in asked:
        append(tmp_path / "runs.csv", row(case, 0.8 + 0.01 * case.seed))
    words = ["--ablation", "drop_fraction", "--densities", "0.1", "0.02", "--seeds", "2", "--plot", str(tmp_path)]
    assert here(main, [*words, "--summary", "--record", str(tmp_path / "runs.csv")]).code == 0
    assert (tmp_path / "ablation_drop_fraction.svg").read_bytes().startswith(b"<?xml")
    assert not list(tmp_path.glob("accuracy_*"))


def test_the_overview_has_a_column_for_each_density(found: dict[Case, Row]) -> None:
    dense = next(iter(cases("lenet_300_100", ["dense"], [0.1], 1, 8, None)))
    lines = overview({dense: row(dense, 0.9), **found}).splitlines()
    assert lines[0] == "| top-1, % | 0.1 | 0.02 | training FLOPs |"
    assert lines[2:4] == ["| dense | 90.00 | 90.00 | 0.200 |", "| static | 80.00 ± 5.77 | 80.00 ± 5.77 | 0.200 |"]


def test_the_dense_network_may_be_alone(tmp_path: Path) -> None:
    for case in cases("lenet_300_100", ["dense"], [0.1], 2, 8, None):
        append(tmp_path / "runs.csv", row(case, 0.9))
    said = here(main, ["--methods", "dense", "--summary", "--record", str(tmp_path / "runs.csv"), "--plot", str(tmp_path)])
    assert said.code == 0
    assert "| top-1, % | 1 | training FLOPs |\n| --- | ---: | ---: |\n| dense | 90.00 ± 0.00 | 0.200 |\n" in said.out


def test_a_cut_off_study_is_a_balanced_one() -> None:
    order = [
        (case.seed, case.density, case.recipe)
        for case in cases("lenet_300_100", ["dense", "static", "rigl"], [0.1, 0.02], 2, 8, None)
    ]
    first = [(0, 1.0, "dense"), (0, 0.1, "static"), (0, 0.1, "rigl"), (0, 0.02, "static"), (0, 0.02, "rigl")]
    assert order == first + [(1, density, recipe) for _, density, recipe in first]


@pytest.mark.parametrize("name", ["methods", *ABLATIONS])
def test_every_case_can_start_at_the_lowest_density(name: str) -> None:
    words = ["--densities", "0.005", "--seeds", "1"] + ([] if name == "methods" else ["--ablation", name])
    asked = wanted(arguments(words))
    assert len({case.settings for case in asked}) == len(asked) > 1
    for case in asked:
        assert plan(resolved(case.config)) == 8 * 468
        assert case.recipe == "dense" or min(_densities(case)) == 0.005


def _densities(case: Case) -> list[float]:
    sparsity = case.config.sparsity
    return [*sparsity.ast.densities, *sparsity.mest.keep] or [sparsity.density or 1.0]


def test_an_ablation_shares_the_run_of_the_recipe_itself() -> None:
    plain = wanted(arguments(["--methods", "rigl", "--densities", "0.02", "--seeds", "1"]))
    ablation = wanted(arguments(["--ablation", "drop_fraction", "--densities", "0.02", "--seeds", "1"]))
    labels = ["rigl, drop_fraction 0.1", "rigl", "rigl, drop_fraction 0.5", "rigl, drop_fraction 0.7"]
    assert [case.label for case in ablation] == labels
    assert plain == [case for case in ablation if not case.changed]
    assert [to_flat(case.config)["sparsity.update.drop_fraction"] for case in ablation] == [0.1, 0.3, 0.5, 0.7]


def test_blocks_need_convolutions() -> None:
    with pytest.raises(SystemExit, match="--network cnn_4"):
        wanted(arguments(["--methods", "dsb"]))


def row(case: Case, top1: float) -> Row:
    density = {"density": case.density, "mean_density": case.density}
    return row_of(case, {**density, "last_top1": top1, "inference_flops_relative": 0.1, "train_flops_relative": 0.2}, 9.0)


@pytest.fixture
def found() -> dict[Case, Row]:
    """Three seeds of three methods at two densities; the seeds differ much more than the methods."""
    accuracies = {"static": (0.70, 0.80, 0.90), "rigl": (0.71, 0.81, 0.91), "gmp": (0.70, 0.83, 0.90)}
    of = cases("lenet_300_100", accuracies, [0.1, 0.02], 3, 8, None)
    return {case: row(case, accuracies[case.recipe][case.seed] + case.seed * 1e-4 * (case.recipe == "rigl")) for case in of}


def test_a_record_is_read_as_it_was_written_and_old_settings_do_not_count(found: dict[Case, Row], tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.csv"
    for each in found.values():
        append(path, each)
    assert rows_of(found, read(path, Row)) == found
    changed = [dataclasses.replace(case, epochs=9) for case in found]
    assert rows_of(changed, read(path, Row)) == {}
    with path.open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(found)


def test_differences_are_within_seeds_with_their_interval(found: dict[Case, Row]) -> None:
    ours, theirs = (
        [100 * each.top1 for case, each in found.items() if case.recipe == name and case.density == 0.1]
        for name in ("rigl", "static")
    )
    difference = paired(dict(enumerate(ours)), dict(enumerate(theirs)) | {7: 0.0})
    expected = ttest_rel(ours, theirs).confidence_interval(0.95)
    assert difference is not None and difference.n == 3
    low, high = difference.mean - difference.half_width, difference.mean + difference.half_width
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert difference.differs_from_zero
    assert paired({0: 1.0}, {1: 1.0}) is None
    alone = paired({0: 1.0}, {0: 2.0})
    assert alone is not None and math.isnan(alone.half_width) and not alone.differs_from_zero


def test_the_table_tells_noise_from_differences(found: dict[Case, Row]) -> None:
    text = tables(found)
    assert "| rigl | 3 | 81.01 ± 5.78 | **+1.01 ± 0.02** |  |" in text
    assert "| gmp | 3 | 81.00 ± 5.86 | +1.00 ± 4.30 | -0.01 ± 4.30 |" in text
    assert text.index("density 0.1") < text.index("density 0.02")
    assert "| rigl | 3 | 81.01 ± 5.78 | +0.01 ± 4.30 |" in tables(found, ["gmp"])


def test_recipes_of_nm_are_compared_to_one_another() -> None:
    of = wanted(arguments(["--methods", *NM, "--seeds", "2"]))
    assert {case.density for case in of} == {0.25}
    assert all(case.config.sparsity.structure == "nm:1:4" for case in of)
    text = tables({case: row(case, 0.8 + 0.01 * (case.recipe == "srste")) for case in of})
    assert "| srste | 2 | 81.00 ± 0.00 | **+1.00 ± 0.00** | **+1.00 ± 0.00** |" in text


def test_settings_of_an_ablation_are_compared_to_the_recipe_itself() -> None:
    of = wanted(arguments(["--ablation", "correction", "--seeds", "2", "--densities", "0.02"]))
    text = tables({case: row(case, 0.8 + 0.01 * (case.changed == ())) for case in of})
    assert "| ast, correction none | 2 | 80.00 ± 0.00 | **-1.00 ± 0.00** |" in text and "- static" not in text


def test_plots_have_every_method_and_are_the_same_twice(found: dict[Case, Row]) -> None:
    for over in AXES:
        assert list(lines(found, over)) == ["static", "rigl", "gmp"]
        assert [len(points) for points in lines(found, over).values()] == [2, 2, 2]
        assert picture(found, over, "title").svg() == picture(found, over, "title").svg()


def test_every_recipe_is_studied() -> None:
    assert {*METHODS, *BLOCKS, *NM} == {path.stem for path in RECIPES.glob("*.yaml")}
