"""The report of one run: its numbers are those of the run's files, whatever state the run is in."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_sparse import evaluate
from dist_sparse.report.curves import mask_pictures, training_pictures
from dist_sparse.report.history import read_history
from dist_sparse.sparsity import bits
from tests.command import here, train_here
from tests.report.html_page import read_page
from tests.report.runs import VALUES, column, page_of, report, rows_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has come to its end, and its report; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    outcome = train_here({**VALUES, "output": folder})
    assert outcome.code == 0, outcome.err
    assert report(folder).code == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run without its report, to be changed."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "report.html").unlink()
    return folder


def test_it_needs_nothing_but_itself(finished: Path) -> None:
    page = read_page(finished / "report.html")
    assert page.sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert page.links == {}
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on")]
    assert "url(" not in (finished / "report.html").read_text()


def test_figures_are_those_of_the_files(finished: Path) -> None:
    page, summary = read_page(finished / "report.html"), json.loads((finished / "summary.json").read_text())
    top1 = column(finished, "val/top1")
    best = max(value for _, value in top1)
    assert page.facts["best top-1"] == (f"{best:.2%}", f"at step {min(step for step, value in top1 if value == best)}")
    assert page.facts["last top-1"] == (f"{top1[-1][1]:.2%}", f"at step {top1[-1][0]}")
    assert page.facts["density"][0] == f"{column(finished, 'sparsity/density')[-1][1]:.2%}"
    assert page.facts["ever active"][0] == f"{column(finished, 'sparsity/exploration')[-1][1]:.2%}"
    assert page.facts["inference FLOPs"][0] == f"{summary['inference_flops_relative']:.2%}"
    assert page.facts["training FLOPs"][0] == f"{summary['train_flops_relative']:.2%}"
    assert page.facts["steps"] == (str(summary["steps"]), "epoch 4 of 4")
    measured = {row[""]: row["measured"] for row in page.table("", "measured")}
    number, unit = measured["peak memory of the first rank"].split()  # which depends on what else this process has done
    peak = max(value for _, value in column(finished, "memory/peak_bytes"))
    assert float(number) * {"MB": 1e6, "GB": 1e9}[unit] == pytest.approx(peak, rel=0.005)
    assert measured["wall time"] == f"{summary['wall_seconds']:.1f} s"


def test_layers_are_those_of_the_last_update_and_of_the_checkpoint(finished: Path) -> None:
    page = read_page(finished / "report.html")
    *layers, total = page.table("layer", "shape")
    logged = {row["layer"]: row for row in rows_of(finished / "layers.csv")}
    state = torch.load(max((finished / "checkpoints").glob("step_*.pt")))
    explored = {name: bits.popcount(packed) for name, packed in state["method"]["explored"].items()}
    shown = {row["layer"]: row for row in layers}
    assert explored.keys() == logged.keys() <= shown.keys()
    for name, row in logged.items():
        weights = state["state_dict"][name].numel()
        assert shown[name]["density"] == f"{float(row['density']):.4f}"
        assert shown[name]["active"] == f"{bits.popcount(state['method']['masks'][name]):,}"
        assert shown[name]["ever active"] == f"{explored[name] / weights:.2%}"
    share = sum(explored.values()) / sum(state["state_dict"][name].numel() for name in explored)
    assert share == column(finished, "sparsity/exploration")[-1][1]
    summary = json.loads((finished / "summary.json").read_text())
    assert (total["active"], total["weights"]) == (f"{summary['active_parameters']:,}", f"{summary['parameters']:,}")
    assert total["kMACs"] == f"{summary['flops'] / 2000:,.1f}"
    assert f"takes {summary['flops']:,.0f} FLOPs" in page.text


def test_lines_and_maps_are_those_of_the_files(finished: Path) -> None:
    history = read_history(finished)
    for name in ("train/loss", "train/lr", "val/top1", "val/loss", "sparsity/changed"):
        assert history.series(name) == column(finished, name) != []
    rows = rows_of(finished / "layers.csv")
    for name in ("density", "changed"):
        found = history.layer_map(name)
        assert found is not None
        assert found.values.shape == (len(found.layers), len(found.steps))
        for row in rows:
            assert found.values[found.layers.index(row["layer"]), found.steps.index(int(row["step"]))] == float(row[name])
    assert len(rows) == found.values.size
    (accuracy, loss, rate) = (picture.make().axes[0] for picture in training_pictures(history))
    steps, values = np.array(column(finished, "val/top1")).T
    np.testing.assert_array_equal(accuracy.lines[0].get_xydata(), np.stack([steps, 100 * values], axis=1))
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), column(finished, "train/loss"))
    np.testing.assert_array_equal(rate.lines[0].get_xydata(), column(finished, "train/lr"))
    *_, density, changed = mask_pictures(history)
    np.testing.assert_array_equal(changed.make().axes[0].images[0].get_array(), 100 * found.values)
    assert density.name == "density_by_layer"


def test_classes_are_those_of_the_best_checkpoint(finished: Path) -> None:
    page, summary = read_page(finished / "report.html"), json.loads((finished / "summary.json").read_text())
    (line,) = (text for text in page.paragraphs if text.startswith("best.pt"))
    assert line == f"best.pt (step {summary['best_step']}): top-1 {summary['best_top1']:.2%} of 360 images."
    assert f"top-1 {summary['best_top1']:.2%}" in here(evaluate.main, [str(finished)]).out
    classes = page.table("class", "images")
    assert sorted(row["class"] for row in classes) == list("0123456789")
    right = sum(round(int(row["images"]) * float(row["top-1"].rstrip("%")) / 100) for row in classes)
    assert right == round(360 * summary["best_top1"])
    pairs = page.table("class", "taken for")
    counts = [int(row["images"]) for row in pairs]
    assert counts == sorted(counts, reverse=True)
    assert 0 < sum(counts) <= 360 - right
    assert all(row["class"] != row["taken for"] for row in pairs)


def test_the_configuration_is_told_as_differences(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    words = "python -m dist_sparse.train --config configs/digits/rigl.yaml --sparsity.density=0.3"
    (run / "environment.json").write_text(json.dumps({**environment, "command": words}))
    page = page_of(run)
    recipe = {row["key"]: (row["this run"], row["recipe"]) for row in page.table("key", "this run", "recipe")}
    assert recipe["sparsity.density"] == ("0.3", "0.1")
    assert recipe["train.epochs"] == ("4", "40")
    assert "data.name" not in recipe
    assert not {"name", "output"} & recipe.keys()
    defaults = {row["key"]: (row["this run"], row["default"]) for row in page.table("key", "this run", "default")}
    assert defaults["optim.lr"] == ("0.01", "0.1")
    assert "sparsity.update.drop_fraction" not in defaults, "the method's own"
    assert "Differs from its recipe, configs/digits/rigl.yaml, in:" in page.paragraphs
    every = {row["key"]: row["value"] for row in page.table("key", "value")}
    assert every["model.name"] == "vit_tiny_patch16_224"


def test_a_recipe_that_is_gone_is_one_line(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "command": "train --config=gone.yaml"}))
    page = page_of(run)
    assert any(line.startswith("The recipe cannot be read any more: gone.yaml: no such file") for line in page.paragraphs)


def test_the_classes_can_be_left_out(finished: Path) -> None:
    page = page_of(finished)
    assert "best.pt" not in page.text
    assert not [table for table in page.tables if table[0][0] == "class"]


@pytest.mark.parametrize("lost", [2, 30])
def test_a_run_under_way_is_reported_up_to_its_last_whole_lines(run: Path, lost: int) -> None:
    whole = rows_of(run / "metrics.csv")
    (run / "summary.json").unlink()
    (run / "lock").touch()
    for name in ("metrics.csv", "layers.csv"):
        text = (run / name).read_text()
        (run / name).write_text(text[:-lost])  # the line's end and a digit, or more than half of it
    page = page_of(run)
    assert page.paragraphs[0].startswith("under way:")
    assert page.facts["steps"] == (whole[-2]["step"], f"epoch {float(whole[-2]['epoch']):.3g} of 4")
    logged = [(step, value) for step, value in column(run, "val/top1") if step < int(whole[-1]["step"])]
    assert page.facts["last top-1"] == (f"{logged[-1][1]:.2%}", f"at step {logged[-1][0]}")
    assert page.facts["wall time"] == ("–", "known at the end")
    assert len(read_history(run).layers) == len(rows_of(run / "layers.csv")) - 1


def test_a_run_that_was_killed_is_told_from_one_under_way(run: Path) -> None:
    (run / "summary.json").unlink()
    (run / "lock").touch()
    os.utime(run / "lock", (0, 0))
    assert page_of(run).paragraphs[0].startswith("not finished, and no process trains here")


def test_a_run_that_has_only_begun_says_what_there_is_not_yet(run: Path) -> None:
    for name in ("metrics.csv", "layers.csv", "summary.json", "environment.json"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    page = page_of(run, evaluate=True)
    assert "Nothing has been logged yet." in page.paragraphs
    absent = [line for line in page.paragraphs if line.startswith("Left out")]
    assert absent == [
        f"Left out, as are FLOPs by layer: {run / 'checkpoints'} holds no best checkpoint.",
        f"Left out: {run / 'checkpoints'} holds no last checkpoint.",
    ]
    assert page.facts["best top-1"] == ("–", "")


def test_the_best_checkpoint_may_be_the_only_one_yet(run: Path) -> None:
    for path in (run / "checkpoints").glob("step_*.pt"):
        path.unlink()
    assert any(text.startswith("best.pt, step ") for text in page_of(run).paragraphs)


def test_a_broken_checkpoint_is_one_line_in_the_report(run: Path) -> None:
    for path in (run / "checkpoints").glob("*.pt"):
        path.unlink()
        path.write_bytes(b"no checkpoint")
    page = page_of(run, evaluate=True)
    assert sum("not a sound checkpoint" in line for line in page.paragraphs) == 2


def test_keys_of_the_evaluation_can_be_set(finished: Path) -> None:
    page = page_of(finished, "--data.name=cifar10", "--data.root=nowhere", evaluate=True)
    (line,) = (text for text in page.paragraphs if text.startswith("Left out"))
    assert "nowhere" in line


def test_whatever_a_file_says_is_text(run: Path) -> None:
    evil = '<script>alert(1)</script> & "$x$" <img src=http://example.org/x>'
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "exit_reason": evil, "no_best": evil, "best_top1": None}))
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "command": evil, "packages": {evil: evil}}))
    for name in ("metrics.csv", "layers.csv"):
        text = (run / name).read_text()
        (run / name).write_text(text.replace("blocks.0", "<b>$a$ $"))
    outcome = report(run, "--no-evaluate")
    assert (outcome.code, outcome.err) == (0, "")
    page = read_page(run / "report.html")
    assert page.paragraphs[0] == f"not finished: {evil}"
    assert not {"script", "b"} & set(page.tags)
    assert all(source.startswith("data:") for source in page.sources)
    assert any(row == ["command", evil] for table in page.tables for row in table)


def test_a_figure_is_drawn_alike_twice(finished: Path) -> None:
    first, second = (training_pictures(read_history(finished))[0] for _ in range(2))
    assert first.svg() == second.svg()
    assert first.png() == second.png()


def test_images(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "made" / "page.html"
    outcome = report(run, f"--output={output}", "--images")
    files = {path.stem: path for path in (tmp_path / "made" / "page_images").iterdir()}
    assert outcome.out.splitlines() == [str(output), f"{output.with_name('page_images')}: {len(files)} figures"]
    assert len(files) == len(read_page(output).sources)
    assert {
        "accuracy",
        "loss",
        "learning_rate",
        "density",
        "changed_by_layer",
        "flops",
        "classes",
        "throughput",
    } <= files.keys()
    assert all(path.suffix == ".png" and path.read_bytes().startswith(b"\x89PNG") for path in files.values())
    assert not (run / "report.html").exists()
    output.unlink()
    assert report(run, f"--output={output}", "--images").errors == [
        f"{output.with_name('page_images')} is there already: --overwrite replaces it, --output=FILE writes another"
    ]


def test_sub_nets(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    values = {**VALUES, "sparsity.method": "ast", "sparsity.density": None, "sparsity.ast.densities": [0.5, 0.25]}
    assert train_here({**values, "output": folder}).code == 0
    page = page_of(folder, evaluate=True)
    last = rows_of(folder / "metrics.csv")[-1]
    (line,) = (text for text in page.paragraphs if text.startswith(("best.pt", "step_")))
    assert "subnet2" in line
    assert page.facts["last top-1"][0] == f"{float(last['val/subnet2_top1']):.2%}"
    found = read_history(folder).layer_map("density")
    assert found is not None
    assert found.label == "subnet2"
    logged = [row for row in rows_of(folder / "layers.csv") if row["layer"].startswith("subnet2 ")]
    assert len(logged) == np.isfinite(found.values).sum() > 0


def test_a_dense_run_has_no_masks(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    values = {**VALUES, "sparsity.method": "dense", "sparsity.density": None, "train.epochs": 1}
    assert train_here({**values, "output": folder}).code == 0
    page = page_of(folder)
    assert "The network is dense: it has no masks." in page.paragraphs
    assert {row["ever active"] for row in page.table("layer", "shape")[:-1]} == {"–"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["missing"], "missing: no such folder"),
        (["empty"], "empty: holds no runs; the folder of a run has a config.yaml"),
        (["RUN"], "RUN/report.html is there already: --overwrite replaces it, --output=FILE writes another"),
        (["RUN", "--output=empty"], "--output=empty is a folder: give the name of a file, such as empty/report.html"),
        (["RUN", "--output=/dev/null/a.html"], "--output=/dev/null/a.html cannot be written: File exists"),
        (["RUN", "--data.nam=x"], "data.nam: unknown key"),
        (["RUN", "--no-evaluate", "--data.root=x"], "--data.root=x: is for the evaluation of a run, and none is made"),
        (["RUN", "--imagse"], "imagse: unknown key"),
        ([], "the following arguments are required: FOLDER"),
    ],
)
def test_a_mistake_is_one_line(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    outcome = report(*(word.replace("RUN", str(finished)) for word in words))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {line.replace('RUN', str(finished))}")
    assert outcome.err.count("\n") == 1
