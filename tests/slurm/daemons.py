"""A Slurm cluster of two nodes on this machine: real munged, slurmctld and slurmd, on ports and in a folder of their own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.command import PATIENCE

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
_SYSTEM = "/usr/sbin:/usr/bin:/sbin:/bin"
_START = 60.0
"""Seconds for the daemons to come up; they need about two."""

_CONF = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0,preempt_youngest_first
ReturnToService=2
KillWait=120
MinJobAge=3600
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000 Gres=gpu:2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000 Gres=gpu:2
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=n[1-2] MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""
_GRES = "NodeName=n[1-2] Name=gpu File={folder}/gpu[0-1]\n"


def missing_programs() -> list[str]:
    """What of Slurm and munge is not installed, or cannot run because we are not root."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:{_SYSTEM}") is None]
    return absent if os.geteuid() == 0 else [*absent, "root"]


class Daemons:
    """The running daemons. Use as a context manager: on leaving, all that they have started ends with them."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.folder = Path()
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Daemons":
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
            self.folder.chmod(0o755)  # munged wants its socket to be within everyone's reach
            stack.callback(self._kill_all)
            self._configure()
            self._start_all()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands need to find these daemons."""
        return {**os.environ, "PATH": f"{os.environ['PATH']}:{_SYSTEM}", "SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str, check: bool = True, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """What one of Slurm's commands prints; ``env`` is added to the environment."""
        known = {**self.environment, **(env or {})}
        done = subprocess.run(command, env=known, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout

    def _configure(self) -> None:
        for name in ("state", "spool.n1", "spool.n2"):
            (self.folder / name).mkdir()
        for name in ("gpu0", "gpu1"):
            (self.folder / name).touch()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(_CONF.format(folder=self.folder, ports=_free_ports(3)))
        (self.folder / "gres.conf").write_text(_GRES.format(folder=self.folder))

    def _start_all(self) -> None:
        place = self.folder
        files = {"key": "key", "log": "log", "pid": "pid", "seed": "seed"}
        options = [f"--{option}-file={place}/munge.{name}" for option, name in files.items()]
        self._start("munged", "--foreground", f"--socket={place}/munge.socket", *options)
        _wait_until((place / "munge.socket").exists, "munged to listen", self._logs)
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D", "-N", "n1")
        self._start("slurmd", "-D", "-N", "n2")
        _wait_until(self._both_idle, "two idle nodes", self._logs)

    def _both_idle(self) -> bool:
        return self.call("sinfo", "--noheader", "--format=%D %t", "--partition=main", check=False) == "2 idle\n"

    def _start(self, *command: str) -> None:
        name = "-".join([command[0], *command[3:4]]) if command[0] == "slurmd" else command[0]
        with (self.folder / f"{name}.out").open("w") as output:
            # Whatever ends the tests ends the daemons.
            command = ("setpriv", "--pdeathsig", "TERM", *command)
            daemon = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
        self._daemons.append(daemon)

    def _logs(self) -> str:
        files = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in files)

    def _kill_all(self) -> None:
        """End the jobs, the daemons, and whatever else was started under this configuration."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.call("scancel", "--signal=KILL", "--full", "--state=RUNNING", check=False)
        deadline = time.monotonic() + _START
        while (own := self.processes()) and time.monotonic() < deadline:
            for pid, _ in own:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for daemon in self._daemons:
                daemon.poll()  # a killed one stays in the list of processes until it is asked for
            time.sleep(0.05)

    def processes(self) -> list[tuple[int, set[bytes]]]:
        """Id and environment of every process that was started under this configuration."""
        mark, found = f"SLURM_CONF={self.folder}/slurm.conf".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                variables = set(path.read_bytes().split(b"\0"))
                if mark in variables:
                    found.append((int(path.parent.name), variables))
        return found


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until(condition: Callable[[], bool], what: str, explain: Callable[[], str], seconds: float = _START) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}\n{explain()}"
        time.sleep(0.1)
