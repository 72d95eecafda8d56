"""The check of GPUs, where there is none: what it says then, and parts of it on the CPU, with and without what is optional."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import PATIENCE, ROOT

SCRIPT = ROOT / "launchers/gpu_check.sh"


def check(*words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **more}
    command = ["bash", str(SCRIPT), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)


def outcomes(folder: Path, name: str = "results.txt") -> dict[str, str]:
    """Each part's outcome, from the summary at the end of the file."""
    _, _, summary = (folder / name).read_text().partition("=== Summary")
    return dict(re.findall(r"^(\S.*?) {2,}(\S.*)$", summary, re.MULTILINE))


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = check(cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: torch sees no GPU here") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--device=tpu"], ["--devise=cpu"], ["x"]])
def test_a_mistake_is_one_line(tmp_path: Path, words: list[str]) -> None:
    done = check(*words, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_on_the_cpu(tmp_path: Path) -> None:
    """A part of each kind: the doctor, tests, a benchmark. The words that follow are the parts' own."""
    done = check("--device=cpu", "--output=doctor.txt", "--only=doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(outcomes(tmp_path, "doctor.txt")) == {"doctor"} and "Python" in (tmp_path / "doctor.txt").read_text()
    done = check("--device=cpu", "--output=results.txt", "--only=kernels", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"ok, 5 passed \(\d+ s\)", outcomes(tmp_path)["tests: kernels"])
    done = check("--device=cpu", "--output=results.txt", "--only=fills", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcomes(tmp_path)["benchmark: the batch that fills it"].startswith("ok ")


@pytest.mark.slow
def test_what_is_not_installed_is_left_out(tmp_path: Path) -> None:
    """Packages that cannot be found, as where they are not installed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('deepspeed', 'wandb', 'xdist', 'hypothesis') or name.startswith('nvidia.dali'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    more = {"PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for word, part, outcome in (
        ("DALI", "tests: DALI's decoder", "left out: DALI is not installed"),
        ("DeepSpeed", "tests: DeepSpeed's stages", "left out: DeepSpeed is not installed"),
        ("kernels", "tests: kernels", "ok, 5 passed"),
    ):
        done = check("--device=cpu", "--output=results.txt", f"--only={word}", cwd=tmp_path, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        assert outcomes(tmp_path)[part].startswith(outcome), done.stdout
