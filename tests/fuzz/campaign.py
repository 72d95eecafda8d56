"""So many command lines of a seed, one after another."""

from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.cases import Verdict, run
from tests.fuzz.strategies import commands


def campaign(cases: int, number: int, limit: float, tell: Callable[[Verdict], None]) -> Counter[str]:
    """Run the cases and count how they ended; each is told of."""
    counts: Counter[str] = Counter()

    @seed(number)
    @settings(
        max_examples=cases, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(commands())
    def each(case: tuple[list[str], list[str]]) -> None:
        verdict = run(*case, limit)
        counts[verdict.kind] += 1
        tell(verdict)

    each()
    return counts
