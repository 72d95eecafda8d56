"""Checks of the machine itself: processor, memory, limits, compilers. They read files, ask the system, and import nothing."""

import os
import platform
import resource
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from dist_sparse.doctor.finding import Finding, size
from dist_sparse.errors import UserError
from dist_sparse.execution.compiling import compiler

_FEWEST_FILES = 4096
_LEAST_SHARED = 1e9
_LEAST_MEMORY = 4e9
_LEAST_DISK = 2e9
_UNLIMITED = 1 << 60
"""Control groups say a number as large as this where nothing is limited."""
_PATIENCE = 10


def system() -> Iterator[Finding]:
    """Python and the operating system."""
    libc = " ".join(platform.libc_ver()) or "no glibc"
    text = f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {platform.machine()}, {libc}"
    if platform.system() != "Linux":
        yield Finding(name="system", status="broken", text=text, advice="dist_sparse is made and tested for Linux")
    elif not platform.libc_ver()[0]:
        yield Finding(
            name="system", status="note", text=text, advice="DALI and DeepSpeed need glibc; the rest does without them"
        )
    else:
        yield Finding(name="system", status="ok", text=text)


def usable_cores(root: Path = Path("/")) -> float:
    """Cores that this process may use: by its affinity, and by the quota of its control group."""
    return min(float(len(os.sched_getaffinity(0))), _quota(root))


def cores() -> Iterator[Finding]:
    """Processor cores, and what of them may be used."""
    usable, there = usable_cores(), os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    text = f"{usable:g} of {there} cores may be used; OMP_NUM_THREADS is {threads or 'not set'}"
    if threads and threads.isdecimal() and int(threads) > usable:
        advice = f"more threads than cores wait for one another: export OMP_NUM_THREADS={max(int(usable), 1)}"
        yield Finding(name="cores", status="slow", text=text, advice=advice)
    elif usable < 2:
        yield Finding(name="cores", status="slow", text=text, advice="loading images needs cores beside the one that trains")
    else:
        yield Finding(name="cores", status="ok", text=text)


def memory(root: Path = Path("/")) -> Iterator[Finding]:
    """Memory of the machine, and the limits that are set to this process."""
    lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    of = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    text = f"{size(of['MemTotal'])}, {size(of['MemAvailable'])} of it free"
    least = of["MemAvailable"]
    if (limit := _group_limit(root)) is not None:
        text += f"; this control group is limited to {size(limit)}"
        least = min(least, limit)
    if (space := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        text += f"; the address space to {size(space)} (ulimit -v)"
    if space != resource.RLIM_INFINITY:
        advice = "CUDA and PyTorch reserve far more addresses than memory: ulimit -v unlimited"
        yield Finding(name="memory", status="slow", text=text, advice=advice)
    elif least < _LEAST_MEMORY:
        advice = "ask for more (Slurm: --mem, Docker: --memory), or lower data.workers and train.batch_size"
        yield Finding(name="memory", status="slow", text=text, advice=advice)
    else:
        yield Finding(name="memory", status="ok", text=text)


def shared_memory(place: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Shared memory, through which worker processes hand over images, and NCCL gradients."""
    if not place.is_dir():
        yield Finding(name="shared memory", status="slow", text=f"there is no {place}", advice="mount a tmpfs there")
        return
    usage = shutil.disk_usage(place)
    text = f"{size(usage.free)} of {size(usage.total)} free in {place}"
    if usage.free < _LEAST_SHARED:
        advice = "Docker: --shm-size=8g or --ipc=host; Kubernetes: an emptyDir of medium Memory; or data.workers=0"
        yield Finding(name="shared memory", status="slow", text=text, advice=advice)
    else:
        yield Finding(name="shared memory", status="ok", text=text)


def open_files() -> Iterator[Finding]:
    """How many files a process may open: shards, workers and connections take some each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    pinned = "unlimited" if locked == resource.RLIM_INFINITY else size(locked)
    text = f"{soft:,} open files (at most {hard:,}), {pinned} of locked memory"
    if soft < _FEWEST_FILES:
        advice = f"'Too many open files' may end a run with many workers: ulimit -n {min(hard, 65536)}"
        yield Finding(name="limits", status="slow", text=text, advice=advice)
    elif locked != resource.RLIM_INFINITY and Path("/dev/infiniband").exists():
        advice = "NCCL over InfiniBand locks memory: ulimit -l unlimited (Docker: --ulimit memlock=-1)"
        yield Finding(name="limits", status="slow", text=text, advice=advice)
    else:
        yield Finding(name="limits", status="ok", text=text)


def disk_space(place: Path | None = None) -> Iterator[Finding]:
    """Room for runs where the doctor was called."""
    place = place or Path.cwd()
    free = shutil.disk_usage(place).free
    text = f"{size(free)} free in the current folder, where runs/ is written"
    if not os.access(place, os.W_OK):
        yield Finding(name="disk space", status="note", text=f"{text}; it is read-only", advice="name a folder: --output=DIR")
    elif free < _LEAST_DISK:
        advice = "a run of ResNet-50 keeps 0.8 GB of checkpoints: --output=DIR elsewhere, or checkpoint.keep=1"
        yield Finding(name="disk space", status="slow", text=text, advice=advice)
    else:
        yield Finding(name="disk space", status="ok", text=text)


def compilers() -> Iterator[Finding]:
    """The compilers that sparse kernels on the CPU (C++) and Triton's (C, with Python's headers) are made by."""
    advice = "sparse kernels on the CPU need one: apt-get install g++, or set CXX; without it layers are computed densely"
    yield _program("C++ compiler", compiler()[0], advice)
    cc = next((each for each in (os.environ.get("CC"), "gcc", "clang") if each and shutil.which(each)), "gcc")
    advice = "Triton and train.compile on a GPU need one: apt-get install gcc, or set CC"
    yield _program("C compiler", cc, advice)
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if headers.is_file():
        yield Finding(name="Python.h", status="ok", text="the headers of this Python are there")
    else:
        advice = "Triton and train.compile on a GPU need them: apt-get install python3-dev"
        yield Finding(name="Python.h", status="note", text="the headers of this Python are missing", advice=advice)


def host_name() -> Iterator[Finding]:
    """Whether this host knows its own name: ranks find one another by it."""
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        advice = (
            "ranks may not find one another: add the host's name to /etc/hosts, or set GLOO_SOCKET_IFNAME=lo on one machine"
        )
        yield Finding(name="host name", status="slow", text="this host's own name has no address", advice=advice)
    else:
        yield Finding(name="host name", status="ok", text="this host's name has an address")


def slurm() -> Iterator[Finding]:
    """Slurm's commands, and whether its controller answers."""
    if shutil.which("sinfo") is None:
        advice = "nothing to do unless this is a cluster; without Slurm use torchrun (launchers/README.md)"
        yield Finding(name="Slurm", status="note", text="not installed", advice=advice)
        return
    job = f"inside of job {os.environ['SLURM_JOB_ID']}; " if "SLURM_JOB_ID" in os.environ else ""
    try:
        partitions = ask("sinfo", "--noheader", "--format=%P %D nodes %G").splitlines()
        version = ask("sinfo", "--version")
    except UserError as error:
        advice = "nothing to do unless this is a cluster; SLURM_CONF may name the configuration"
        yield Finding(name="Slurm", status="note", text=f"{job}it is installed, but {error}", advice=advice)
    else:
        shown = "; ".join(partitions[:4]) + ("; ..." if len(partitions) > 4 else "")
        yield Finding(name="Slurm", status="ok", text=f"{job}{version}; {shown}")


def ask(*command: str) -> str:
    """What a program prints, or UserError with the last line of what it has against it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} does not answer within {_PATIENCE} s") from None
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
        raise UserError(f"{command[0]} ends with {done.returncode}: {said[-1]}")
    return done.stdout.strip()


def _program(name: str, program: str, advice: str) -> Finding:
    if shutil.which(program) is None:
        return Finding(name=name, status="note", text=f"{program} is not there", advice=advice)
    try:
        return Finding(name=name, status="ok", text=ask(program, "--version").partition("\n")[0])
    except UserError as error:
        return Finding(name=name, status="note", text=str(error), advice=advice)


def _quota(root: Path) -> float:
    """Cores by the control group, version 2 or 1; infinite where it sets none."""
    group = root / "sys/fs/cgroup"
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota, period = ((group / f"cpu/cpu.cfs_{each}_us").read_text(encoding="ascii") for each in ("quota", "period"))
        except OSError:
            return float("inf")
    return float("inf") if quota.strip() in ("max", "-1") else int(quota) / int(period)


def _group_limit(root: Path) -> int | None:
    """Bytes that the control group, version 2 or 1, may use; None where they are not limited."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / "sys/fs/cgroup" / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() and int(text) < _UNLIMITED else None
    return None
