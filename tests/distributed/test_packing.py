"""A mask is packed once an update, and the ranks compare digests once; counted around the real functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import counting
from tests.distributed.world import World

VALUES = {
    "model.name": "cifar_resnet20",
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "train.epochs": 1,
    "train.batch_size": 128,
    "sparsity.density": 0.2,
    "sparsity.update.interval": "3 steps",
}
"""11 steps; those of 3, 6 and 9 update, and neither validate nor save."""
METHODS: dict[str, tuple[dict[str, Any], set[int], int]] = {
    "rigl": ({"sparsity.update.end": "100%"}, {1}, 1),
    "set": ({"sparsity.update.form": "itop"}, {1}, 1),
    "gmp": ({"sparsity.ramp.end": "90%"}, {1}, 1),
    "granet": ({"sparsity.ramp.end": "90%"}, {2}, 1),
    "mest": ({}, {2}, 1),
    "ast": ({"sparsity.density": None, "sparsity.ast.densities": [0.4, 0.2]}, {1, 2}, 2),
}
"""Options, in how many strides an update goes, and of how many networks there are masks."""


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_an_update_packs_a_mask_once(worlds: Callable[[int], World], tmp_path: Path, method: str, ranks: int) -> None:
    """Each stride packs what it has chosen, which the owner does alone; whoever is not alone packs what is in memory once."""
    options, strides, networks = METHODS[method]
    values = {**VALUES, "sparsity.method": method, **options}
    for counts, size, owned in worlds(ranks).run(counting.train, values, str(tmp_path)):
        found = {(each.pop("packed"), tuple(each.items())) for each in counts.values()}
        alone, checked = ranks == 1, networks * size if ranks > 1 else 0
        assert len(counts) >= 3
        assert found == {(stride * owned + checked, () if alone else (("masks", stride), ("digests", 1))) for stride in strides}


def test_validation_packs_what_is_in_memory(worlds: Callable[[int], World], tmp_path: Path) -> None:
    """Also where an update is made in the same step: a bit that is flipped after the update is to be found."""
    values = {**VALUES, "train.epochs": 2, "sparsity.update.interval": "11 steps", "sparsity.update.end": "100%"}
    for counts, size, owned in worlds(2).run(counting.train, {**values, "sparsity.method": "rigl"}, str(tmp_path)):
        assert counts[11]["packed"] == owned + 2 * size
