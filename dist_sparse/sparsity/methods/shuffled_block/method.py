"""Shuffled blocks, dynamic (DSB) or static (SSB).

P. Jiang, L. Hu, S. Song: "Exposing and Exploiting Fine-Grained Block Structures for Fast and Accurate Sparse Training", NeurIPS
2022; as its repository, HPC-Research-Lab/shuffled-block-sparse-training, has it. What a shuffled block is:
:mod:`dist_sparse.sparsity.methods.shuffled_block.blocks`.

Every convolution whose b x b blocks fit (output channels and columns are multiples of b, and it has b input channels) holds
B = ceil(n / b^2) of them, where n = round(density * weights), so that b^2 B weights are always active. The first blocks::

    M = the n weights of largest |w|;  V = |w| M
    groups:  rows are clustered by the cosine distance of their masks, complete linkage, into rows / b clusters, and cut by b
    columns: in each group in the order of ||V||, b by b: candidates;  the B best of the layer are the blocks

SSB leaves it at that. DSB moves the blocks every ``interval`` steps, with q(t) = alpha / 2 (1 + cos(pi t / T_end))::

    D = the floor(q b^2 B) active weights of smallest |w|, but in each block only those in a row or column of which D has half
    G = the |D| weights of largest dense |g| that are then inactive, those of D among them
    M = M - D + G;  V = |w| on M, but on G the mean of what was kept;  blocks anew, as at the start

If D spares all, nothing moves. All other layers begin with their largest |w| and follow :mod:`..rigl`. With ``size: 0`` every
layer does, from random masks: that is RigL, mask for mask.

Defaults: alpha 0.3 and b 16 (all recipes of the repository), interval 100 steps (CIFAR; ImageNet and Tiny-ImageNet: 800), T_end
75 % of the run (ImageNet: 400,000 of 525,525 steps), the update instead of the optimizer step as in :mod:`..rigl`.

Deviations from the reference code: floor(q n) is taken of what is active (there of n before it was rounded up to blocks: 402 of
1,024 weights where 299 should go); the cosine ends where the updates do (there they stop at half of it, or never on
Tiny-ImageNet); what is inactive has no value and no momentum, so that what enters a block without having been active begins at
0 (there with what the optimizer left); a weight of D that is active afterwards keeps its value, as in RigL (there 0);
convolutions whose blocks do not fit follow RigL, for nothing speaks for freezing them (there their masks never move, and with
block size 0 no convolution's does); a layer that its blocks would fill is dense; there are B blocks even if fewer hold a weight
that is not 0; clusters of equal size stand in the order of their lowest row.

Found here (cnn_4 on Fashion-MNIST at density 0.05, five seeds, ``benchmarks/README.md``), with 95 % intervals: DSB with blocks
of 4 is 1.13 ± 0.43 points below RigL, 0.32 ± 0.31 below random masks that stay, and not told apart from SSB, +0.06 ± 0.58.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.sparsity import scores
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.drop_grow.method import DropAndGrow
from dist_sparse.sparsity.methods.drop_grow.plan import DropAndGrowPlan
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.sparsity.methods.shuffled_block.allocation import allocate_blocks
from dist_sparse.sparsity.methods.shuffled_block.blocks import Blocks, drop_and_grow, drop_rows_and_columns, packed_length
from dist_sparse.sparsity.schedules import Constant, UpdateSchedule
from dist_sparse.sparsity.structures import Structure, Unstructured

_NEVER = UpdateSchedule(interval=1, end=0, drop=Constant(start=0.0))


@dataclass(frozen=True, kw_only=True)
class ShuffledBlockPlan(DropAndGrowPlan):
    """Blocks of ``size`` rows and columns; layers without blocks drop and grow weights."""

    size: int
    counts: Mapping[str, int] = field(default_factory=dict)
    """Blocks of each layer that has any."""
    blocks: dict[str, Blocks] = field(default_factory=dict)
    """The first ones, of the layers whose mask was asked for."""


class ShuffledBlock(DropAndGrow):
    """Blocks of any rows and columns that move as weights do."""

    name = "shuffled_block"
    uses = DropAndGrow.uses - {"update.redistribution", "init"} | {"shuffled_block.dynamic", "shuffled_block.size"}
    inits = frozenset()
    default_growth = "gradient"

    def __init__(self, plan: ShuffledBlockPlan, **held: Any) -> None:
        super().__init__(plan, **held)
        self.blocks = plan.blocks
        """Row groups, groups and columns of each layer in blocks; its mask is their union. On all ranks from the start on."""
        self._block_counts, self._size = plan.counts, plan.size

    @classmethod
    def refusal(cls, structure: Structure) -> str | None:
        return None if isinstance(structure, Unstructured) else "it has blocks of its own"

    @classmethod
    def acting(cls, config: SparsityConfig) -> frozenset[str]:
        """Static blocks have no updates."""
        if config.shuffled_block.dynamic:
            return cls.uses
        return frozenset(key for key in cls.uses if not key.startswith("update."))

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        return super().complete(config) if config.shuffled_block.dynamic else config

    @classmethod
    def plan(cls, context: Context) -> Plan:
        config = context.config.shuffled_block
        # First, for it may refuse the configuration.
        allocation = allocate_blocks(context, config.size) if config.size else None
        plan = _moving(context) if config.dynamic else _static(context)
        if allocation is None:
            return plan
        active = allocation.active()
        return replace(
            plan, initial_mask=allocation.initial_mask, active=active, blocks=allocation.blocks, counts=allocation.counts
        )

    def start(self) -> None:
        super().start()
        self._share_blocks()

    def update(self, step: int, regular: int) -> None:
        super().update(step, regular)
        self._share_blocks()

    def _select(self, name: str, step: int, kept: Tensor, grow: Tensor | None = None) -> Tensor:
        if name not in self._block_counts:
            return super()._select(name, step, kept, grow)
        weight, mask, blocks = self.access.weight(name), self.masks[name], self.blocks[name]
        matrix = (len(weight), -1)
        dropped = drop_rows_and_columns(mask.reshape(matrix) & ~kept.view(matrix), blocks)
        if not dropped.any():
            return mask
        score = self.grow_score(name, step).view(matrix)
        self.blocks[name] = drop_and_grow(
            blocks, scores.magnitude(weight).reshape(matrix), mask.reshape(matrix), dropped, score
        )
        return self.blocks[name].mask(weight.shape)

    def _share_blocks(self) -> None:
        """Take every layer's blocks from its owner. Collective."""
        rows = {name: len(self.access.weight(name)) for name in self._block_counts}
        lengths = {name: packed_length(rows[name], count, self._size) for name, count in self._block_counts.items()}
        owned = {name: self.blocks[name].pack() for name in self.agreement.owned() if name in self._block_counts}
        packed = self.agreement.share(owned, lengths, torch.int32)
        self.blocks = {name: Blocks.unpack(packed[name].clone(), rows[name], self._size) for name in self._block_counts}

    def state_dict(self) -> dict[str, Any]:
        blocks = {name: asdict(blocks) for name, blocks in self.blocks.items()}
        return {**super().state_dict(), "blocks": {name: _on(parts, "cpu") for name, parts in blocks.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.blocks = {name: Blocks(**_on(parts, self.access.weight(name).device)) for name, parts in state["blocks"].items()}


def _on(parts: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    return {key: tensor.to(device, copy=True) for key, tensor in parts.items()}


def _moving(context: Context) -> ShuffledBlockPlan:
    """Blocks that drop and grow; their number is fixed."""
    base = DropAndGrowPlan.of(ShuffledBlock, context, form=ShuffledBlock.form(context.config))
    return ShuffledBlockPlan(**{**vars(base), "redistribution": "none"}, size=context.config.shuffled_block.size)


def _static(context: Context) -> ShuffledBlockPlan:
    """Blocks that never move."""
    units = context.units()
    return ShuffledBlockPlan(
        method=ShuffledBlock,
        context=context,
        initial_mask=context.random_masks(units),
        active=context.active(units),
        schedule=_NEVER,
        form=context.config.update.form,
        growth=ShuffledBlock.default_growth,
        size=context.config.shuffled_block.size,
    )
