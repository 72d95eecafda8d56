"""The Markdown files say what the code does: commands run, links lead somewhere, tables are the code's."""

import ast
import importlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest

from benchmarks import execution_table, methods, published
from benchmarks.references import runs as references
from benchmarks.references.__main__ import arguments as references_arguments
from benchmarks.references.__main__ import recorded
from benchmarks.study.__main__ import arguments, wanted
from benchmarks.study.cases import ABLATIONS
from benchmarks.study.record import read
from benchmarks.study.runs import Row, rows_of
from benchmarks.study.table import overview, tables
from dist_sparse.build import resolved
from dist_sparse.config import parse_args
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.combinations import table
from dist_sparse.sparsity.structures import STRUCTURES
from tests.command import PATIENCE, ROOT
from tests.readmes import LANGUAGES, PROGRAMS, Command, commands, files

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files()}
README = TEXTS["README.md"]
COMMANDS = [
    command for file, text in TEXTS.items() for command in commands(text, file) if command.language in ("bash", "python")
]
RUN = [
    command
    for index, command in enumerate(COMMANDS)
    if command.reason is None and command.text not in {earlier.text for earlier in COMMANDS[:index]}
]
"""What several files say is run once, in the first of them."""
FURTHER_STUDIES = [
    ["--methods", "static_nm", "rigl_nm", "gmp_nm", "srste"],
    ["--network", "cnn_4", "--methods", "dense", "static", "rigl", "ssb", "dsb", "--densities", "0.05"],
]
FIGURE = "benchmarks/records/study/accuracy_over_density.svg"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a user has after ``git clone`` and an installation, but no data and no runs."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", Path(FIGURE).name)
    for name in ("benchmarks", "configs", "dist_sparse", "launchers", "slurm"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored, symlinks=True)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted({command.file for command in RUN}))
def test_commands_run(file: str, clone: Path) -> None:
    """One after the other, in a clone, as a reader would who pastes them; whatever fails is wrong."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(clone), "CUDA_VISIBLE_DEVICES": ""}
    for command in RUN:
        if command.file == file:
            shell = ["bash", "-euo", "pipefail", "-c"] if command.language == "bash" else [sys.executable, "-c"]
            done = subprocess.run(
                [*shell, command.text],
                cwd=clone,
                env=environment,
                text=True,
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{command.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    drawn, shipped = clone / FIGURE, (ROOT / FIGURE).read_bytes()
    if file == "README.md" and f"Matplotlib v{matplotlib.__version__}".encode() in shipped:
        assert drawn.read_bytes() == shipped, "the figure is not that of the runs on record: run the command under it"


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_commands_name_what_there_is(command: Command) -> None:
    """Whether they are run or not: files, modules, options and keys exist."""
    for node in ast.walk(ast.parse(command.text)) if command.language == "python" else []:
        if isinstance(node, ast.ImportFrom):
            assert all(hasattr(importlib.import_module(str(node.module)), alias.name) for alias in node.names)
    for words in simple_commands(command.text) if command.language == "bash" else []:
        for word, after in itertools.pairwise(words):
            if word == "bash":
                assert (ROOT / after).is_file(), after
            if word == "-m" and after.split(".")[0] in ("dist_sparse", "benchmarks", "tests"):
                check_module(after, words[words.index(after) + 1 :])
        if "--config" in words and words[0] == "bash":
            check_module("dist_sparse.train", words[words.index("--config") :])


def simple_commands(text: str) -> Iterator[list[str]]:
    """The words of each command. One that a string holds, as in ``"$(python ...)"``, is not looked into."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for between, words in itertools.groupby(lexer, lambda word: set(word) <= set("();<>|&")):
            if not between:
                yield list(words)


def check_module(name: str, words: list[str]) -> None:
    """That a module is there and knows the options; that a configuration can be read, unless it has placeholders."""
    if name == "dist_sparse.train":
        if words[:1] == ["--config"] and len(words) == 2:
            assert (ROOT / words[1]).is_file(), words[1]  # what it holds, test_configs.py checks
        elif not any(
            re.search(r"\$|\b[A-Z][A-Z_]+\b|^--(help|smoke|plan|print-config|schema|completion)", word) for word in words
        ):
            resolved(parse_args(words).config)
        return
    path = ROOT / name.replace(".", "/")
    sources = list(path.glob("*.py")) or [path.with_suffix(".py")]
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    others = ("dist_sparse.grid", "dist_sparse.launch")  # which hand words on
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert {option for option in options if f'"{option}"' not in text and name not in others} == set()


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.reason], ids=str)
def test_reasons_name_tests_that_there_are(command: Command) -> None:
    assert all((ROOT / path).exists() for path in re.findall(r"\btests/[\w/.]*\w", command.reason or ""))


@pytest.mark.parametrize("file", TEXTS)
def test_a_fence_says_what_it_holds(file: str) -> None:
    """So that no command hides in one that is not collected."""
    for block in re.findall(r"^```.*?^```$", TEXTS[file], re.MULTILINE | re.DOTALL):
        language = block.splitlines()[0].removeprefix("```")
        assert language in LANGUAGES, block
        assert language == "bash" or not re.search(rf"^\s*(\$ )?({PROGRAMS}) ", block, re.MULTILINE), block


def test_the_collector_sees_blocks_spans_and_reasons() -> None:
    text = (
        "Say `python -m a --b` and `python`,\nor `X=1 torchrun\nc`. <!-- not run in tests: why -->\n\n"
        "```bash\nbash d\n\nbash e\n```\n<!-- not run in tests: long -->\n```bash\nbash f\n```\n`git g` ends."
    )
    found = [(command.line, command.text, command.reason) for command in commands(text)]
    assert found == [
        (1, "python -m a --b", "why"),
        (2, "X=1 torchrun c", "why"),
        (5, "bash d\n\nbash e", None),
        (11, "bash f", "long"),
        (14, "git g", None),
    ]


@pytest.mark.parametrize("file", TEXTS)
def test_links_lead_somewhere(file: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[file]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / file).parent / path if path else ROOT / file
        assert place.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("file", TEXTS)
def test_lines_are_short(file: str) -> None:
    long = [line for line in TEXTS[file].splitlines() if len(line) > 160 and not line.startswith(("|", "<!--"))]
    assert long == []


def test_the_readme_is_a_few_screens() -> None:
    assert len(README.encode()) <= 12 * 1024


def test_the_table_of_structures_is_the_code_s() -> None:
    between = re.search(
        r"<!-- structures: .*? -->\n(.*?)<!-- end of structures -->", TEXTS["dist_sparse/sparsity/README.md"], re.DOTALL
    )
    assert between is not None
    assert between[1].strip() == table(), "python -m dist_sparse.sparsity.methods prints the table as it is now"


def test_every_method_and_structure_is_in_the_readme() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", README, re.MULTILINE)
    assert set(METHODS) <= {name for row in rows for name in re.findall(r"\w+", row)}
    assert all(f"`{cls.example}`" in README for cls in STRUCTURES.values())


def test_the_tables_of_methods_are_those_of_the_runs_on_record() -> None:
    rows = methods.table(methods.read(ROOT / "benchmarks/records/methods/runs.csv"), [0.1, 0.05]).splitlines()
    assert set(rows[2:]) - set(TEXTS["benchmarks/README.md"].splitlines()) == set()


def test_the_tables_of_the_study_are_those_of_the_runs_on_record() -> None:
    given = arguments([])
    found = rows_of(wanted(given), read(given.record, Row))
    every = overview(found).splitlines()
    rows = [*every, *tables(found).splitlines()]
    assert len(rows) > 20 and set(rows) - set(TEXTS["benchmarks/README.md"].splitlines()) == set()
    shown = TEXTS["README.md"].splitlines()
    start = shown.index(every[0])
    assert set(shown[start : shown.index("", start)]) < set(every) and f"{len(found)} runs of five seeds" in TEXTS["README.md"]


@pytest.mark.parametrize("words", FURTHER_STUDIES, ids=["N:M", "cnn_4"])
def test_the_tables_of_further_studies_are_those_of_the_runs_on_record(words: list[str]) -> None:
    given = arguments(words)
    rows = tables(rows_of(wanted(given), read(given.record, Row))).splitlines()
    assert len(rows) > 2 and set(rows) - set(TEXTS["benchmarks/README.md"].splitlines()) == set()


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_tables_of_ablations_are_those_of_the_runs_on_record(name: str) -> None:
    given = arguments(["--ablation", name, "--densities", "0.05" if name == "block_size" else "0.02"])
    found = rows_of(wanted(given), read(given.record, Row))
    rows = tables(found, given.against).splitlines() if any(case.changed for case in found) else []
    assert set(rows) - set(TEXTS["benchmarks/README.md"].splitlines()) == set()
    assert bool(rows) == (f"ablation_{name}.svg" in TEXTS["benchmarks/README.md"])


def test_the_table_beside_references_is_that_of_the_runs_on_record() -> None:
    rows = references.table(recorded(references_arguments(["--summary"]))).splitlines()
    assert len(rows) > 2 and set(rows) - set(TEXTS["benchmarks/README.md"].splitlines()) == set()


def test_the_table_of_published_errors_is_that_of_the_runs_on_record() -> None:
    rows = published.table(read(ROOT / "benchmarks/records/study/published.csv", published.Row)).splitlines()
    assert set(rows) - set(TEXTS["benchmarks/README.md"].splitlines()) == set()


def test_the_table_of_sparse_execution_is_that_of_the_steps_on_record() -> None:
    rows = [*execution_table.HEAD.splitlines(), *map(execution_table.line, execution_table.CELLS)]
    assert set(rows) - set(TEXTS["dist_sparse/execution/README.md"].splitlines()) == set()
