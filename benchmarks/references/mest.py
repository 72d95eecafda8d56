"""``prune_utils`` of github.com/boone891214/MEST: elastic mutation (EM), unstructured, without a removal gradient.

All layers but the classifier have the same density, as the repository's profiles have; so have those of our run beside it.
Its epochs are counted in our intervals, so that it mutates as often as ours. It takes every parameter a tenth of which is zero
for a masked one, so that biases which begin at zero stay there: "literal". For "corrected" those masks are taken away.
"""

import argparse
import contextlib
import logging
import tempfile
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.references.reference import INTERVAL, Comparison, Driver, Job, Reference, active_share

if TYPE_CHECKING:
    from dist_sparse.trainer import Trainer

KEPT, DECAY = (0.8, 0.9, 1.0), (0.5625, 0.75)
"""Our defaults, after the repository's scripts: what a mutation keeps by phase, in densities; and when phases begin."""


class Mest(Driver):
    """Prunes and grows before the first batch of an interval, and masks gradients and weights at every step."""

    def __init__(self, module: Any, job: Job) -> None:
        self._module, self._job = module, job

    def begin(self, trainer: "Trainer") -> None:
        model = trainer.engine.model
        layers = [name for name, weight in model.named_parameters() if weight.dim() > 1 and not name.startswith("fc.")]
        density, updates = self._job.density, self._job.steps / INTERVAL
        with tempfile.TemporaryDirectory() as folder, self._own_draws(trainer.config.seed):
            profile = Path(folder) / "profile.yaml"
            profile.write_text("prune_ratios:\n" + "".join(f"  {name}: {1 - density}\n" for name in layers))
            parser = argparse.ArgumentParser()
            self._module.prune_parse_arguments(parser)
            words = {
                "sp-config-file": profile,
                "sp-admm-sparsity-type": "irregular",
                "sp-mask-update-freq": 1,
                "lower-bound": "-".join(f"{1 - kept * density:.6f}" for kept in KEPT),
                "upper-bound": "-".join([f"{1 - density:.6f}"] * len(KEPT)),
                "mask-update-decay-epoch": "-".join(str(ceil(share * updates)) for share in DECAY),
            }
            options = [f"--{name}={value}" for name, value in words.items()]
            arguments = parser.parse_args(["--sp-retrain", "--sp-prune-before-retrain", *options])
            silent = logging.Logger("mest", logging.CRITICAL)
            self._module.prune_init(arguments, model, silent)
            self._masks = self._module.prune_main.retrain.masks
            if self._job.setting == "corrected":
                for name in set(self._masks) - set(layers):
                    del self._masks[name]
            self._module.prune_apply_masks()
            self._module.prune_update(0)
        self._module.prune_apply_masks()
        self._layers = layers

    def gradients_ready(self, trainer: "Trainer") -> None:
        self._module.prune_apply_masks_on_grads()

    def stepped(self, trainer: "Trainer") -> None:
        self._module.prune_apply_masks()
        update, rest = divmod(trainer.progress.step, INTERVAL)
        if rest == 0:
            with self._own_draws(trainer.config.seed + update):
                self._module.prune_update(update)

    @contextlib.contextmanager
    def _own_draws(self, seed: int) -> Iterator[None]:
        """It draws from numpy's global generator, which is ours again afterwards."""
        import numpy as np

        before = np.random.get_state()  # noqa: NPY002 -- the reference's own generator
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002

    def density(self) -> float:
        return active_share({name: self._masks[name] for name in self._layers})


REFERENCE = Reference(
    option="mest",
    repository="boone891214/MEST",
    folder=".",
    module="prune_utils",
    comparisons=(
        Comparison(
            recipe="mest_em",
            settings=("literal", "corrected"),
            changed=(("sparsity.distribution", "uniform"), ("sparsity.keep_dense", "[last]")),
        ),
    ),
    driver=Mest,
)
