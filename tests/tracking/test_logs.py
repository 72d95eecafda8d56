"""Each rank's log file holds what happened there; the user sees the first rank's warnings."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import logging, sys, warnings
from pathlib import Path
from dist_sparse.tracking import setup_logging
setup_logging(Path(sys.argv[1]), 0)
setup_logging(Path(sys.argv[1]), int(sys.argv[2]))
logging.getLogger("dist_sparse.x").info("an information")
logging.getLogger("dist_sparse.x").warning("a warning")
logging.getLogger("other").setLevel(logging.DEBUG)
logging.getLogger("other").info("chatter")
warnings.warn("a Python warning")
raise RuntimeError("the crash")
"""


@pytest.mark.parametrize("rank", [0, 3])
def test_logs(tmp_path: Path, rank: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(rank)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    log = (tmp_path / "logs" / f"rank_{rank}.log").read_text()
    for part in ("INFO dist_sparse.x: an information", "a warning", "a Python warning", "Traceback", "RuntimeError: the crash"):
        assert log.count(part) == 1, part
    assert "chatter" not in log
    assert result.returncode == 1
    assert result.stderr.count("RuntimeError: the crash") == 1
    assert result.stderr.count("a warning") == (rank == 0)
    assert "an information" not in result.stderr
    assert result.stdout == ""
