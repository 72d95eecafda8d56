"""The real W&B client, without the internet."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.config import load_config
from dist_sparse.tracking.wandb_run import WandbRun

ROOT = Path(__file__).parents[2]
WANDB = shutil.which("wandb", path=Path(sys.executable).parent)

SCRIPT = """
import logging, os, signal, sys
from pathlib import Path
from dist_sparse.config import load_config
from dist_sparse.tracking.wandb_run import WandbRun
logging.basicConfig(format="%(message)s")
folder, when, *overrides = sys.argv[1:]
run = WandbRun(load_config(overrides=overrides), Path(folder), None)
if when == "kill the client":
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
for step in range(3):
    run.log(step, {"train/loss": 1.0})
run.finish(0, {})
print("the end")
"""


def inspect(path: Path, *options: str) -> str:
    """What W&B's own reader finds in a run's file, as JSON: an object a line, or one object with ``--summary``."""
    assert WANDB is not None
    command = [WANDB, "leet", "inspect", "--json", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def run_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def own_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith("dist_sparse")]


def run_alone(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    variables = {**clean, "HOME": str(folder), "NETRC": str(folder / "netrc"), **environment}
    command = [sys.executable, "-c", SCRIPT, str(folder), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_an_offline_run_reads_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = load_config(overrides={"name": "mine", "sparsity.density": 0.1, "tracking.tags": ["extra"]})
    run = WandbRun(config, tmp_path, None)
    for step in (10, 20):
        run.log(step, {"train/loss": 1 / step, "layers/conv1/density": 0.1})
    run.finish(0, {"best_top1": 0.75})
    assert capfd.readouterr() == ("", "")
    (path,) = run_files(tmp_path)
    text = inspect(path)
    for part in ("mine", "extra", "density=0.1", "rigl-cifar_resnet20-digits", str(run.id)):
        assert part in text, part
    found = json.loads(inspect(path, "--summary"))
    assert found["summary"].items() >= {"train/loss": 0.05, "layers/conv1/density": 0.1, "step": 20, "best_top1": 0.75}.items()
    assert found["config"]["sparsity.density"] == 0.1


@pytest.mark.parametrize(
    ("artifacts", "patience", "limit"),
    [(False, None, 30), (True, None, 600), (True, 600.0, 300), (False, 600.0, 30), (False, 20.0, 10)],
)
def test_the_end_takes_half_the_time_that_other_ranks_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifacts: bool, patience: float | None, limit: float
) -> None:
    monkeypatch.delenv("WANDB_FINISH_TIMEOUT", raising=False)
    config = load_config(overrides={"tracking.artifacts": artifacts})
    run = WandbRun(config, tmp_path, None, patience=patience)
    assert run._run is not None
    assert run._run.settings.finish_timeout == limit
    run.finish(1, {})


def test_what_the_user_names_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    run = WandbRun(load_config(overrides={"tracking.group": "ablation", "tracking.job_type": "seeds"}), tmp_path, None)
    run.finish(0, {})
    (path,) = run_files(tmp_path)
    text = inspect(path)
    assert '"ablation"' in text and '"seeds"' in text
    assert "array-17" not in text


def test_a_resumed_run_keeps_its_id_and_may_log_earlier_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = WandbRun(load_config(), tmp_path, None)
    first.log(20, {"train/loss": 2.0})
    first.finish(1, {})
    second = WandbRun(load_config(), tmp_path, first.id)
    second.log(15, {"train/loss": 1.5})
    second.finish(0, {})
    assert second.id == first.id
    files = run_files(tmp_path)
    assert [path.name for path in files] == [f"run-{first.id}.wandb"] * 2
    losses = [json.loads(inspect(path, "--summary"))["summary"]["train/loss"] for path in files]
    assert sorted(losses) == [1.5, 2.0]
    assert own_records(caplog) == []


def test_disabled_makes_nothing_and_keeps_the_id(tmp_path: Path) -> None:
    run = WandbRun(load_config(overrides={"tracking.wandb": "disabled"}), tmp_path, "abc")
    run.log(1, {"train/loss": 1.0})
    run.finish(0, {})
    assert run.id == "abc"
    assert list(tmp_path.iterdir()) == []


def test_auto_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert WandbRun(load_config(), tmp_path, None).id is None
    assert list(tmp_path.iterdir()) == []


def test_a_metric_that_wandb_refuses_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = WandbRun(load_config(), tmp_path, None)
    bad: Any = {1: 2.0}
    run.log(1, bad)
    run.log(2, bad)
    run.finish(0, {})
    (record,) = own_records(caplog)
    assert record.levelno == logging.WARNING
    assert record.message.startswith("W&B: off from here on: ")


def test_a_client_that_dies_does_not_stop_the_run(tmp_path: Path) -> None:
    """Not even when its own process is killed in the middle of the run."""
    result = run_alone(tmp_path, "kill the client", "--tracking.wandb=offline")
    assert (result.returncode, result.stdout) == (0, "the end\n"), result.stderr


def test_without_a_key_it_is_offline_and_asks_for_none(tmp_path: Path) -> None:
    result = run_alone(tmp_path / "auto", "")
    assert (result.returncode, result.stdout, result.stderr) == (0, "the end\n", "")
    result = run_alone(tmp_path / "online", "", "--tracking.wandb=online")
    assert (result.returncode, result.stdout) == (0, "the end\n")
    assert result.stderr == "W&B is offline: there is no key; `wandb login` stores one\n"
    assert len(list(tmp_path.glob("*/wandb/offline-run-*"))) == 2


def test_an_unreachable_server_is_one_warning_and_an_offline_run(tmp_path: Path) -> None:
    """The key lies where `wandb login` puts it; nobody listens at the port."""
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9\n  login user\n  password {'a' * 40}\n")
    (tmp_path / "netrc").chmod(0o600)
    result = run_alone(tmp_path, "", WANDB_BASE_URL="http://127.0.0.1:9", WANDB_INIT_TIMEOUT="1")
    assert (result.returncode, result.stdout) == (0, "the end\n")
    (line,) = result.stderr.splitlines()
    assert line.startswith("W&B is offline: ")
    assert list(tmp_path.glob("wandb/offline-run-*"))


def test_a_missing_package_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = WandbRun(load_config(), tmp_path, None)
    run.log(1, {"train/loss": 1.0})
    run.finish(0, {})
    (record,) = caplog.records
    assert record.message.startswith("W&B is off: ")
