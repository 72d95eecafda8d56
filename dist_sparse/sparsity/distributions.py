"""How many units each layer keeps.

The functions return a density per layer in (0, 1] from the layers' shapes; :func:`allocate` turns densities into whole units.
"""

import fnmatch
import math
from collections.abc import Callable, Mapping

from torch import Size

from dist_sparse.sparsity.structures import Structure

Shapes = Mapping[str, Size]
Densities = dict[str, float]


def uniform(shapes: Shapes, density: float) -> Densities:
    """The same density for every layer."""
    return dict.fromkeys(shapes, density)


def erdos_renyi(shapes: Shapes, density: float, *, power: float = 1.0, kernel: bool = True) -> Densities:
    """Erdos-Renyi (kernel) densities: proportional to ``(sum of dims / product of dims) ** power``.

    ``kernel=False`` counts the first two dimensions only (ER; Mocanu et al. 2018), True all of them (ERK; Evci et al.,
    RigL, 2020). Layers whose density would exceed 1 are dense, the largest first (those that tie together), and the others
    share what is left, so that the total is ``density`` of all weights.
    """
    dims = {name: shape if kernel else shape[:2] for name, shape in shapes.items()}
    raw = {name: (sum(d) / math.prod(d)) ** power for name, d in dims.items()}
    total = sum(shape.numel() for shape in shapes.values())
    dense: set[str] = set()
    while len(dense) < len(shapes):
        budget = density * total - sum(shapes[name].numel() for name in dense)
        epsilon = budget / sum(raw[name] * shapes[name].numel() for name in shapes if name not in dense)
        largest = max(ratio for name, ratio in raw.items() if name not in dense)
        if epsilon * largest <= 1:
            return {name: 1.0 if name in dense else epsilon * raw[name] for name in shapes}
        dense |= {name for name, ratio in raw.items() if ratio == largest}
    return dict.fromkeys(shapes, 1.0)


def table(shapes: Shapes, densities: Mapping[str, float]) -> Densities:
    """Densities by name pattern (shell wildcards); the first that fits a layer counts.

    Raises:
        ValueError: a layer that no pattern fits, or a pattern that fits no layer (most likely a misspelling).
    """
    result = {}
    for name in shapes:
        matches = [density for pattern, density in densities.items() if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            raise ValueError(f"no pattern fits layer {name!r}; add one ('*' fits every layer)")
        result[name] = matches[0]
    for pattern in densities:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in shapes):
            raise ValueError(f"{pattern!r} fits no sparse layer; they are {', '.join(shapes)}")
    return result


class AboveCapacity(ValueError):
    """A layer would be denser than the structure can be."""


def allocate(shapes: Shapes, densities: Densities, structure: Structure) -> dict[str, int]:
    """Active units per selection set of each layer: the density's share, rounded to the nearest.

    Raises:
        AboveCapacity: a layer's density is above what the structure has with all units active.
        ValueError: a layer would be left without a single unit.
    """
    counts = {}
    for name, shape in shapes.items():
        _, units, _ = structure.counts(shape)
        counts[name] = math.floor(densities[name] / structure.capacity * units + 0.5)
        if counts[name] < 1:
            raise ValueError(f"layer {name!r} would keep 0 of its {units} units at density {densities[name]:.3g}")
    for name, density in densities.items():
        if density > structure.capacity + 1e-9:
            raise AboveCapacity(
                f"layer {name!r} would have density {density:.3g}, and structure {structure.name} holds {structure.capacity} "
                "of the weights at most"
            )
    return counts


def highest_sparsity(shapes: Shapes, distribute: Callable[[float], Densities], structure: Structure) -> float:
    """The highest sparsity, rounded down to 4 digits, at which ``distribute(density)`` leaves every layer a unit."""
    low, high = 0, 10_000  # densities in units of 1e-4; low fails, high works
    while high - low > 1:
        middle = (low + high) // 2
        try:
            allocate(shapes, distribute(middle / 10_000), structure)
            high = middle
        except AboveCapacity:
            high = middle
        except ValueError:
            low = middle
    return 1 - high / 10_000
