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

from dist_sparse.tracking import Console

ROOT = Path(__file__).parents[2]
VALUES = {
    "train/loss": 0.43211,
    "train/lr": 0.0832,
    "val/top1": 0.931,
    "sparsity/density": 0.1,
    "sparsity/mask_digest": 7,
    "time/images_per_second": 1234.4,
}


def test_a_line_for_a_row_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    console = Console(total_steps=1100, steps_per_epoch=11, stream=stream)
    for step in range(1, 121):
        console.advance(step)
    console.row(120, VALUES)
    console.row(121, {"sparsity/mask_digest": 7})
    console.row(1100, {"train/loss": float("nan")})
    console.close()
    assert stream.getvalue() == (
        "step 120/1100  epoch 10/100  loss 0.4321  lr 0.0832  top1 93.1 %  density 10.0 %  1,234 img/s\n"
        "step 1100/1100  epoch 100/100  loss nan\n"
    )


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
        console.row(120, VALUES)
        console.row(121, {"train/loss": 0.25})
        console.close()
    shown = read_all(master)
    bars = [text for text in shown.split("\r") if text.strip()]
    assert " 100/1100 " in bars[0]
    for part in ("epoch 11/100", "121/1100", "loss 0.2500", "top1 93.1 %", "1,234 img/s"):
        assert part in bars[-1]
    assert shown.count("\n") == 1, "one bar, which stays on its line"


def test_a_reader_that_goes_away_does_not_end_the_run() -> None:
    script = """
import sys
from dist_sparse.tracking import Console
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
