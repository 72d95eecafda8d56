"""Fuzz the configuration: ``python -m tests.fuzz --cases 1000 [--seed N] [--limit SECONDS]``.

Every command line that is drawn from the schema must train, or be refused in a line that says what about. Prints the counts and
each that fails as a command to paste; the exit code is 1 if any does.
"""

import argparse
import faulthandler
import sys

from tests.fuzz.campaign import campaign
from tests.fuzz.cases import GOOD, Verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60, help="seconds for one case (default 60)")
    parser.add_argument("--verbose", action="store_true", help="print every case and what it said")
    arguments = parser.parse_args()

    def tell(verdict: Verdict) -> None:
        # A process that does not come back to Python is ended, with the place where it stands.
        faulthandler.dump_traceback_later(3 * arguments.limit, exit=True)
        if verdict.kind not in GOOD or arguments.verbose:
            print(f"{verdict.kind}: {verdict.command}\n{verdict.said}".encode("ascii", "backslashreplace").decode(), flush=True)

    counts = campaign(arguments.cases, arguments.seed, arguments.limit, tell)
    faulthandler.cancel_dump_traceback_later()
    print(
        f"{sum(counts.values())} cases of seed {arguments.seed}: "
        + ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
    )
    return int(any(kind not in GOOD for kind in counts))


if __name__ == "__main__":
    sys.exit(main())
