"""What a user does with a Slurm cluster: submit, look, wait, cancel; every wait has a deadline and says what it saw."""

import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.command import PATIENCE, ROOT
from tests.slurm.daemons import Daemons

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")


@dataclass(frozen=True)
class Job:
    """A job, or one task of an array (``12_3``), and its log."""

    cluster: "Cluster"
    id: str

    def task(self, index: int) -> "Job":
        """One task of an array."""
        return Job(self.cluster, f"{self.id}_{index}")

    @property
    def record(self) -> dict[str, str]:
        """What ``scontrol show job`` tells, by its names."""
        text = self.cluster.daemons.call("scontrol", "show", "job", "--oneliner", self.id)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    @property
    def state(self) -> str:
        return self.record["JobState"]

    @property
    def log(self) -> str:
        path = Path(self.record["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def signal(self, name: str) -> None:
        """Send a signal to every process that the job's script has started through srun."""
        self.cluster.daemons.call("scancel", f"--signal={name}", self.id)

    def cancel(self) -> None:
        self.cluster.daemons.call("scancel", self.id)

    def rank(self, rank: int) -> int:
        """The process id of one of the job's ranks."""
        numbers = self.record
        marks = {f"SLURM_JOB_ID={numbers['JobId']}".encode(), f"RANK={rank}".encode(), b"TORCHELASTIC_RESTART_COUNT=0"}
        return next(pid for pid, variables in self.cluster.daemons.processes() if marks <= variables)

    def wait(self, *states: str) -> str:
        """Wait for one of these states, by default for the end, whatever it is; returns the state."""
        wanted = states or ENDED
        self.cluster.until(lambda: self.state in wanted, f"job {self.id} to be {' or '.join(wanted)}", self)
        return self.state

    def start_again_soon(self) -> None:
        """Wait until the job has been requeued, and spare it most of Slurm's two minutes of delay.

        In the second in which a start ends, its node takes a new one for the old one and refuses it.
        """
        self.cluster.until(lambda: self.state == "PENDING", f"job {self.id} to be requeued", self)
        self.cluster.daemons.call("scontrol", "update", f"jobid={self.id}", "StartTime=now+2")


class Cluster:
    """The scripts in ``slurm/`` with settings of the tests' own, on the running daemons."""

    def __init__(self, daemons: Daemons, folder: Path) -> None:
        self.daemons, self.folder = daemons, folder
        self.runs = folder / "runs"
        (folder / "logs").mkdir()

    def settings(self, **values: object) -> dict[str, str]:
        """An environment in which the jobs find a settings file with these values; the shipped ones for the others."""
        path = self.folder / f"cluster-{len(list(self.folder.glob('cluster-*.env')))}.env"
        ours = {"VENV": sys.prefix, "RUNS": self.runs, "NETWORK_INTERFACE": "lo", **values}
        path.write_text("\n".join([f"source {ROOT}/slurm/cluster.env", *(f"{key}={value}" for key, value in ours.items())]))
        return {"CLUSTER_ENV": str(path), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}

    def submit(self, script: str, *arguments: str, options: tuple[str, ...] = (), env: Mapping[str, str] | None = None) -> Job:
        """``sbatch slurm/SCRIPT`` from the repository's root."""
        name = "%x-%j" if script == "train.sbatch" else "%x-%A_%a"
        command = (
            "sbatch",
            "--parsable",
            "--time=10",
            f"--output={self.folder}/logs/{name}.out",
            *options,
            f"slurm/{script}",
            *arguments,
        )
        return Job(self, self.daemons.call(*command, env=self.settings() if env is None else env, cwd=ROOT).strip())

    def until_step(self, step: int, folder: Path, job: Job) -> None:
        """Wait for a run to tell of this step, or a later one."""
        self.until(lambda: last_step(folder) >= step, f"step {step} in {folder}", job)

    def until(self, condition: Callable[[], bool], what: str, job: Job | None = None) -> None:
        """Wait for what must come true while this job has not ended, if one is given."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            ended = job is not None and job.state in ENDED and not condition()
            assert not ended and time.monotonic() < deadline, f"waited for {what}\n{job and (job.record, job.log)}"
            time.sleep(0.2)


def last_step(folder: Path) -> int:
    """The last step in a run's metrics.csv; -1 before the first."""
    try:
        rows = (folder / "metrics.csv").read_text().splitlines()
    except FileNotFoundError:
        return -1
    return int(rows[-1].partition(",")[0]) if len(rows) > 1 else -1
