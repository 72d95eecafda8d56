"""SNFS: sparse momentum.

T. Dettmers, L. Zettlemoyer: "Sparse Networks from Scratch: Faster Training without Losing Performance", 2019, arXiv 1907.04840.

Every ``interval`` steps, after the optimizer's step, with the average m of dense gradients (factor 0.9 a step)::

    share_l = mean of |m| over the active weights of layer l, over the sum of all layers'   (redistribution: momentum)
              mean of |w| (magnitude), the active count (nonzeros), or no sharing (none)
    drop      ceil(p n_l) of smallest |w| in each layer: R in all; a layer with density above 0.8 and a share above
              the average has p_l = min(1 - density_l, p)
    grow      share_l R of largest |m| in each layer, at most 99 % of what is inactive; what does not fit goes to the others

A structure goes with it where nothing is shared (``redistribution: none``): then each layer grows its own of largest |m|.

Defaults: p from 0.5 to 0.005 along a cosine, once an epoch.

Deviations from the reference: the total is conserved exactly (there every share is rounded up and a correction follows later,
so that 70 weights become 71); only inactive weights grow (there an active one of zero momentum may be picked); m is an
average beside the optimizer, so that any optimizer serves, and a newly grown weight starts without momentum.

Found here (LeNet-300-100 on Fashion-MNIST, five seeds, ``benchmarks/README.md``), with 95 % intervals: not told apart from
RigL, -0.00 ± 0.17 points at density 0.02 and +0.20 ± 0.38 at 0.005, while all gradients are computed at every step.
"""

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.sparsity.methods.defaults import fill
from dist_sparse.sparsity.methods.drop_grow.method import DropAndGrow
from dist_sparse.sparsity.structures import Structure, Unstructured


class Snfs(DropAndGrow):
    """Drop by magnitude, grow by average gradient where layers gain most."""

    name = "snfs"
    uses = DropAndGrow.uses - {"update.form"}
    default_growth = "momentum"
    default_redistribution = "momentum"
    only_form = "itop"

    @classmethod
    def condition(cls, structure: Structure) -> str | None:
        return None if isinstance(structure, Unstructured) else "with `update.redistribution: none`"

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        return super().complete(fill(config, update={"interval": Length(1, "epochs")}))
