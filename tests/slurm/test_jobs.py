"""The job scripts on a real Slurm: what they train, and that an interruption of any kind costs nothing but time.

The tasks of one array run side by side: a fixture submits them, the tests look at what became of each.
"""

import functools
import json
import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.command import here, metrics
from tests.distributed import cases
from tests.distributed.world import World
from tests.slurm.cluster import Cluster, Job, last_step
from tests.sweeps.client import wandb
from tests.sweeps.stand_in_server import ENTITY, stand_in_server

pytestmark = pytest.mark.waits

TINY = (
    "--engine.device=cpu",
    "--model.kwargs={width: 0.25, blocks: 1}",
    "--train.epochs=32",
    "--train.validate_every=32",
    "--checkpoint.every=1000 steps",
    "--tracking.log_every=2",
    "--tracking.wandb=disabled",
    "--sparsity.update.interval=5 steps",
)
"""A small network on digits, for seconds, so that what interrupts a run after its tenth step does not come after its last one;
the runs' own checkpoints are too few, so that those of an interruption are needed."""
STEPS = 704

RIGL = ("--config=configs/digits/rigl.yaml", *TINY)
LINES = [
    (f"--config=configs/digits/{method}.yaml", f"--name={method}-seed{seed}", f"--seed={seed}")
    for method, seed in (("rigl", 1), ("set", 1), ("set", 2))
]


@pytest.fixture(scope="module")
def array(cluster: Cluster, grid: Path) -> Job:
    """Task 1 is left alone, 2 is cancelled, 3, the last, is told to leave; both when they have told of step 10."""
    array = cluster.submit("array.sbatch", str(grid), *TINY, options=("--array=1-3%3",))
    ask = {2: array.task(2).cancel, 3: functools.partial(array.task(3).signal, "USR1")}

    def all_asked() -> bool:
        for index in [index for index in ask if last_step(folder_of(cluster, index)) >= 10]:
            ask.pop(index)()
        return not ask

    cluster.until(all_asked, "step 10 of two tasks", array.task(3))
    array.task(3).start_again_soon()
    return array


@pytest.fixture(scope="module")
def grid(cluster: Cluster) -> Path:
    """Three runs; a comment and an empty line between."""
    path = cluster.folder / "small.txt"
    lines = [shlex.join(line) for line in LINES]
    path.write_text("\n".join(["# three runs", *lines[:2], "", *lines[2:], ""]))
    return path


@pytest.fixture(scope="module")
def directly(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict[str, str]]]:
    """``directly(index)``: the metrics of a line of the grid, trained in this process without Slurm."""

    @functools.cache
    def train(index: int) -> list[dict[str, str]]:
        from dist_sparse.train import main

        folder = tmp_path_factory.mktemp("directly") / "run"
        assert here(main, [*LINES[index - 1], *TINY, f"--output={folder}"]).code == 0
        return metrics(folder)

    return train


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The metrics of RigL on two ranks, trained without Slurm and without an interruption."""
    from dist_sparse.train import main

    folder = tmp_path_factory.mktemp("two_ranks") / "run"
    world = World(2)
    outcomes = world.run(cases.call, main, [*RIGL, f"--output={folder}"])
    world.close()
    assert [outcome.code for outcome in outcomes] == [0, 0]
    return metrics(folder)


def folder_of(cluster: Cluster, index: int) -> Path:
    """The run of a line of the grid."""
    return cluster.runs / "small" / LINES[index - 1][1].removeprefix("--name=")


def resumed_at(job: Job) -> list[int]:
    """The steps after which the job's starts went on."""
    return [int(step) for step in re.findall(rf"going on after step (\d+) of {STEPS}", job.log)]


def test_a_task_of_an_array_that_is_told_to_leave_saves_requeues_itself_and_goes_on(
    cluster: Cluster, array: Job, directly: Callable[[int], list[dict[str, str]]]
) -> None:
    task = array.task(3)
    assert task.wait() == "COMPLETED", task.log
    assert [array.task(index).record["Restarts"] for index in (1, 2, 3)] == ["0", "0", "1"]
    (step,) = resumed_at(task)
    assert 10 <= step < STEPS
    assert metrics(folder_of(cluster, 3)) == directly(3)


def test_an_array_trains_what_its_grid_says(
    cluster: Cluster, array: Job, directly: Callable[[int], list[dict[str, str]]]
) -> None:
    assert array.task(1).wait() == "COMPLETED", array.task(1).log
    assert metrics(folder_of(cluster, 1)) == directly(1)


def test_a_task_that_is_cancelled_saves_and_waits_until_its_array_is_submitted_again(
    cluster: Cluster, array: Job, grid: Path, directly: Callable[[int], list[dict[str, str]]]
) -> None:
    task, folder = array.task(2), folder_of(cluster, 2)
    assert task.wait() == "CANCELLED"
    cluster.until(lambda: "it is not requeued from here" in task.log, "the last words")
    assert (folder / "preempted").read_text().startswith("SIGTERM at step ")
    assert list((folder / "checkpoints").glob("step_*.pt"))

    array.task(1).wait()
    before = (folder_of(cluster, 1) / "summary.json").stat().st_mtime_ns
    again = cluster.submit("array.sbatch", str(grid), *TINY, options=("--array=1,2",))
    for index in (1, 2):
        assert again.task(index).wait() == "COMPLETED", again.task(index).log
    assert "is finished: nothing is left to do" in again.task(1).log
    assert "torchrun" not in again.task(1).log
    assert (folder_of(cluster, 1) / "summary.json").stat().st_mtime_ns == before
    (step,) = resumed_at(again.task(2))
    assert 10 <= step < STEPS
    assert metrics(folder) == directly(2)


def test_a_run_on_two_nodes_makes_room_for_a_job_of_higher_priority_and_goes_on(
    cluster: Cluster, on_two_ranks: list[dict[str, str]]
) -> None:
    arguments = (*RIGL, "--tracking.wandb=offline")
    job = cluster.submit("train.sbatch", *arguments, options=("--nodes=2", "--job-name=victim"))
    folder = cluster.runs / f"victim-{job.id}"
    cluster.until_step(10, folder, job)
    options = ("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null")
    cluster.daemons.call("sbatch", "--wait", *options, "--wrap=true")
    job.start_again_soon()
    assert job.wait() == "COMPLETED", job.log
    (step,) = resumed_at(job)
    assert 10 <= step < STEPS
    assert metrics(folder) == on_two_ranks
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["exit_reason"], summary["steps"]) == ("finished", STEPS)
    assert {path.name for path in (folder / "logs/torchrun").iterdir()} == {"n1", "n2"}
    for start in range(2):
        assert "SLURM_JOB_NUM_NODES=2\n" in (folder / f"slurm/{job.id}-{start}.txt").read_text()
    starts = [path.name for path in (folder / "wandb").glob("offline-run-*")]
    assert len(starts) == 2 and len({name.rpartition("-")[2] for name in starts}) == 1


def test_a_rank_that_dies_takes_the_job_down_with_its_traceback(cluster: Cluster) -> None:
    """The job ends long before ``engine.timeout``, for which the other rank would wait and which is twice a test's patience."""
    job = cluster.submit("train.sbatch", *RIGL, options=("--nodes=2", "--job-name=dies"))
    cluster.until_step(10, cluster.runs / f"dies-{job.id}", job)
    os.kill(job.rank(1), signal.SIGSEGV)
    assert job.wait() == "FAILED", job.log
    assert "Fatal Python error: Segmentation fault" in job.log
    assert "trainer.py" in job.log


def test_torchrun_starts_ranks_anew_while_no_other_job_may_train_there(
    cluster: Cluster, on_two_ranks: list[dict[str, str]]
) -> None:
    """The allocation says GPUs: one rank for each, though they train on the CPU here."""
    settings = cluster.settings(MAX_RESTARTS=1)
    arguments = (*RIGL, "--checkpoint.every=10 steps", f"--output={cluster.runs}/again")
    job = cluster.submit("train.sbatch", *arguments, options=("--gpus-per-node=2",), env=settings)
    folder = cluster.runs / "again"
    cluster.until(lambda: any((folder / "checkpoints").glob("step_*.pt")), f"a checkpoint in {folder}", job)
    other = cluster.submit("train.sbatch", *arguments)
    os.kill(job.rank(1), signal.SIGKILL)
    assert other.wait() == "COMPLETED", other.log
    assert other.log == f"{folder} is being trained by job {job.id}: nothing to do here\n"
    assert job.wait() == "COMPLETED", job.log
    assert job.record["Restarts"] == "0"
    (step,) = resumed_at(job)
    assert step >= 10
    assert metrics(folder) == on_two_ranks


def test_a_job_that_is_told_to_leave_again_and_again_gives_up(cluster: Cluster) -> None:
    """The signal comes before the ranks can handle it: nothing is saved, and the job is requeued nevertheless, once."""
    settings = cluster.settings(MAX_REQUEUES=1)
    job = cluster.submit("train.sbatch", *RIGL, options=("--job-name=twice",), env=settings)
    for start in range(2):
        cluster.until(lambda: job.log.count(": torchrun --nnodes=1") > start, "torchrun", job)  # noqa: B023
        job.signal("USR1")
        if start == 0:
            job.start_again_soon()
    assert job.wait() == "FAILED"
    assert job.record["ExitCode"] == "75:0"
    assert "has been requeued 1 times, MAX_REQUEUES" in job.log


def test_an_agent_that_is_told_to_leave_comes_back_to_its_run(cluster: Cluster, tmp_path: Path) -> None:
    """A sweep of one run on a stand-in for the W&B server."""
    folder = tmp_path / "run"
    torchrun = ["torchrun", "--standalone", "--nproc-per-node=1", "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
    command = ["${env}", *torchrun, "-m", "${program}", "--resume=auto", *RIGL]
    sweep = {"program": "dist_sparse.train", "method": "grid", "parameters": {"seed": {"values": [1]}}}
    sweep["command"] = [*command, "--tracking.wandb=offline", f"--output={folder}", "${args}"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    with stand_in_server() as server:
        wandb(["sweep", "--project=dist_sparse", "sweep.yaml"], server, tmp_path)
        path = f"{ENTITY}/dist_sparse/{next(iter(server.sweeps))}"
        settings = {**cluster.settings(RUNS_PER_AGENT=1), **server.environment()}
        task = cluster.submit("sweep.sbatch", path, options=("--array=1",), env=settings).task(1)
        cluster.until_step(10, folder, task)
        task.signal("USR1")
        task.start_again_soon()
        assert task.wait() == "COMPLETED", task.log
    (step,) = resumed_at(task)
    assert 10 <= step < STEPS
    assert int(metrics(folder)[-1]["step"]) == STEPS
    assert {path.name for path in folder.glob("wandb/*/*.wandb")} == {"run-run0.wandb"}
