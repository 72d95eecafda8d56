"""What the user sees: a bar on a terminal, lines elsewhere, and no trouble when nobody reads."""

import contextlib
import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from dist_sparse.tracking import Console
from dist_sparse.tracking.console import duration

ROOT = Path(__file__).parents[2]
VALUES = {
    "train/loss": 0.43211,
    "train/lr": 0.0832,
    "val/top1": 0.931,
    "sparsity/density": 0.1,
    "sparsity/mask_digest": 7,
    "time/images_per_second": 1234.4,
    "memory/peak_bytes": 1.25e9,
}


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_line_for_a_row_where_there_is_no_terminal() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(total_steps=1100, steps_per_epoch=11, stream=stream, now=clock)
    for step in range(1, 121):
        console.advance(step)
    console.expect(3725.0)
    console.row(120, {name: value for name, value in VALUES.items() if name != "val/top1"})
    console.row(121, {"sparsity/mask_digest": 7})
    clock.seconds = 83.2
    console.row(121, {"val/top1": 0.931, "val/loss": 0.3, "sparsity/density": 0.1})
    console.end_epoch(121, 0.5)
    console.end_epoch(132, 0.25)
    console.expect(None)
    console.row(1100, {"train/loss": float("nan")})
    console.close()
    assert stream.getvalue() == (
        "step 120/1100  epoch 10/100  loss 0.4321  lr 0.0832  density 10.0 %  1,234 img/s  mem 1.2 GB  1 h 2 min left\n"
        "epoch 11/100 ends  loss 0.5000  val loss 0.3000  top1 93.1 %  density 10.0 %  took 1 min 23 s\n"
        "epoch 12/100 ends  loss 0.2500  density 10.0 %  took 0.0 s\n"
        "step 1100/1100  epoch 100/100  loss nan\n"
    )


def test_a_validation_that_a_resumed_run_begins_with_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for later in (True, False):
        console = Console(total_steps=66, steps_per_epoch=22, start_step=22, now=Clock())
        console.row(22, {"val/top1": 0.5, "sparsity/density": 0.1})
        if later:
            console.row(30, {"train/loss": 1.0})
        console.close()
        lines = ["epoch 1/3 ends  top1 50.0 %  density 10.0 %  took 0.0 s", "step 30/66  epoch 1/3  loss 1.0000"]
        assert capsys.readouterr().out.splitlines() == lines[: 1 + later]


def test_lines_of_the_longest_runs_have_120_columns() -> None:
    stream = io.StringIO()
    console = Console(total_steps=1_251_000, steps_per_epoch=12_510, stream=stream)
    console.expect(86399 * 9)
    console.row(999_999, {**VALUES, "train/lr": 1.234e-07, "memory/peak_bytes": 139e9, "time/images_per_second": 123_456})
    console.row(1_000_800, {"val/loss": 10.0, "val/top1": 1.0, "val/ema_top1": 1.0, "sparsity/density": 1.0})
    console.end_epoch(1_000_800, 10.0)
    console.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 120, lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.96, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (3600, "1 h 0 min"),
        (86399, "1 d 0 h"),
        (100_000, "1 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def read_all(master: int) -> str:
    """What was written to a terminal that is closed by now; its end is an error on Linux."""
    parts = []
    with contextlib.suppress(OSError):
        while part := os.read(master, 4096):
            parts.append(part)
    os.close(master)
    return b"".join(parts).decode()


def test_a_bar_on_a_terminal() -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 160, 0, 0))
    with os.fdopen(slave, "w") as stream:
        console = Console(total_steps=1100, steps_per_epoch=11, start_step=100, stream=stream)
        console.advance(120)
        console.expect(100)
        console.row(120, {name: value for name, value in VALUES.items() if name != "val/top1"})
        console.row(121, {"train/loss": 0.25, "val/top1": 0.931})
        console.end_epoch(121, 0.5)
        console.row(122, {"train/loss": 0.125})
        console.close()
    shown = read_all(master)
    bars = [text for text in shown.split("\r") if text.strip()]
    assert " 100/1100 " in bars[0]
    for part in ("epoch 11/100", "122/1100", "loss 0.1250", "top1 93.1 %", "1,234 img/s", "mem 1.2 GB", "1 min 40 s left"):
        assert part in bars[-1]
    assert shown.count("\n") == 2, "one bar, which stays on its line, and the line of an epoch above it"
    assert any(text.startswith("epoch 11/100 ends  loss 0.5000") for text in bars)


def test_a_reader_that_goes_away_does_not_end_the_run() -> None:
    script = """
import sys
import pytest

from dist_sparse.tracking import Console
from dist_sparse.tracking.console import duration
console = Console(total_steps=5, steps_per_epoch=1)
sys.stdin.readline()
for step in range(5):
    console.row(step, {"train/loss": 1.0})
console.close()
print("a summary of someone else's", flush=True)
print("the end", file=sys.stderr)
"""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate("go\n")
    assert errors == "the end\n"
    assert process.returncode == 0
