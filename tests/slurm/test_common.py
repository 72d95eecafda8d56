"""What the job scripts share, a function of bash at a time. It needs no Slurm for that."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT

BEGIN = "set -euo pipefail; source slurm/common.sh; "
"""As every job script begins."""
NOBODY = 65534


def bash(script: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", script], **{"cwd": ROOT, **options}, capture_output=True, text=True, check=False)


def test_ranks_are_found_among_processes_of_which_some_cannot_be_read() -> None:
    """A job's user is not root; where the tests' user is, they are another's, too."""
    function = bash(f"{BEGIN} declare -f ranks_left").stdout
    user = NOBODY if os.geteuid() == 0 else None
    task = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": f"test-{os.getpid()}"}

    def ranks_left() -> int:
        return bash(f"set -euo pipefail; {function} ranks_left", env=task, user=user, cwd="/").returncode

    assert ranks_left() == 1
    rank = {**task, "RANK": "0"}
    with subprocess.Popen(["cat"], env=rank, user=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        print("there", file=process.stdin, flush=True)
        assert process.stdout.readline() == "there\n"
        assert ranks_left() == 0
    assert ranks_left() == 1


def test_a_program_that_fails_to_describe_a_job_does_not_end_it(tmp_path: Path) -> None:
    """Such as nvidia-smi on a node without a driver."""
    for name in ("scontrol", "nvidia-smi"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho of {name}; exit 9\n")
        (tmp_path / name).chmod(0o755)
    done = bash(f"{BEGIN} record_environment; echo trains", env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == ["of scontrol", "of nvidia-smi", "trains"]


CLAIM = "run/slurm/job"


def train(folder: Path, before: str = ":", *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """``train run`` in a folder, which prints what it would start on the nodes. Every job is under way, by ``squeue``."""
    (folder / "squeue").write_text("#!/bin/sh\necho 1\n")
    (folder / "squeue").chmod(0o755)
    script = f'{BEGIN} on_every_node() {{ echo "$*"; }}; cd {folder}; {before}; train run {shlex.join(arguments)}'
    return bash(script, env={"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "1", **env})


@pytest.mark.parametrize(
    ("obstacle", "place"),
    [
        ("mkdir run; touch run/slurm", "run/slurm"),
        (f"mkdir -p {CLAIM}", CLAIM),
        ("mkdir -p run/slurm; trap '' XFSZ; ulimit -f 0", CLAIM),  # as on a full disk: a file can be made, but not filled
    ],
)
def test_a_job_that_cannot_write_its_claim_fails(tmp_path: Path, obstacle: str, place: str) -> None:
    done = train(tmp_path, obstacle)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == f"error: {place} cannot be written"


def test_a_claim_counts_for_another_job_that_is_under_way(tmp_path: Path) -> None:
    done = train(tmp_path, f"mkdir -p run/slurm; printf 2 >{CLAIM}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "run is being trained by job 2: nothing to do here\n")


def test_a_claim_that_a_full_disk_has_left_empty_is_nobodys(tmp_path: Path) -> None:
    done = train(tmp_path, f"mkdir -p run/slurm; touch {CLAIM}")
    assert (done.returncode, done.stdout) == (0, "node.sh run --output=run --resume=auto\n"), done.stderr
    assert (tmp_path / CLAIM).read_text() == "1"


@pytest.mark.parametrize(
    ("resume", "saved", "used"),
    [
        ("old.pt", None, "old.pt"),
        ("old.pt", 1, "old.pt"),  # by an earlier job
        ("old.pt", 3, "auto"),
        ("never", None, "auto"),  # which the folder's first start would be in the way of
    ],
)
def test_a_requeued_job_begins_as_it_was_told_until_it_has_saved(
    tmp_path: Path, resume: str, saved: int | None, used: str
) -> None:
    folder = tmp_path / "run"
    times = {"slurm/1-0.txt": 2} | ({} if saved is None else {"checkpoints/step_00000010.pt": saved})
    for name, moment in times.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
        os.utime(folder / name, (moment, moment))
    first = train(tmp_path, ":", f"--resume={resume}")
    assert first.stdout.split()[-1] == f"--resume={resume}", first.stderr
    os.utime(folder / "slurm/1-0.txt", (2, 2))
    requeued = train(tmp_path, ":", f"--resume={resume}", SLURM_RESTART_COUNT="1")
    assert requeued.stdout.split()[-1] == f"--resume={used}", requeued.stderr


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ("--output=~/runs/x", "/home/me/runs/x"),
        ("--output '~/a run'", "/home/me/a run"),
        ("'output=~'", "/home/me"),
        ("--output=a~/x", "a~/x"),
        ("--output=~x", "~x"),
        ("--seed=1", ""),
    ],
)
def test_the_folder_of_the_scripts_is_that_of_the_run(words: str, output: str) -> None:
    """bash leaves the ~ in an option's value to the run, which finds the home folder for it."""
    done = bash(f"{BEGIN} option output {words}", env={"PATH": "/usr/bin:/bin", "HOME": "/home/me"})
    assert (done.returncode, done.stdout) == (0, output), done.stderr
