"""The commands of the Markdown files: where each stands, and the reason why one is not run.

A command is a fenced block of bash or Python, or a whole shell command in a code span. It is run as it stands, unless a comment
``<!-- not run in tests: REASON -->`` stands in its paragraph or table, or on the line before its block.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.command import ROOT

PROGRAMS = (
    "python|python3|bash|sh|torchrun|deepspeed|pip|wandb|sbatch|srun|scancel|scontrol|squeue|git|source|pytest|pre-commit"
)
"""What a shell command of ours begins with, after settings such as ``WANDB_MODE=offline``."""
LANGUAGES = ("bash", "python", "text", "yaml", "json")
"""Fences. What is not to be run is text, and holds no command."""

_REASON = re.compile(r"<!-- not run in tests: (.+?) -->")
_SPAN = re.compile(rf"`((?:[A-Z_]+=\S* )*(?:{PROGRAMS})\s[^`]+)`")


@dataclass(frozen=True)
class Command:
    """A block or a code span of a file, which is named from the root. ``reason`` says why it is not run; None if it is."""

    file: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def files() -> list[Path]:
    """Every Markdown file of the repository that is ours to keep."""
    folders = [ROOT / name for name in ("benchmarks", "configs", "dist_sparse", "launchers", "slurm", "tests")]
    found = {path for folder in folders for path in folder.glob("**/*.md")}
    return sorted([*ROOT.glob("*.md"), *(path for path in found if path.resolve() == path)])


def commands(text: str, file: str = "") -> list[Command]:
    """The commands of a file, in its order."""
    return [
        Command(file, start + shift, language, command, reason)
        for start, lines in _chunks(text)
        for shift, language, command, reason in _in_chunk(lines)
    ]


def _chunks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and lines of each paragraph, list or table, and of each fenced block with the comment before it."""
    chunk: list[str] = []
    fenced = False
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        opens = line.startswith("```") and not fenced
        if opens and chunk and not _REASON.fullmatch(chunk[-1]):
            yield number - len(chunk), chunk
            chunk = []
        if fenced or line.strip():
            chunk.append(line)
        closes = line.startswith("```") and fenced
        fenced = opens or (fenced and not closes)
        if chunk and (closes or not (fenced or line.strip())):
            yield number - len(chunk) + closes, chunk
            chunk = []


def _in_chunk(lines: list[str]) -> Iterator[tuple[int, str, str, str | None]]:
    """Line (from the chunk's), language, text and reason."""
    fence = next((index for index, line in enumerate(lines) if line.startswith("```")), None)
    text = "\n".join(lines if fence is None else lines[:fence])
    found = _REASON.search(text)
    reason = found[1] if found else None
    if fence is not None:
        yield fence, lines[fence].removeprefix("```").strip(), "\n".join(lines[fence + 1 : -1]), reason
        return
    for span in _SPAN.finditer(text):
        yield text[: span.start()].count("\n"), "bash", span[1].replace("\n", " "), reason
