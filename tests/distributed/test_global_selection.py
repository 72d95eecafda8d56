"""The best units of the whole network are the same however the layers are shared out between ranks."""

import random
from collections.abc import Callable

import pytest

from tests.distributed import cases
from tests.distributed.world import World

DRAWS = random.Random(0)
LENGTHS = {"a": 40, "b": 300, "c": 7, "d": 120, "e": 1}
SCORES = {name: [DRAWS.choice([0.0, 0.25, 0.5, DRAWS.random()]) for _ in range(length)] for name, length in LENGTHS.items()}
AMONG = {name: [DRAWS.random() < 0.8 for _ in range(length)] for name, length in LENGTHS.items()}


def best(scores: dict[str, list[float]], among: dict[str, list[bool]], k: int) -> dict[str, list[bool]]:
    """By sorting all candidates by score, layer and index."""
    candidates = [
        (-score, layer, index)
        for layer, name in enumerate(scores)
        for index, score in enumerate(scores[name])
        if among[name][index]
    ]
    chosen = {name: [False] * len(values) for name, values in scores.items()}
    for _, layer, index in sorted(candidates)[:k]:
        chosen[list(scores)[layer]][index] = True
    return chosen


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("names", ["abcde", "ba"], ids=["many layers", "fewer layers than ranks"])
def test_is_a_sort_on_any_number_of_ranks(worlds: Callable[[int], World], size: int, names: str) -> None:
    scores, among = {name: SCORES[name] for name in names}, {name: AMONG[name] for name in names}
    for k in (0, 1, 50, 90, 150, 200, 10_000):  # most of them end among equal scores
        shares = worlds(size).run(cases.select_globally, scores, among, k)
        assert sorted(name for share in shares for name in share) == sorted(names), "one owner a layer"
        assert {name: mask for share in shares for name, mask in share.items()} == best(scores, among, k)
