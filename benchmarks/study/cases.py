"""What is trained: every method at every density on equal terms, and single settings of some methods in turn."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dist_sparse.config import Config, load_config, to_flat

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "configs" / "fashion_mnist" / "study"

METHODS = (
    *("dense", "static", "rigl", "gmp", "granet", "rigl_itop", "mest_em", "set", "snip", "set_itop", "granet_05", "acdc"),
    *("gmp_uniform", "granet_uniform", "mest_ems", "snfs", "top_kast", "ast"),
)
"""Recipes that have a meaning at every density, in the order in which they are run."""
BLOCKS = ("ssb", "dsb")
"""Recipes of shuffled blocks, which cover convolutions alone."""
NM = ("static_nm", "rigl_nm", "gmp_nm", "srste")
"""Recipes of 1:4, which is their density whatever is asked for; LeNet-300-100 divides by no greater M."""
NETWORKS: Mapping[str, Mapping[str, object]] = {
    "lenet_300_100": {"execution.compute": "dense"},
    "lenet_5": {"execution.compute": "sparse", "optim.lr": 0.05},
    "cnn_4": {"execution.compute": "sparse"},
}
"""Keys of each network. Of `execution.compute` the faster one was measured; LeNet-5 needs a lower rate than the others."""
FIXED: Mapping[str, float] = {"dense": 1.0, **dict.fromkeys(NM, 0.25)}
"""Recipes with a density of their own."""
DENSITIES = (0.1, 0.02, 0.005, 0.05, 0.01)
"""In the order in which they are run."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One key of some recipes, and the values that it takes in turn."""

    recipes: Sequence[str]
    key: str
    values: Sequence[object]
    network: str = "lenet_300_100"


ABLATIONS: Mapping[str, Ablation] = {
    "drop_fraction": Ablation(recipes=["rigl"], key="sparsity.update.drop_fraction", values=[0.1, 0.3, 0.5, 0.7]),
    "interval": Ablation(recipes=["rigl"], key="sparsity.update.interval", values=["25 steps", "100 steps", "400 steps"]),
    "distribution": Ablation(recipes=["static", "rigl"], key="sparsity.distribution", values=["erk", "uniform"]),
    "growth": Ablation(
        recipes=["rigl_itop"], key="sparsity.update.growth", values=["gradient", "random", "momentum", "random_unfired"]
    ),
    "initial_density": Ablation(recipes=["granet"], key="sparsity.ramp.initial_density", values=[1.0, 0.8, 0.5, 0.2]),
    "removal_gradient": Ablation(recipes=["mest_em"], key="sparsity.mest.removal_gradient", values=[0.0, 0.01, 0.1, 1.0]),
    "correction": Ablation(recipes=["ast"], key="sparsity.ast.correction", values=["within_mask", "whole", "none"]),
    "block_size": Ablation(recipes=["dsb"], key="sparsity.shuffled_block.size", values=[0, 2, 4, 8], network="cnn_4"),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run to be made: a recipe, and all that is changed in it."""

    recipe: str
    network: str
    density: float
    seed: int
    epochs: int
    images: int | None = None
    """How many of the 60,000 images to train with; all by default."""
    changed: tuple[tuple[str, object], ...] = ()
    """Keys of an ablation that differ from the recipe's."""
    ranks: int = 1

    @property
    def label(self) -> str:
        """The recipe and what an ablation changes in it."""
        changed = [f"{key.rpartition('.')[2]} {value}" for key, value in self.changed]
        return ", ".join([self.recipe, *changed, *([f"{self.ranks} ranks"] if self.ranks > 1 else [])])

    @property
    def overrides(self) -> list[str]:
        """The options of the command line that make the run of the recipe."""
        keys = {
            "model.name": self.network,
            **NETWORKS[self.network],
            **_at_density(self.recipe, self.density),
            **dict(self.changed),
        }
        keys |= {"seed": self.seed, "train.epochs": self.epochs, "train.validate_every": self.epochs}
        if self.images is not None:
            keys["data.limit"] = self.images
        return [f"--{key}={value}" for key, value in keys.items()]

    @property
    def file(self) -> Path:
        """The recipe's."""
        return RECIPES / f"{self.recipe}.yaml"

    @cached_property
    def config(self) -> Config:
        """The run's configuration."""
        return load_config(str(self.file), self.overrides)

    @cached_property
    def settings(self) -> str:
        """What tells a row of the record that is of this case from one of before a change of its recipe."""
        return digest(self.config, self.ranks)


def digest(config: Config, ranks: int = 1) -> str:
    """A digest of all keys that differ from their defaults."""
    defaults = to_flat(Config())
    differing = {key: value for key, value in to_flat(config).items() if value != defaults.get(key)}
    text = json.dumps(differing | {"ranks": ranks}, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _at_density(recipe: str, density: float) -> dict[str, Any]:
    """The keys that give a recipe its density; methods with several densities keep their proportions."""
    if recipe in FIXED:
        return {}
    if recipe == "ast":
        return {"sparsity.ast.densities": [2 * density, density]}
    keys: dict[str, Any] = {"sparsity.density": density}
    if recipe == "mest_ems":
        keys["sparsity.mest.keep"] = [density] * 3
        keys["sparsity.mest.grow_to"] = [round(factor * density, 6) for factor in (1.5, 1.25, 1)]
    if recipe == "top_kast":
        keys["sparsity.top_kast.backward_density"] = 2 * density
    return keys


def cases(
    network: str, recipes: Iterable[str], densities: Iterable[float], seeds: int, epochs: int, images: int | None
) -> Iterator[Case]:
    """All runs of a study: the first seed of everything first, so that a study that is cut off is a balanced one."""
    densities, recipes = list(densities), list(recipes)
    for seed in range(seeds):
        for density in densities:
            for recipe in recipes:
                case = Case(recipe=recipe, network=network, density=density, seed=seed, epochs=epochs, images=images)
                if recipe not in FIXED:
                    yield case
                elif density == densities[0]:
                    yield replace(case, density=FIXED[recipe])


def ablated(ablation: Ablation, of: Iterable[Case]) -> Iterator[Case]:
    """The runs of an ablation, in the place of each of the plain ones; what a recipe has by itself is the plain run."""
    from dist_sparse.build import resolved

    for case in of:
        own = to_flat(resolved(case.config))[ablation.key]
        for value in ablation.values:
            yield case if str(own) == str(value) else replace(case, changed=((ablation.key, value),))
