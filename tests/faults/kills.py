"""Ranks that are killed, at random moments or before a file operation, and ranks that are asked to stop there."""

import random
import signal

from tests.faults.bench import Bench, Case, clean_up, finished_as_expected, some_operation
from tests.faults.compare import MISSING, TOO_MANY
from tests.faults.processes import LIMIT


def kills(bench: Bench, draw: random.Random) -> Case:
    """SIGKILL to one rank or all, once to three times in a row, at moments that are drawn from the length of the run."""
    run = bench.choose(draw)
    case, folder, reference = Case("kill at a moment"), bench.new_folder(), bench.reference(run)
    moments = [draw.random() for _ in range(draw.choice((1, 1, 2, 3)))]
    victims = list(range(run.ranks)) if draw.random() < 0.4 else [draw.randrange(run.ranks)]
    case.story = f"{run.name}: ranks {victims} killed at {', '.join(f'{moment:.0%}' for moment in moments)} of the time"
    for moment in moments:
        with bench.start(run, folder) as start:
            if start.children[victims[0]].wait(moment * reference.seconds) is None:
                for rank in victims:
                    start.children[rank].send(signal.SIGKILL)
            bench.tried(case, start.end())
    finished_as_expected(bench, case, run, folder)
    return case


def kills_at_files(bench: Bench, draw: random.Random) -> Case:
    """SIGKILL to a rank right before one of its file operations, and again on the way on."""
    run = bench.choose(draw)
    case, folder, reference = Case("kill before a file operation"), bench.new_folder(), bench.reference(run)
    rank = draw.randrange(run.ranks) if draw.random() < 0.3 else 0
    operations = [some_operation(draw, reference, rank)] + [draw.randint(1, 60)] * draw.choice((0, 0, 1))
    case.story = f"{run.name}: rank {rank} killed before its file operations {operations}"
    for operation in operations:
        strike = {"signal_at": {"folder": str(folder), "operation": operation, "number": int(signal.SIGKILL)}}
        with bench.start(run, folder, {rank: strike}) as start:
            bench.tried(case, start.end())
    finished_as_expected(bench, case, run, folder)
    return case


def signals(bench: Bench, draw: random.Random) -> Case:
    """SIGTERM, SIGUSR1 or Ctrl-C to one rank at a file operation: a stop in good order, with an exit code that tells which."""
    run = bench.choose(draw)
    case, folder, reference = Case("asked to stop"), bench.new_folder(), bench.reference(run)
    rank = draw.randrange(run.ranks)
    number = draw.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT))
    operation = some_operation(draw, reference, rank)
    case.story = f"{run.name}: {number.name} to rank {rank} at its file operation {operation}"
    strike = {"signal_at": {"folder": str(folder), "operation": operation, "number": int(number)}}
    with bench.start(run, folder, {rank: strike}) as start:
        ended = bench.tried(case, start.end())
    expected = 130 if number == signal.SIGINT else 75
    # The first rank that is gone makes torchrun end the others, which may be past listening by then.
    others = (0, expected, -signal.SIGTERM) if run.ranks > 1 else (0, expected)
    if any(code not in others for code in ended.codes) or (any(ended.codes) and expected not in ended.codes):
        case.others.append(f"ended with {ended.codes} after {number.name}: {ended.err[-1500:]}")
    finished_as_expected(bench, case, run, folder)
    # The checkpoint of the stop is one of the last, and may stay where another would have stayed.
    case.differences = [line for line in case.differences if not line.endswith((MISSING, TOO_MANY))]
    clean_up(case, folder)
    return case


def stopped(bench: Bench, draw: random.Random) -> Case:
    """SIGSTOP to a rank, or all, for a while, two times: the others wait, and nothing else happens."""
    run = bench.choose(draw, (1, 2, 2, 4))
    case, folder, reference = Case("stopped and continued"), bench.new_folder(), bench.reference(run)
    moments = sorted(draw.random() for _ in range(2))
    victims = [draw.randrange(run.ranks)] if draw.random() < 0.7 else list(range(run.ranks))
    case.story = f"{run.name}: ranks {victims} stopped at {', '.join(f'{moment:.0%}' for moment in moments)} of the time"
    before = 0.0
    with bench.start(run, folder) as start:
        for moment in moments:
            start.children[victims[0]].wait((moment - before) * reference.seconds)
            before = moment
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for rank in victims:
                    start.children[rank].send(number)
                if number == signal.SIGSTOP:
                    start.children[(victims[0] + 1) % run.ranks].wait(draw.uniform(0.1, 1.0))
        ended = bench.tried(case, start.end(LIMIT))
    if ended.code:
        case.others.append(f"ended with {ended.codes}: {ended.err[-1500:]}")
    finished_as_expected(bench, case, run, folder)
    return case
