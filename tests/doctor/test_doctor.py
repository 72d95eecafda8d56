"""The doctor: a whole examination of this machine, what falls short and is told with advice, and what must never be shown."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.doctor import examination, machine, native, packages
from dist_sparse.doctor.__main__ import main
from dist_sparse.doctor.child import found_by_child
from dist_sparse.doctor.finding import Finding, look
from dist_sparse.doctor.reading import reading
from tests.command import PATIENCE, ROOT, here

SECRETS = {"WANDB_API_KEY": "a1b2c3d4" * 5, "HF_TOKEN": "hf_abcdefghijkl", "WANDB_BASE_URL": "http://me:pass-word@127.0.0.1:9"}


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """One examination in a process of its own, with secrets around it, of a folder with one image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "train/a").mkdir(parents=True)
    (folder / "train/a/1.JPEG").write_bytes(bytes(100_000))
    environment = {**os.environ, **SECRETS, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dist_sparse.doctor", f"--data={folder}", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=PATIENCE, check=False)
    return done, json.loads(done.stdout)


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_this_machine_can_train(examined: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    done, tree = examined
    assert (done.returncode, tree["broken"]) == (0, False), done.stdout
    found = by_name(map(Finding.of, tree["findings"]))
    assert set(examination._SYSTEM) - {"compilers"} <= set(found)
    assert {"PyTorch", "gloo", "GPU", "sparse kernels, CPU", "W&B key", "Slurm", "reading images", "C++ compiler"} <= set(found)
    assert {"extra dali", "extra deepspeed", "extra export", "extra tensorboard", "extra test"} <= set(found)
    assert not [each for each in found.values() if "could not be looked at" in each.text], "a check has failed"
    assert all(each.advice for each in found.values() if each.status != "ok"), "each says what to do"
    assert found["W&B key"].text.startswith("there is one")
    assert "from 1 files" in found["reading images"].text
    assert found["packages"].status == found["PyTorch"].status == found["in plain torch"].status == "ok"


def test_no_secret_is_shown(examined: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    done, _ = examined
    for value in (*SECRETS.values(), "pass-word"):
        assert value not in done.stdout + done.stderr


def test_a_file_of_keys_that_cannot_be_read_is_not_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's reader of .netrc says what it does not understand."""
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  hunter2hunter2 word\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    (finding,) = found_by_child("W&B key", "advice")
    assert finding.status == "note" and "hunter2" not in finding.text + finding.advice


def test_a_check_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "swordfish")

    def check() -> Iterable[Finding]:
        yield Finding(name="first", status="ok", text="two\nlines")
        raise RuntimeError("of swordfish, at http://user:word@host/")

    first, second = look("something", check)
    assert first.text == "two lines"
    assert (second.name, second.status) == ("something", "note")
    assert second.text == "could not be looked at (RuntimeError: of ***, at http://***@host/)"


def test_a_check_whose_process_ends_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))
    for words, text, status in (
        ("echo the last word >&2; kill -SEGV $$", "the check's process ends by SIGSEGV: the last word", "slow"),
        ("exit 3", "the check's process ends by exit code 3", "slow"),
        ("sleep 600", "no end within 0.3 s", "slow"),
    ):
        program.write_text(f"#!/bin/sh\n{words}\n")
        program.chmod(0o755)
        (finding,) = found_by_child("DALI", "do without", seconds=0.3 if "sleep" in words else 60)
        assert (finding.text, finding.status, finding.advice) == (text, status, "do without")
    program.write_text("#!/bin/sh\nexit 3\n")
    (finding,) = found_by_child("PyTorch", "install it")
    assert finding.status == "broken", "nothing runs without it"


@pytest.mark.parametrize(
    ("findings", "code", "last"),
    [
        ([Finding(name="a", status="ok", text="x")], 0, "Nothing is broken."),
        ([Finding(name="a", status="note", text="x", advice="y")], 0, "Nothing is broken."),
        ([Finding(name="a", status="slow", text="x", advice="y")], 0, "Nothing is broken; worth a look: a."),
        (
            [Finding(name="a", status="slow", text="x", advice="y"), Finding(name="b", status="broken", text="z " * 90)],
            1,
            "Broken: b.",
        ),
    ],
)
def test_exit_code_and_last_line(monkeypatch: pytest.MonkeyPatch, findings: list[Finding], code: int, last: str) -> None:
    monkeypatch.setattr(examination, "examine", lambda data: iter(findings))
    outcome = here(main, [])
    assert (outcome.code, outcome.out.splitlines()[-1]) == (code, last)
    assert outcome.out.startswith("dist_sparse ")
    assert max(map(len, outcome.out.splitlines())) <= 120
    assert json.loads(here(main, ["--json"]).out)["broken"] == (code == 1)
    assert here(main, ["--jason"]).code == 2


def test_cores_and_memory_by_the_control_group(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\nHugePages_Total: 0\n")
    (finding,) = machine.memory(tmp_path)
    assert (finding.status, finding.text) == ("ok", "65.54 GB, 32.77 GB of it free")
    (group / "cpu.max").write_text("50000 100000\n")
    (group / "memory.max").write_text("2000000000\n")
    assert machine.usable_cores(tmp_path) == 0.5
    (finding,) = machine.memory(tmp_path)
    assert finding.status == "slow" and "limited to 2 GB" in finding.text and "--mem" in finding.advice
    for text in ("max", str(1 << 63)):
        (group / "memory.max").write_text(text)
        assert next(iter(machine.memory(tmp_path))).status == "ok"


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 2.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    (finding,) = machine.cores()
    assert finding.status == "slow" and "OMP_NUM_THREADS=2" in finding.advice


def test_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1 << 20))
    (finding,) = machine.open_files()
    assert finding.status == "slow" and "ulimit -n 65536" in finding.advice
    (finding,) = machine.memory()
    assert finding.status == "slow" and "ulimit -v" in finding.advice
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(total=1 << 26, free=1 << 26))
    (finding,) = machine.shared_memory(tmp_path)
    assert finding.status == "slow" and "--shm-size" in finding.advice
    (finding,) = machine.disk_space(tmp_path)
    assert finding.status == "slow" and "--output" in finding.advice


@pytest.mark.parametrize("check", [machine.compilers, machine.slurm])
def test_nothing_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, check: Callable[[], Iterable[Finding]]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    found = [each for each in check() if each.name != "Python.h"]
    assert found and all(each.status == "note" and each.advice for each in found)


def test_a_host_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    (finding,) = machine.host_name()
    assert finding.status == "slow" and "/etc/hosts" in finding.advice


def test_requirements_of_a_clone_and_of_an_installed_package(tmp_path: Path) -> None:
    of_clone = packages.wanted()
    assert any(each.startswith("torch >=") for each in of_clone[""]) and of_clone["dali"] == ["nvidia-dali-cuda130"]
    of_metadata = packages.wanted(tmp_path / "setup.cfg")
    assert {"", "dali", "deepspeed", "export", "test"} <= set(of_metadata)
    assert any(each.startswith("torch>=") for each in of_metadata[""])


def test_requirements_that_are_not_met() -> None:
    wants = {"": ["numpy", "timm >= 999", "no-such-package"], "good": ["numpy"], "dali": ["no-such-package-of-nvidia"]}
    found = by_name(packages.requirements(wants))
    assert found["packages"].status == "broken"
    assert found["packages"].text.endswith("and should be >=999; no-such-package is not installed")
    assert found["packages"].advice == "pip install 'timm>=999' 'no-such-package'"
    assert found["extra good"].status == "ok" and found["extra dali"].status == "note"
    assert "dist_sparse[dali]" in found["extra dali"].advice


def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert native._no_gpu("13.0", "nvidia-smi: No such file or directory").status == "note"
    too_old = native._no_gpu("13.0", "driver 470.1")
    assert too_old.status == "broken" and "newer driver" in too_old.advice
    assert native._no_gpu(None, "driver 580.1").advice == "install a torch build for CUDA"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = native._no_gpu("13.0", "driver 580.1")
    assert hidden.status == "note" and "CUDA_VISIBLE_DEVICES" in hidden.text


def test_reading_images(tmp_path: Path) -> None:
    (finding,) = reading(None)
    assert finding.status == "note" and "--data" in finding.advice
    (finding,) = reading(tmp_path / "missing")
    assert finding.status == "broken"
    (finding,) = reading(tmp_path)
    assert finding.status == "note" and "no images" in finding.text
    for number in range(20):
        (tmp_path / str(number % 3)).mkdir(exist_ok=True)
        (tmp_path / str(number % 3) / f"{number}.png").write_bytes(bytes(50_000))
    os.mkfifo(tmp_path / "pipe.jpg")  # nobody writes into it
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (finding,) = reading(tmp_path)
    assert "from 21 files (1 MB)" in finding.text and "1 could not be read" in finding.text and finding.status == "slow"
    (finding,) = reading(tmp_path, seconds=0)
    assert finding.status in ("note", "broken"), "it ends when the time is over"
