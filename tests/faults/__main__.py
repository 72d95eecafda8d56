"""A fault campaign: ``python -m tests.faults --minutes 30 [--seed N]``, or one case again: ``--seed N --case KIND/NUMBER``.

Runs are killed, stopped, starved of disk, damaged and poisoned, and must end as if nothing had happened, or say why not.
The exit code is 1 if anything was found; the folders of such cases are kept.
"""

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.campaign import KINDS, try_cases


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="by default another each time")
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="only such cases; may be given several times")
    parser.add_argument("--case", action="append", help="only this one, by its name; may be given several times")
    arguments = parser.parse_args()
    kinds = arguments.kind or list(KINDS)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    print(f"seed {arguments.seed}, in {folder}", flush=True)
    names = arguments.case or names_of(kinds)
    until = time.monotonic() + 60 * arguments.minutes
    figures = try_cases(arguments.seed, names, folder, until=until, tell=lambda line: print(line, flush=True))
    print(figures.report())
    return int(bool(figures.failed))


def names_of(kinds: list[str]) -> Iterator[str]:
    """One case of each kind after the other, for ever."""
    for number in itertools.count():
        yield from (f"{kind}/{number}" for kind in kinds)


if __name__ == "__main__":
    sys.exit(main())
