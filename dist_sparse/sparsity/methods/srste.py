"""SR-STE: N:M sparse training from scratch with straight-through gradients.

A. Zhou, Y. Ma, J. Zhu, J. Liu, Z. Zhang, K. Yuan, W. Sun, H. Li: "Learning N:M Fine-grained Structured Sparse Neural Networks
From Scratch", ICLR 2021, arXiv 2102.04010.

Every step, with dense weights W of which each group of M keeps the N largest in magnitude, mask E::

    forward with W * E
    W <- W - lr (g(W * E) + lambda (1 - E) * W)        g: the gradient of the masked weights, handed to all of W

The gradient reaches every weight as if there were no mask (straight through), and the further decay lambda of those that the
mask leaves out keeps the choice from changing at every step. Default lambda 2e-4 (the paper's and its code's).

E is that of the weights after each step, so validation, checkpoints and exports see the network which the next step trains.
Every rank computes it from weights that are the same on all; validation compares digests.

Deviations from the authors' code: equal magnitudes are kept by index, so that every group holds exactly N (a threshold keeps
all that tie); the optimizer's own weight decay is on all weights there too, and stays so.

Found here (LeNet-300-100 on Fashion-MNIST, 1:4, five seeds, ``benchmarks/README.md``), with 95 % intervals: not told apart from
random 1:4 masks that stay, -0.00 ± 0.22 points, nor from RigL's, +0.07 ± 0.27.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dist_sparse.sparsity import scores
from dist_sparse.sparsity.methods.base import Decision
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.dense_weights import KeepsDenseWeights
from dist_sparse.sparsity.methods.forecast import Forecast, NetworkForecast
from dist_sparse.sparsity.methods.initial import best_units, largest_masks
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.sparsity.structures import NM, Structure
from dist_sparse.sparsity.tensors import all_finite


@dataclass(frozen=True, kw_only=True)
class SrStePlan(Plan):
    """Masks that are chosen anew after every step."""

    structure: NM
    decay: float

    def forecast(self, made: Sequence[int]) -> Forecast:
        """Every step needs all gradients."""
        networks = [NetworkForecast(initial=self.initial_densities)]
        return Forecast(networks=networks, chosen_every_step=True, dense_gradient_steps=range(len(made)), weight_copies=1)


class SrSte(KeepsDenseWeights):
    """Masks that follow the dense weights at every step."""

    name = "srste"
    uses = frozenset({"density", "keep_dense", "structure", "srste.decay"})

    def __init__(self, plan: SrStePlan, **held: Any) -> None:
        super().__init__(plan, **held)
        self._structure, self._decay = plan.structure, plan.decay

    @classmethod
    def refusal(cls, structure: Structure) -> str | None:
        return None if isinstance(structure, NM) else "its masks keep N of M weights: structure nm"

    @classmethod
    def plan(cls, context: Context) -> Plan:
        structure = context.structure
        assert isinstance(structure, NM), "refused before"
        units = dict.fromkeys(context.all_units(), structure.n)
        return SrStePlan(
            method=cls,
            context=context,
            initial_mask=largest_masks(context, units),
            active=context.active(units),
            structure=structure,
            decay=context.config.srste.decay,
        )

    def gradient_masks(self, step: int) -> None:
        """Straight through: every gradient moves its weight."""

    def after_backward(self, step: int) -> Decision:
        self._restore_and_decay(lambda name: ~self.masks[name], self._decay)
        return Decision()

    def after_step(self, step: int) -> None:
        with self.access.gathered(weights=self.masks.names):
            finite = all_finite(self.access.weight(name) for name in self.masks.names)
            chosen = {name: self._mask(name) for name in self.masks.names}
            self.masks.replace_unsynchronised(
                {name: torch.where(finite, mask, self.masks[name]) for name, mask in chosen.items()}
            )

    def _mask(self, name: str) -> Tensor:
        return best_units(scores.magnitude(self.access.weight(name)), self._structure.n, self._structure)
