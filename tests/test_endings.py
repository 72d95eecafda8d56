"""Every end of a command is over soon after its last word, with all that it has started: seen from outside."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.trainer import Moment, Trainer
from tests.command import train_here, words
from tests.endings import TORCHRUN, Watched, watch
from tests.photos import write_photos
from tests.values import LOGGED

pytestmark = pytest.mark.waits

FOLDER = {
    **LOGGED,
    "data.name": "image_folder",
    "data.image_size": 32,
    "data.backend": "torchvision",
    "data.workers": 1,
    "model.name": "test_resnet",
    "train.batch_size": 4,
    "train.eval_batch_size": 4,
    "train.epochs": 50,
    "sparsity.density": 0.3,
}


def training(root: Path, output: Path, *launcher: str, **values: Any) -> Watched:
    given = {key.replace("__", "."): value for key, value in values.items()}
    return watch([*launcher, "-m", "dist_sparse.train", *words({**FOLDER, "data.root": root, "output": output, **given})])


def spoil(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:300])
    return path


def corrupt_image(root: Path, output: Path, *launcher: str, split: str, **values: Any) -> tuple[Watched, int]:
    for name in ("temple", "flower"):
        spoil(root / split / name / "2.JPEG")
    return training(root, output, *launcher, **values), 2


def not_finite(root: Path, output: Path, *launcher: str, **values: Any) -> tuple[Watched, int]:
    return training(root, output, *launcher, optim__lr=1e30, train__nan_limit=3, **values), 2


def asked(root: Path, output: Path, *launcher: str, signals: tuple[int, ...], **values: Any) -> tuple[Watched, int]:
    run = training(root, output, *launcher, **values).until("step 8/")
    for number in signals:
        run.signal(number)
    return run, 75 if signal.SIGTERM in signals else 130


def test_what_a_run_leaves_is_there_before_w_and_b_has_its_time(tmp_path: Path) -> None:
    """Whatever becomes of a long upload, such as a launcher that loses patience, the run is finished."""
    reasons: list[str] = []

    def hook(moment: Moment, trainer: Trainer) -> None:
        if moment is Moment.STARTED:
            close = trainer.tracker.close

            def look(**end: Any) -> None:
                reasons.append(json.loads((tmp_path / "summary.json").read_text())["exit_reason"])
                close(**end)

            setattr(trainer.tracker, "close", look)  # noqa: B010

    values = {**LOGGED, "sparsity.method": "static", "sparsity.density": 0.3, "train.epochs": 1, "data.limit": 128}
    outcome = train_here({**values, "output": tmp_path}, hooks=[hook])
    assert (outcome.code, reasons) == (0, ["finished"]), outcome.err


def ended(run: Watched, code: int) -> str:
    """What it said, once it has ended as it should."""
    try:
        found = run.end()
        assert found == code, run.said
        assert run.ended_promptly, f"{run.silence:.1f} s after its last word:\n{run.said}"
    finally:
        run.kill()
    return run.said


@pytest.mark.parametrize(
    ("case", "values"),
    [
        (corrupt_image, {"split": "train", "data__workers": 4}),
        (not_finite, {}),
        (asked, {"signals": (signal.SIGINT, signal.SIGINT)}),
        (asked, {"signals": (signal.SIGTERM,), "data__workers": 4, "data__backend": "dali"}),
    ],
    ids=["corrupt image", "loss not finite", "Ctrl-C twice", "SIGTERM and DALI"],
)
def test_a_run_that_has_said_its_last_word_is_over(tmp_path: Path, case: Any, values: dict[str, Any]) -> None:
    run, code = case(write_photos(tmp_path / "photos"), tmp_path / "run", **values)
    ended(run, code)


def test_a_mistake_that_one_of_two_ranks_meets_is_told_once_and_ends_both(tmp_path: Path) -> None:
    """Rank 1 reads the bad one of the validation images, while rank 0 waits."""
    root = write_photos(tmp_path / "photos")
    bad = spoil(sorted(root.glob("val/*/*"))[1])
    said = ended(training(root, tmp_path / "run", *TORCHRUN, train__epochs=1), 1)
    (line,) = [line for line in said.splitlines() if "error: " in line]
    assert line.startswith(f"error: {bad} cannot be decoded (")
    assert line.endswith("); mend or remove it, or set data.bad_images=skip")
    assert "RuntimeError" not in said
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["exit_reason"] == f"stopped: {line.removeprefix('error: ')}"


def test_workers_die_with_a_killed_run(tmp_path: Path) -> None:
    run = training(write_photos(tmp_path / "photos"), tmp_path / "run", data__workers=4).until("step 8/")
    assert len(run.children()) >= 4
    run.process.kill()
    ended(run, -signal.SIGKILL)


def test_full_shared_memory_is_told_with_its_cure(tmp_path: Path) -> None:
    """In a mount namespace of its own, where it has a megabyte, which no batch fits in."""
    small = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh")
    if subprocess.run([*small, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    root = write_photos(tmp_path / "photos")
    values = {**FOLDER, "data.image_size": 224, "train.batch_size": 16, "data.root": root, "output": tmp_path / "run"}
    said = ended(watch(["-m", "dist_sparse.train", *words(values)], prefix=small), 2)
    assert said.splitlines()[-1].startswith("error: /dev/shm is full (it has 1 MB), through which data.workers hand over ")


def test_a_killed_worker_ends_all_ranks(tmp_path: Path) -> None:
    run = training(write_photos(tmp_path / "photos"), tmp_path / "run", *TORCHRUN).until("step 8/")
    ranks = {run.process.pid, *children_of(run.process.pid)}
    (worker, *_) = [pid for pid in run.children() if not ranks & {pid} and parent_of(pid) in ranks - {run.process.pid}]
    os.kill(worker, signal.SIGKILL)
    said = ended(run, 1)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    # On a busy machine the launcher may end the rank before it has spoken, or end the other only after that has missed it.
    reasons, missed = lines[:1], lines[1:]
    assert all(line.startswith("error: a worker that loads images has died (") for line in reasons), said
    assert len(missed) <= 1 and all(line.startswith("error: rank ") and ") has died: " in line for line in missed), said


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid: int) -> set[int]:
    return {int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose held-out images have been spoilt since."""
    folder = tmp_path_factory.mktemp("trained")
    root = write_photos(folder / "photos")
    assert train_here({**FOLDER, "data.root": root, "output": folder / "run", "train.epochs": 1, "data.workers": 0}).code == 0
    spoil(root / "val/temple/2.JPEG")
    return folder / "run"


@pytest.mark.parametrize("module", ["evaluate", "plasticity"])
def test_a_corrupt_image_ends_the_commands_for_checkpoints(trained: Path, module: str) -> None:
    said = ended(watch(["-m", f"dist_sparse.{module}", str(trained), "--data.workers=2", "--data.bad_images=stop"]), 2)
    assert "cannot be decoded" in said.splitlines()[-1]
