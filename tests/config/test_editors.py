"""What editors and shells get: a JSON schema of configuration files, and a script that completes keys in a real bash."""

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_sparse.build import resolved
from dist_sparse.config import Config, annotated, completion, file_schema, load_config
from dist_sparse.config.recipes import FOLDER
from dist_sparse.config.tree import leaves
from dist_sparse.config.yaml_text import load
from dist_sparse.engines import ENGINES
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.train import main
from tests.command import ROOT, here
from tests.shipped_configs import CONFIGS, FILES

jsonschema = pytest.importorskip("jsonschema")
WORDS = {"sparsity.method": list(METHODS), "engine.name": list(ENGINES)}


@pytest.fixture(scope="module")
def checker() -> Any:
    schema = file_schema(WORDS)
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_it_is_what_the_command_prints() -> None:
    outcome = here(main, ["--schema"])
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out) == file_schema(WORDS)


def test_a_reader_that_has_had_enough_of_it_is_no_crash() -> None:
    """It is longer than a pipe holds, and what is left of it is dropped before the command ends."""
    program = f"'{sys.executable}' -m dist_sparse.train --schema | head -n 1; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{\n141\n", "")


def test_every_shipped_recipe_fits(checker: Any) -> None:
    wrong = {file: error.message for file in FILES for error in checker.iter_errors(load((CONFIGS / file).read_text()))}
    assert len(FILES) > 100 and wrong == {}


def test_what_print_config_writes_fits(checker: Any) -> None:
    for file in ("digits/rigl.yaml", "imagenet/resnet50/ast.yaml", "fashion_mnist/mest_em_efficient.yaml"):
        config = load_config(file)
        checker.validate(load(annotated(config, resolved(config), {})))


def test_each_key_is_described_and_has_its_default() -> None:
    schema = file_schema(WORDS)
    for key, leaf in leaves().items():
        node: Mapping[str, Any] = schema
        for part in key.split("."):
            node = node["properties"][part]
        assert len(node["description"].split()) > 1, key
        assert "default" in node or leaf.is_dict, key
    assert schema["properties"]["train"]["properties"]["epochs"]["default"] == 10
    assert schema["properties"]["data"]["properties"]["progressive"]["properties"]["start"]["default"] == "70%"


RIGHT = [
    "name: 2024\nseed: 3",
    "base: configs/digits/rigl.yaml",
    "base: [configs/digits/rigl.yaml]",
    "sparsity.density: 0.1\nsparsity:\n  update.interval: 5 epochs",
    "sparsity.update: {interval: 100}",
    "sparsity.update.interval: 75%",
    "model.kwargs.width: 2\nmodel:\n  kwargs.block.depth: 3",
    "model: {kwargs: {width: 2, any: [thing]}}",
    "sparsity: {table: {'*': 0.1}, distribution: table}",
    "sparsity.table.conv1: 0.5",
    "sparsity: {keep_dense: first}\ntracking: {tags: [a, b]}",
    "scheduler: {milestones: [50%, 75%]}",
    "train:\noptim: {lr: 1e-3}",
    "train: {ema: null}",
]
WRONG = [
    "sparsty: {density: 0.1}",
    "sparsity: {densty: 0.1}",
    "sparsity.densty: 0.1",
    "sparsity: {density: 1.5}",
    "sparsity.density: 0",
    "sparsity: {method: rigel}",
    "sparsity: {distribution: erl}",
    "sparsity.update.interval: 5 weeks",
    "sparsity.table.conv1: 2",
    "sparsity: 3",
    "train: {epochs: 0}",
    "train: {epochs: 1.5}",
    "train: {precision: fp8}",
    "train: {epochs: null}",
    "train: {compile: 3}",
    "tracking: {tags: {a: b}}",
    "base: {a: b}",
    "scheduler: {milestones: [50 percent]}",
    "[1, 2]",
]


@pytest.mark.parametrize("text", RIGHT)
def test_right_files_fit_and_are_read(checker: Any, tmp_path: Path, text: str) -> None:
    checker.validate(load(text))
    (tmp_path / "mine.yaml").write_text(text)
    assert isinstance(load_config(str(tmp_path / "mine.yaml")), Config)


@pytest.mark.parametrize("text", WRONG)
def test_wrong_files_do_not_fit_and_are_refused(checker: Any, tmp_path: Path, text: str) -> None:
    assert not checker.is_valid(yaml.safe_load(text))
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError):
        resolved(load_config(str(tmp_path / "mine.yaml")))


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "completion.bash"
    path.write_text(completion(WORDS))
    return path


def test_it_is_the_script_that_the_command_prints(script: Path) -> None:
    for argv in (["--completion", "bash"], ["--completion=bash"]):
        assert here(main, argv).out == script.read_text()
    for argv in (["--completion"], ["--completion", "fish"], ["--seed=1", "--completion=zsh"]):
        outcome = here(main, argv)
        assert (outcome.code, outcome.out) == (2, "")
        (error,) = outcome.errors
        assert error.endswith(": should be --completion bash")


def test_shellcheck_has_nothing_against_it(script: Path) -> None:
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if checker is None:
        pytest.skip("needs shellcheck")
    done = subprocess.run([checker, "--shell=bash", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def completed(script: Path, words: list[str], *, cwd: Path = ROOT, before: str = "") -> list[str]:
    """What the function gives for the last word, as bash would call it."""
    program = f"""{before}
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_dist_sparse "$1" "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}" 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    command = ["bash", "--noprofile", "--norc", "-c", program, "bash", str(script), *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


TRAIN = ["python", "-m", "dist_sparse.train"]


@pytest.mark.parametrize(
    "launcher", [TRAIN, ["torchrun", "--standalone", "--nproc-per-node", "=", "2", "-m", "dist_sparse.train"]]
)
def test_keys(script: Path, launcher: list[str]) -> None:
    assert completed(script, [*launcher, "--sparsity.dens"]) == ["--sparsity.density="]
    below = [f"--{key}=" for key in leaves() if key.startswith("optim.")]
    assert completed(script, [*launcher, "--seed", "=", "1", "--optim."]) == below
    assert completed(script, [*launcher, "--pl"]) == ["--plan"]
    everything = completed(script, [*launcher, "--"])
    assert {f"--{key}=" for key in leaves()} | {"--config=", "--smoke", "--schema"} <= set(everything)


def test_values_in_all_forms_of_words(script: Path) -> None:
    for words in (["--sparsity.method", "=", "ri"], ["--sparsity.method", "ri"]):
        assert completed(script, [*TRAIN, *words]) == ["rigl"]
    assert completed(script, [*TRAIN, "--sparsity.method=ri"]) == ["--sparsity.method=rigl"], "a word that is not broken at ="
    assert completed(script, [*TRAIN, "--sparsity.method", "="]) == list(METHODS)
    assert completed(script, [*TRAIN, "--train.precision", "=", "f"]) == ["fp32", "fp16", "fp64"]
    assert completed(script, [*TRAIN, "--train.compile", "=", "t"]) == ["true"]
    assert completed(script, [*TRAIN, "--optim.lr", "="]) == []


def test_recipes_and_files(script: Path, tmp_path: Path) -> None:
    (tmp_path / "digits_of_mine.yaml").touch()
    found = completed(script, [*TRAIN, "--config", "=", "dig"], cwd=tmp_path)
    assert {"digits/rigl", "digits/set", "digits_of_mine.yaml"} <= set(found)
    assert completed(script, [*TRAIN, "--config", "digits/rig"], cwd=tmp_path) == ["digits/rigl"]
    assert completed(script, [*TRAIN, "--data.root", "=", "digits_"], cwd=tmp_path) == ["digits_of_mine.yaml"]
    for each in found:
        assert each == "digits_of_mine.yaml" or (FOLDER / f"{each}.yaml").is_file()


def test_other_commands_of_python_are_completed_as_before(script: Path) -> None:
    assert completed(script, ["python", "-m", "dist_sparse.evaluate", "--sparsity.dens"]) == []
    before = '_others() { COMPREPLY=("of $1"); }; complete -F _others python'
    assert completed(script, ["python", "--sparsity.dens"], before=before) == ["of python"]
    assert completed(script, [*TRAIN, "--sparsity.dens"], before=before) == ["--sparsity.density="]


def test_a_tab_in_an_interactive_bash(script: Path, tmp_path: Path) -> None:
    """Typed at a terminal: the word is completed, without a space after the = of a key, and with one after a value."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        environment = {
            "PATH": os.environ["PATH"],
            "PS1": "ready> ",
            "TERM": "dumb",
            "INPUTRC": "/dev/null",
            "HOME": str(tmp_path),
        }
        os.execvpe("bash", ["bash", "--noprofile", "--norc", "-i"], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 200, 0, 0))  # no line breaks
    try:
        os.write(terminal, f"source {script}\n".encode())
        until(terminal, "ready> ", times=2)
        os.write(terminal, b"python -m dist_sparse.train --sparsity.dens\t")
        assert until(terminal, "--sparsity.density=").endswith("--sparsity.density=")
        os.write(terminal, b"0.1 --sparsity.method=gran\t_u\t--seed")
        until(terminal, "--sparsity.method=granet_uniform --seed")
    finally:
        os.close(terminal)
        with contextlib.suppress(ChildProcessError):
            os.kill(child, 9)
            os.waitpid(child, 0)


def until(terminal: int, wanted: str, *, times: int = 1) -> str:
    """What the terminal shows until the text has come so often."""
    shown, end = "", time.monotonic() + 60
    while shown.count(wanted) < times:
        assert select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0], shown
        shown += os.read(terminal, 4096).decode(errors="replace").replace("\x07", "")
    return shown
