"""What the launchers run: their command lines, and a run over two "nodes" on this machine."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import PATIENCE, ROOT

pytestmark = pytest.mark.waits

TRAIN = "-m dist_sparse.train"
DIGITS = "configs/digits/rigl.yaml"
WAIT = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=100"
DEEPSPEED = "--module dist_sparse.train --engine.name=deepspeed"
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **NO_GPU, **more}


def run(script: str, *words: str, root: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(root / "launchers" / f"{script}.sh"), *words]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, check=False, timeout=PATIENCE)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The launchers, with an environment that is complete: pip has nothing to do, and the programs are this one's."""
    clone = tmp_path / "my clone"
    (clone / ".venv/bin").mkdir(parents=True)
    shutil.copytree(ROOT / "launchers", clone / "launchers")  # the root is where they really lie
    for name in ("setup.cfg", "pyproject.toml", "configs"):
        (clone / name).symlink_to(ROOT / name)
    for name in ("torchrun", "wandb", "deepspeed"):
        (clone / ".venv/bin" / name).symlink_to(Path(sys.executable).with_name(name))
    (clone / ".venv/bin/python").symlink_to("/bin/true")
    return clone


@pytest.mark.parametrize(
    ("script", "words", "command"),
    [
        (
            "quickstart",
            "--seed=1",
            f"torchrun --standalone --nproc-per-node=2 {TRAIN} --config configs/digits/rigl.yaml --seed=1",
        ),
        ("torchrun", "--config 'a b.yaml'", f"torchrun --nproc-per-node=2 --standalone {WAIT} {TRAIN} --config 'a b.yaml'"),
        (
            "torchrun",
            "--seed=1 --nnodes 2 --rdzv-endpoint=node1:29500 --nproc-per-node=4",
            f"torchrun --nnodes=2 --rdzv-endpoint=node1:29500 --nproc-per-node=4 --rdzv-backend=c10d {WAIT} {TRAIN} --seed=1",
        ),
        ("deepspeed", "--seed=1", f"deepspeed --num_gpus=2 --no_local_rank {DEEPSPEED} --seed=1"),
        (
            "deepspeed",
            "--hostfile hosts --no_ssh --node_rank=0 --seed=1",
            f"deepspeed --hostfile=hosts --no_ssh --node_rank=0 --no_local_rank {DEEPSPEED} --seed=1",
        ),
        ("sweep_agent", "me/mine/abc --count=3", "wandb agent --forward-signals --count=3 me/mine/abc"),
    ],
)
def test_a_dry_run_prints_the_command_and_nothing_else(script: str, words: str, command: str, clone: Path) -> None:
    shutil.rmtree(clone / ".venv")
    result = run(script, *shlex.split(words), "--dry-run", root=clone)
    assert not (clone / ".venv").exists()
    assert (result.returncode, result.stderr) == (0, "")
    (line,) = result.stdout.splitlines()
    assert shlex.split(line) == shlex.split(command)


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("torchrun", ["--nnodes=2"], "--nnodes needs --rdzv-endpoint=HOST:PORT, the same on every node: where they meet"),
        ("torchrun", ["--nnodes"], "--nnodes needs a value"),
        ("sweep_agent", ["--count=3"], "usage: bash launchers/sweep_agent.sh [--count=N] [--project=P] [--entity=E] SWEEP"),
    ],
)
def test_a_mistake_is_one_line(script: str, words: list[str], message: str) -> None:
    result = run(script, *words)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", f"error: {message}\n")


def test_the_quickstart_ends_by_naming_the_report_of_its_run(clone: Path) -> None:
    older = clone / "runs" / "older" / "summary.json"
    older.parent.mkdir(parents=True)
    older.touch()
    os.utime(older, (0, 0))
    small = [
        "--train.epochs=3",
        "--train.batch_size=128",
        "--model.kwargs={width: 0.25, blocks: 1}",
        "--tracking.wandb=disabled",
    ]
    said = run("quickstart", *small, root=clone)
    assert said.returncode == 0, said.stderr
    (made,) = (path for path in (clone / "runs").iterdir() if path.name != "older")
    report = "For a report to look at: .venv/bin/python -m dist_sparse.report"
    assert said.stderr.splitlines()[-1] == f"{report} runs/{made.name}"
    made.rename(clone / "runs" / "a run")
    (clone / ".venv/bin/torchrun").unlink()
    (clone / ".venv/bin/torchrun").symlink_to("/bin/true")  # as where the run is finished, and nothing is left to do
    for words in (["--output", "runs/a run"], ["--output=runs/a run"]):
        assert run("quickstart", *words, root=clone).stderr.splitlines()[-1] == rf"{report} runs/a\ run"
    assert "dist_sparse.report" not in run("quickstart", "--help", root=clone).stderr


def test_gpus_of_the_node_are_its_ranks(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: a GPU'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    visible = run("torchrun", "--dry-run", PATH=path, CUDA_VISIBLE_DEVICES="0")
    assert " --nproc-per-node=gpu " in visible.stdout
    assert "--num_gpus" not in run("deepspeed", "--dry-run", PATH=path, CUDA_VISIBLE_DEVICES="0").stdout
    assert " --nproc-per-node=2 " in run("torchrun", "--dry-run", PATH=path, CUDA_VISIBLE_DEVICES="").stdout


def test_the_same_words_on_two_nodes_make_one_run(clone: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    words = ["--nnodes=2", f"--rdzv-endpoint=127.0.0.1:{port}", "--nproc-per-node=1", f"--config={DIGITS}"]
    words += [
        "--train.epochs=3",
        "--train.batch_size=128",
        "--model.kwargs={width: 0.25, blocks: 1}",
        f"--output={tmp_path / 'run'}",
    ]
    command = ["bash", str(clone / "launchers/torchrun.sh"), *words]
    nodes = [
        subprocess.Popen(command, cwd=clone, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    said = [node.communicate(timeout=PATIENCE)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    assert all("Running: torchrun --nnodes=2 " in text for text in said)
    assert json.loads((tmp_path / "run/summary.json").read_text())["exit_reason"] == "finished"
    assert len(list((tmp_path / "run/logs").glob("rank_*.log"))) == 2
