"""Damage to the files of a run between its kill and its resume."""

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from tests.faults.bench import Bench, Case, clean_up, some_operation
from tests.faults.compare import differences


def _truncate(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(max(1, path.stat().st_size))])


def _empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _zeros(path: Path, draw: random.Random) -> None:
    """As after a power cut: the end of the file has not reached the disk."""
    content = path.read_bytes()
    kept = draw.randrange(max(1, len(content)))
    path.write_bytes(content[:kept] + bytes(len(content) - kept))


def _garbage(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(draw.randrange(1, 2000)))


def _delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def _folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "truncated": _truncate, "emptied": _empty, "a bit flipped": _flip, "its end zeroed": _zeros, "garbage": _garbage,
    "deleted": _delete, "a folder": _folder,
}  # fmt: skip


def damage(bench: Bench, draw: random.Random) -> Case:
    """Kill a run; damage one or two of its files; resume. It goes on to the same end, or says in a line which file it refuses.

    After a refusal the files are put back, and then the run must go on: nothing was lost by asking.
    """
    run = bench.choose(draw, (1, 1, 1, 2))
    case, folder, reference = Case("damaged files"), bench.new_folder(), bench.reference(run)
    operation = some_operation(draw, reference, 0, late=True)
    strike = {"signal_at": {"folder": str(folder), "operation": operation, "number": int(signal.SIGKILL)}}
    with bench.start(run, folder, {0: strike}) as start:
        bench.tried(case, start.end())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stories, kept = [], bench.new_folder()
    shutil.copytree(folder, kept)
    newest, unread = max((folder / "checkpoints").glob("step_*.pt"), default=None), set[str]()
    for path in draw.sample(files, min(len(files), draw.choice((1, 1, 2)))):
        name = draw.choice(list(DAMAGES))
        DAMAGES[name](path, draw)
        stories.append(f"{path.relative_to(folder)}: {name}")
        if path.match("checkpoints/step_*.pt") and path != newest:
            unread.add(path.name)  # it stays as it is until the newer one is lost: then it is checked
    case.story = f"{run.name}: killed before file operation {operation}; {'; '.join(stories)}"
    told = bench.resume(case, run, folder)
    case.differences = [line for line in case.differences if not _is_of(line, unread)]
    if case.outcome == "refused":
        shutil.rmtree(folder)
        kept.rename(folder)
        bench.resume(case, run, folder)
        case.outcome = "refused, then equal"
    elif case.differences and told.warnings:
        of_best = any("best.pt" in warning for warning in told.warnings)
        found = differences(folder, reference.folder, but_best=of_best)
        case.differences = [line for line in found if not _was_told(line, told.warnings)]
        case.outcome = "equal but for a file that it had warned of"
    clean_up(case, folder)
    shutil.rmtree(kept, ignore_errors=True)
    return case


def _is_of(difference: str, names: set[str]) -> bool:
    """The difference is of one of these files."""
    return difference.partition(":")[0] in names


def _was_told(difference: str, warnings: list[str]) -> bool:
    """The file that differs is one that the run has called damaged."""
    return any(difference.partition(":")[0] in warning for warning in warnings)
