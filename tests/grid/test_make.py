"""Making grid files: which runs come of lists of values, their names, what is shipped, and what is refused."""

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_sparse.config import load_config, parse_args
from dist_sparse.grid import read_grid
from dist_sparse.grid.__main__ import main
from dist_sparse.grid.lists import combine, read_lists
from dist_sparse.grid.make import make_grid
from tests.command import ROOT, Outcome, here

RIGL, SET, GMP = (f"--config=configs/digits/{name}.yaml" for name in ("rigl", "set", "gmp"))
SHIPPED = sorted((ROOT / "configs" / "grids").glob("*.txt"))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def make(*words: str) -> Outcome:
    return here(main, ["make", *words])


def test_every_combination_once_and_the_last_key_fastest() -> None:
    runs = make_grid([RIGL, "sparsity.density=0.2,0.1", "--seed=1,2"]).runs
    assert [run.arguments for run in runs] == [
        (RIGL, f"--sparsity.density={density}", f"--seed={seed}", f"--name=digits-rigl-density{density}-seed{seed}")
        for density in ("0.2", "0.1")
        for seed in ("1", "2")
    ]


def test_the_lines_train_what_they_say() -> None:
    runs = make_grid([f"{RIGL},configs/digits/gmp.yaml", "sparsity.density=0.2,0.05", "seed=7", "train.epochs=3"]).runs
    configs = [parse_args(run.arguments).config for run in runs]
    assert [(each.sparsity.method, each.sparsity.density) for each in configs] == [
        (method, density) for method in ("rigl", "gmp") for density in (0.2, 0.05)
    ]
    assert {(each.seed, each.train.epochs, each.data.name) for each in configs} == {(7, 3, "digits")}
    assert [each.name for each in configs] == [run.name for run in runs]
    assert configs[0].sparsity.update == load_config("configs/digits/rigl.yaml").sparsity.update


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([RIGL], ["digits-rigl"]),
        ([RIGL, "name=trial", "seed=1,2"], ["trial-seed1", "trial-seed2"]),
        ([f"{RIGL},configs/digits/set.yaml"], ["digits-rigl", "digits-set"]),
        ([f"{RIGL},configs/digits/set.yaml", "name=try"], ["try-rigl", "try-set"]),
        ([RIGL, "sparsity.method=rigl,set"], ["digits-rigl", "digits-set"]),
        ([RIGL, "sparsity.update.end=50%,90%", "sparsity.update.form=original,itop"],
         [f"digits-rigl-end{end}-form_{form}" for end in (50, 90) for form in ("original", "itop")]),
        ([GMP, "sparsity.ramp.end=50%,5 epochs", "optim.lr=.1,1e-2"],
         [f"digits-gmp-end{end}-lr{lr}" for end in ("50", "5_epochs") for lr in (".1", "1e-2")]),
        ([GMP, "sparsity.ramp.start=0%,50 steps", "scheduler.warmup=1 epochs,9"],
         [f"digits-gmp-start{start}-warmup{warmup}" for start in ("0", "50_steps") for warmup in ("1_epochs", "9")]),
        (["data.name=digits", "sparsity.density=0.1", "sparsity.structure=unstructured,kernel"],
         ["run-unstructured", "run-kernel"]),
        ([RIGL, "sparsity.keep_dense=[first,last],[last]"],
         ["digits-rigl-keep_dense_first_last", "digits-rigl-keep_dense_last"]),
        # Values that a name cannot tell apart, and keys that end alike.
        ([RIGL, "scheduler.warmup=50%,50"], ["digits-rigl-warmup50", "digits-rigl-warmup50-run2"]),
        ([RIGL, "sparsity.ramp.end=null", "optim.name=sgd,adamw", "model.name=cifar_resnet20"],
         ["digits-rigl-sgd", "digits-rigl-adamw"]),
    ],
)  # fmt: skip
def test_names_are_readable(words: list[str], names: list[str]) -> None:
    assert [run.name for run in make_grid(words).runs] == names


def test_a_file_of_another_name_gives_runs_that_start(tmp_path: Path) -> None:
    (tmp_path / "rigl+wd.yaml").write_text(f"base: {ROOT}/configs/digits/rigl.yaml\n")
    runs = make_grid([f"--config={tmp_path}/rigl+wd.yaml,digits/set", "name=try"]).runs
    assert [run.name for run in runs] == ["try-rigl_wd", "try-set"]
    assert [parse_args(run.arguments).config.name for run in runs] == ["try-rigl_wd", "try-set"]


def test_keys_that_end_alike_are_named_in_full() -> None:
    words = ["sparsity.density=0.1", "sparsity.update.end=50%,60%", "sparsity.ramp.end=1,2"]
    combination = combine(read_lists(words))[0]
    assert combination.name(load_config()) == "run-sparsity.update.end50-sparsity.ramp.end1"


VALUE = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters=",[]{}()"), min_size=1)
BRACKETED = st.lists(VALUE, max_size=3).map(lambda values: f"[{','.join(values)}]")


@given(st.lists(VALUE | BRACKETED, min_size=1, unique=True))
def test_commas_within_brackets_do_not_separate(values: list[str]) -> None:
    assert read_lists([f"data.root={','.join(values)}"]) == {"data.root": values}


@pytest.mark.parametrize("path", SHIPPED, ids=[path.name for path in SHIPPED])
def test_a_shipped_grid_is_what_its_first_line_makes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("*.txt"))
    monkeypatch.chdir(tmp_path)
    command = shlex.split(path.read_text().splitlines()[0].removeprefix("# "))
    assert command[:4] == ["python", "-m", "dist_sparse.grid", "make"]
    outcome = make(*command[4:])
    assert (outcome.code, outcome.err) == (0, "")
    again = tmp_path / path.relative_to(ROOT)
    assert again.read_text() == path.read_text()
    assert len(read_grid(again)) == 27
    assert (
        f"# 27 runs; eight at a time: sbatch --array=1-27%8 slurm/array.sbatch {path.relative_to(ROOT)}\n" in again.read_text()
    )


def test_a_method_that_leaves_keys_unused_is_warned_of_once() -> None:
    outcome = make(RIGL, "sparsity.method=rigl,gmp", "seed=1,2")
    assert outcome.code == 0
    (line,) = [line for line in outcome.err.splitlines() if "drop_fraction" in line]
    assert line.startswith("warning: run 3 of 4 (sparsity.method=gmp seed=1), and 1 more: without effect in this run: ")


MISTAKES: list[tuple[Sequence[str], str]] = [
    ([RIGL, "sparsity.density=0.2,2", "seed=1,2,3"],
     "run 4 of 6 (sparsity.density=2 seed=1), and 2 more: sparsity.density=2 (from the command line): should be less than"),
    ([RIGL, "sparsity.method=rigl,rigll"], "run 2 of 2 (sparsity.method=rigll): sparsity.method='rigll' is unknown; did you "),
    ([RIGL, "sparsity.densty=0.1"], "run 1 of 1 (the only run): sparsity.densty: unknown key (from the command line); did you"),
    ([RIGL, "sparsity.density=0.1,null"], "run 2 of 2 (sparsity.density=null): sparsity.density is needed for method rigl"),
    ([f"{RIGL},configs/digits/rig.yaml"], "run 2 of 2 (config=configs/digits/rig.yaml): configs/digits/rig.yaml: no such file"),
    ([RIGL, "seed=1,01"], "run 2 of 2 (seed=01): is the same as run 1 (seed=1)"),
    ([RIGL, "seed=1,1"], "seed=1,1: has 1 twice"),
    ([RIGL, "seed=1,,2"], "seed=1,,2: has an empty value; write seed=value,value,..."),
    ([RIGL, "seed="], "seed=: has an empty value"),
    ([RIGL, "seed=1", "--seed=2"], "seed is given twice; its values go into one list: seed=1,2"),
    ([RIGL, "seed"], "'seed' is not understood; write key=value,value,... such as seed=1,2,3"),
    ([RIGL, "optim.kwargs={betas: [0.9,0.95}"], "optim.kwargs={betas: [0.9,0.95}: its brackets do not match"),
    ([RIGL, "optim.kwargs={betas"], "optim.kwargs={betas: its brackets do not match"),
    ([RIGL, "data.root=a\nb"], r"'data.root=a\nb' is not understood: should be UTF-8 text on one line"),
    ([RIGL, "output=runs/a"], "output cannot be in a grid: what starts the runs decides on it"),
    ([RIGL, "name=a,b"], "name=a,b: should be one value, which the names of all runs begin with"),
    ([RIGL, f"data.root=/a/{'x' * 200},/b/{'x' * 200}", "seed=1,2"],
     f"run 1 of 4 (data.root=/a/{'x' * 200} seed=1), and 3 more: the name that is made of its values should be at most 200 "),
    ([RIGL, "name=a/b"], "run 1 of 1 (the only run): name=a/b (from the command line): should be of letters, digits and _ . -"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "beginning"), MISTAKES, ids=[" ".join(words[1:]) for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path: Path, words: Sequence[str], beginning: str) -> None:
    path = tmp_path / "mine.txt"
    outcome = make(*words, f"--output={path}")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {beginning}")
    assert outcome.err.count("\n") == 1
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_named() -> None:
    outcome = make(RIGL, "--output=/dev/null/mine.txt")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: --output=/dev/null/mine.txt cannot be written: ")
