"""The package's requirements and the constraints that pin them."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dist_sparse.config import load_config, parse_args
from dist_sparse.config.recipes import FOLDER
from dist_sparse.engines.build import resolve_engine
from dist_sparse.errors import UserError
from dist_sparse.grid import read_grid
from tests.command import PATIENCE
from tests.shipped_configs import CONFIGS

ROOT = Path(__file__).parent.parent
CONSTRAINTS = (ROOT / "launchers/constraints.txt").read_text(encoding="utf-8")


def names(text: str) -> set[str]:
    """Normalised project names at the beginning of the lines."""
    found = re.findall(r"^\s*([A-Za-z0-9][\w.-]*)", text, flags=re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def required() -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"].values()
    return names("\n".join([setup["options"]["install_requires"], *extras]))


def test_every_requirement_is_pinned() -> None:
    pinned = names("\n".join(re.findall(r"^\S+(?===)", CONSTRAINTS, flags=re.MULTILINE)))
    assert {"torch", "pytest", "deepspeed"} <= required()
    assert required() - {"dist-sparse"} <= pinned  # whose extras other extras name


def test_constraints_name_no_place_to_download_from() -> None:
    assert "://" not in CONSTRAINTS
    assert not re.search(r"^\s*-", CONSTRAINTS, flags=re.MULTILINE)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git clone")
def test_the_repository_holds_text_and_pictures() -> None:
    """No built package, dataset or checkpoint has been committed by mistake; the largest file is a figure of 0.1 MB."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    tracked = [ROOT / name for name in listed if (ROOT / name).is_file()]
    assert Path(__file__) in tracked
    large = [path.name for path in tracked if path.stat().st_size > 256 * 1024]
    binary = [path.name for path in tracked if path.suffix != ".png" and b"\0" in path.read_bytes()]
    assert large == binary == []


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.glob("**/*") if path.is_file()}


def test_a_wheel_holds_the_recipes_and_the_licence(tmp_path: Path) -> None:
    """Installed and started elsewhere it finds the recipes by the names that they have in a clone."""
    (tmp_path / "source").mkdir()
    needless = {"data", "runs", "wandb", "build", "dist", "tests", "benchmarks"}
    for path in ROOT.iterdir():
        if path.name not in needless and not path.match(".*") and path.suffix != ".egg-info":
            if path.is_dir():
                shutil.copytree(path, tmp_path / "source" / path.name, symlinks=True)
            else:
                shutil.copy(path, tmp_path / "source")
    command = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", *command, "--target", tmp_path / "site", tmp_path / "source"], check=True, timeout=PATIENCE
    )
    shutil.rmtree(tmp_path / "source")
    assert files(tmp_path / "site/dist_sparse/configs") == files(CONFIGS)
    beside_the_code = {path.relative_to(ROOT) for path in ROOT.glob("dist_sparse/**/README.md")}
    assert {path.relative_to(tmp_path / "site") for path in (tmp_path / "site").glob("**/README.md")} >= beside_the_code
    (about,) = (tmp_path / "site").glob("dist_sparse-*.dist-info")
    metadata = (about / "METADATA").read_text(encoding="utf-8").splitlines()
    assert {"License-Expression: MIT", "License: MIT"} & set(metadata)
    assert [path.read_bytes() for path in about.glob("**/LICENSE")] == [(ROOT / "LICENSE").read_bytes()]
    (tmp_path / "mine.yaml").write_text("base: configs/digits/rigl.yaml\nseed: 3\n")
    program = (
        "import dist_sparse.config as c; print(c.__file__);"
        "print(c.load_config('configs/imagenet/resnet50/rigl_5x_10.yaml').sparsity.density);"
        "print(c.load_config('mine.yaml').sparsity.method)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == [str(tmp_path / "site/dist_sparse/config/__init__.py"), "0.1", "rigl"]
    words = ["--config=digits/rigl", "--train.epochs=1", "--scheduler.warmup=0", "--data.limit=256", "--engine.device=cpu"]
    words += ["--train.batch_size=32", "--sparsity.update.interval=2", "--output=out"]
    done = subprocess.run(
        [sys.executable, "-m", "dist_sparse.train", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    launched = subprocess.run(
        [
            sys.executable,
            "-m",
            "dist_sparse.launch",
            "torchrun",
            "--nproc-per-node=1",
            *words[:-1],
            "--output=launched",
            "--smoke",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    assert launched.stderr.startswith("Running: torchrun --nproc-per-node=1 --standalone ")
    assert "step 10/10" in launched.stdout
    assert "run folder: out" in done.stdout and (tmp_path / "out/checkpoints/best.pt").is_file()


def test_a_clone_finds_its_recipes_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/digits/rigl.yaml") == load_config(str(CONFIGS / "digits/rigl.yaml"))
    assert load_config("digits/rigl.yaml").name == "digits-rigl"
    assert load_config("digits/rigl").name == load_config("configs/digits/rigl").name == "digits-rigl"
    (tmp_path / "configs/digits").mkdir(parents=True)
    (tmp_path / "configs/digits/rigl.yaml").write_text("name: mine\n")
    assert load_config("configs/digits/rigl.yaml").name == "mine", "what lies here comes first"
    assert len(read_grid(Path("configs/grids/digits_3x3x3.txt"))) == 27
    engine = parse_args(["--engine.name=deepspeed", "--engine.deepspeed_config=configs/deepspeed/zero2.json"]).config.engine
    assert resolve_engine(engine).zero.stage == 2


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("configs/digits/rig.yaml", "configs/digits/rigl.yaml"),
        ("configs/digits/rigl.yml", "configs/digits/rigl.yaml"),
        ("digits/rgl", "configs/digits/rigl.yaml"),
        ("./configs/digits/rgl", "configs/digits/rigl.yaml"),
        ("recipe.yaml", None),
        ("recipe", None),
        ("configs/../../errors.py", None),
    ],
)
def test_an_unknown_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, near: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_config(name)
    begin = f"{name}: no such file; " + (f"did you mean {near}" if near else "recipes are in")
    assert str(caught.value).startswith(begin)
    assert str(caught.value).endswith(f"recipes are in {FOLDER}")
    assert "\n" not in str(caught.value)
