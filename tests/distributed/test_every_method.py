"""The same masks at every update whatever the number of ranks, in exact arithmetic.

Every method on 1, 2 and 4 ranks, and so every structure; each other pair of a method and a structure that it takes on 1 and 2.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.structures import STRUCTURES, parse_structure
from tests.distributed import cases
from tests.distributed.test_masks import PATTERNS, SIZES
from tests.distributed.world import World

MODEL = {key: value for key, value in PATTERNS.items() if key.startswith("model")}
SHORT = {
    **MODEL,
    "train.precision": "fp64",
    "data.limit": 320,
    "train.batch_size": 32,
    "train.epochs": 1,
    "optim.lr": 0.02,
    "sparsity.keep_dense": ["first", "last", "*.downsample.*"],
}
"""10 steps."""
EVERY_STEP = {"sparsity.update.interval": "1 steps"}
EVERY_OTHER_STEP = {"sparsity.update.interval": "2 steps"}
ENDLESS = {"sparsity.update.end": "100%", "sparsity.update.drop_schedule": "constant", "sparsity.update.drop_fraction": 0.6}
RAMP = {**EVERY_STEP, "sparsity.ramp.end": "50%"}
KEYS: dict[str, dict[str, Any]] = {
    "static": {},
    "set": {**EVERY_OTHER_STEP, **ENDLESS},
    "rigl": {**EVERY_OTHER_STEP, **ENDLESS},
    "snfs": {**EVERY_STEP, "sparsity.update.redistribution": "none"},
    "granet": RAMP,
    "granet_uniform": RAMP,
    "gmp": {**EVERY_STEP, "sparsity.ramp.end": "100%"},
    "gmp_uniform": {**EVERY_STEP, "sparsity.ramp.end": "100%"},
    "acdc": {**EVERY_STEP, "sparsity.ramp.start": "1 steps"},
    "top_kast": EVERY_STEP,
    "mest": {**EVERY_STEP, "sparsity.mest.keep": [0.2], "sparsity.mest.grow_to": [0.3], "sparsity.mest.decay": []},
}
"""What makes each method move at every step, or at every other one where an update takes the place of the optimizer's step."""
ELSEWHERE = {"dense", "ast", "srste", "shuffled_block"}
"""Without masks, or with structures of their own; :mod:`.test_masks` has these."""


def pairs() -> list[tuple[str, str]]:
    structures = [cls.example for cls in STRUCTURES.values()]
    methods = [name for name in METHODS if name not in ELSEWHERE]
    return [(m, s) for m in methods for s in structures if METHODS[m].refusal(parse_structure(s)) is None]


def sizes(method: str, structure: str) -> tuple[int, ...]:
    """So many ranks; on four, RigL stands for all methods where a structure is in question."""
    return SIZES if structure == "unstructured" or method == "rigl" else SIZES[:2]


def test_every_method_and_every_structure_is_on_four_ranks() -> None:
    on_four = [(method, structure) for method, structure in pairs() if 4 in sizes(method, structure)]
    assert [set(names) for names in zip(*on_four, strict=True)] == [set(names) for names in zip(*pairs(), strict=True)]


@pytest.mark.parametrize(("method", "structure"), pairs())
def test_masks_do_not_depend_on_the_number_of_ranks(
    worlds: Callable[[int], World], tmp_path: Path, method: str, structure: str
) -> None:
    given = parse_structure(structure).density
    density = {"sparsity.density": 0.3, "sparsity.distribution": "uniform"} if given is None else {}
    values = {**SHORT, **density, **KEYS[method], "sparsity.method": method, "sparsity.structure": structure}
    if given is not None and method == "mest":
        values |= {"sparsity.mest.keep": [given], "sparsity.mest.grow_to": [given]}
    if structure == "pattern" and "ramp.initial_density" in METHODS[method].uses:
        values["sparsity.ramp.initial_density"] = 0.44  # all that patterns hold
    if "distribution" not in METHODS[method].uses:
        values.pop("sparsity.distribution", None)
    if structure == "filter":  # dead filters of the smaller network tie but for rounding
        values["model.kwargs"] = {**MODEL["model.kwargs"], "layers": [1] * 4}
    runs = [worlds(size).run(cases.train, values, str(tmp_path / str(size))) for size in sizes(method, structure)]
    alone = runs[0][0]
    seldom = method == "static" or (method == "top_kast" and structure != "unstructured")  # the largest units stay the largest
    assert seldom or given is not None or alone.updates >= 3
    for trained in (each for ranks in runs for each in ranks):
        assert trained.initial == alone.initial
        assert trained.digests == alone.digests
        assert trained.losses == pytest.approx(alone.losses, rel=1e-9)
