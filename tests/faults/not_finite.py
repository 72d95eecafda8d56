"""NaN, infinity and what overflows, at every place of a training step."""

import dataclasses
import json
import math
import random
from pathlib import Path

from tests.faults import compare
from tests.faults.bench import Bench, Case, clean_up
from tests.faults.poison import PLACES


def not_finite(bench: Bench, draw: random.Random) -> Case:
    """A number that is none gets into one rank or all: the run recovers, or ends as diverged, not saved, or with ranks that
    hold other weights than the rest; no checkpoint ever holds one.

    What has diverged goes on from its last checkpoint, once the cause is gone.
    """
    run = bench.choose(draw, (1, 1, 1, 2))
    precision = draw.choice(("fp32", "bf16", "fp16"))
    run = dataclasses.replace(run, name=f"{run.name}, {precision}")
    run.values.update({"train.precision": precision, "train.nan_limit": 3})
    place, first, times = draw.choice(PLACES), draw.randint(1, 12), draw.choice((1, 1, 2, 1000))
    value, which = draw.choice((float("nan"), float("inf"), -1e38)), draw.randrange(1000)
    fault = {"place": place, "first": first, "times": times, "value": value, "which": which, "whole": draw.random() < 0.5}
    ranks = range(run.ranks) if draw.random() < 0.5 else [draw.randrange(run.ranks)]
    case, folder = Case("not finite"), bench.new_folder()
    case.story = (
        f"{run.name}: {value} in {'all of ' * fault['whole']}{place} {which}, {times} steps from {first} on, ranks {[*ranks]}"
    )
    with bench.start(run, folder, {rank: {"not_finite": fault} for rank in ranks}) as start:
        ended = bench.tried(case, start.end())
    case.others += [f"a checkpoint is not finite: {line}" for line in compare.not_finite(folder)[:3]]
    if ended.code == 0:
        case.outcome = "recovered"
        case.others += _bad_summary(folder / "summary.json")
    elif ended.code == 2 and ended.errors:
        case.outcome = "diverged"
        if list((folder / "checkpoints").glob("step_*.pt")):
            with bench.start(run, folder) as start:
                again = bench.tried(case, start.end())
            if again.code == 2 and math.isfinite(value):
                case.outcome = "diverged, and from its last checkpoint too"  # which holds numbers that are finite, and no use
            elif again.code:
                case.others.append(f"does not go on from its last checkpoint: {again.codes} {again.err[-1000:]}")
    elif any("could not be written: not finite" in line for line in ended.errors):
        case.outcome = "not saved"  # nor called finished
    elif "ranks differ" in ended.err and len([*ranks]) < run.ranks:
        case.outcome = "parted"  # one rank alone was poisoned, and the others have noticed, which ends in a traceback of each
        case.tracebacks.clear()
    else:
        case.others.append(f"ended with {ended.codes}: {ended.err[-1500:]}")
    clean_up(case, folder)
    return case


def _bad_summary(path: Path) -> list[str]:
    summary = json.loads(path.read_text())
    return [
        f"is finished with {name} {value}"
        for name, value in summary.items()
        if isinstance(value, float) and (value != value or abs(value) == float("inf"))
    ]
