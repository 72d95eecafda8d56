"""The small runs that the campaign harms: every method, and what else has a state that a resumed run could lose."""

import random
from dataclasses import dataclass, field
from typing import Any

from tests.values import QUIET

_COMMON: dict[str, Any] = {
    **QUIET,
    "tracking.log_every": 2,
    "resume": "auto",
    "data.name": "digits",
    "data.limit": 72,
    "model.name": "cifar_resnet20",
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "train.epochs": 4,
    "train.batch_size": 24,
    "train.eval_batch_size": 64,
    "optim.lr": 0.05,
    "scheduler.warmup": "3 steps",
    "checkpoint.every": "2 steps",
}
"""12 steps in 4 epochs, with batch norm."""

_MOVING = {"sparsity.update.interval": "2 steps", "sparsity.density": 0.3}
_RAMP = {**_MOVING, "sparsity.ramp.end": "10 steps"}
METHODS: dict[str, dict[str, Any]] = {
    "dense": {},
    "set": _MOVING,
    "rigl": _MOVING,
    "snfs": _MOVING,
    "granet": _RAMP,
    "granet_uniform": _RAMP,
    "gmp": _RAMP,
    "acdc": _RAMP,
    "top_kast": _MOVING,
    "shuffled_block": {**_MOVING, "sparsity.shuffled_block.size": 4},
    "mest": {
        "sparsity.density": 0.3, "sparsity.update.interval": "1 epochs", "sparsity.mest.keep": [0.2],
        "sparsity.mest.grow_to": [0.3], "sparsity.mest.decay": [], "sparsity.mest.removal_gradient": 0.5,
    },
    "ast": {
        "sparsity.ast.densities": [0.4, 0.2], "sparsity.ast.offset": "1 steps", "sparsity.update.interval": "4 steps",
        "sparsity.ramp.end": "10 steps",
    },
    "srste": {"sparsity.structure": "nm:2:4", "sparsity.keep_dense": ["first"]},
}  # fmt: skip
_NEVER_PACKED = ("dense", "ast", "srste", "top_kast")
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"train.ema": 0.9},
    {"train.accumulation": 2},
    {"train.mixup": 0.2},
    {"optim.name": "adamw", "optim.lr": 0.003},
    {"train.label_smoothing": 0.1},
    {"checkpoint.keep": 1},
    {"checkpoint.every": 1},
    {"checkpoint.format": "packed"},
    {"train.validate_every": 2},
)


@dataclass(frozen=True)
class Run:
    """What is trained, and on how many ranks."""

    name: str
    ranks: int
    values: dict[str, Any] = field(hash=False)

    def arguments(self, output: object) -> list[str]:
        return [f"--{key}={value}" for key, value in {**self.values, "output": output}.items()]


def choose(draw: random.Random, variety: int, ranks: tuple[int, ...] = (1, 1, 2, 4)) -> Run:
    """One of ``variety`` runs for each number of ranks: a campaign meets most of them again, and knows their outcome."""
    number = draw.choice(ranks)
    draw = random.Random(draw.randrange(variety))
    method = draw.choice(list(METHODS))
    options = [
        each for each in _OPTIONS if not (method in ("ast", "srste", "top_kast") and "train.ema" in each)
    ]  # which they refuse
    option = draw.choice(options)
    exchange = draw.choice(("dense", "masked")) if number > 1 else "auto"
    storage = "masked" if method in _NEVER_PACKED else draw.choice(("masked", "packed"))
    values = {
        **_COMMON,
        **METHODS[method],
        "sparsity.method": method,
        **option,
        "engine.exchange": exchange,
        "execution.storage": storage,
    }
    return Run(f"{method}, {next(iter(option))}, {number} ranks, {exchange}, {storage}", number, values)
