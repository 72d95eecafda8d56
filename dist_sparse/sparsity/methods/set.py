"""SET: grow at random.

D. C. Mocanu, E. Mocanu, P. Stone, P. H. Nguyen, M. Gibescu, A. Liotta: "Scalable Training of Artificial Neural Networks
with Adaptive Sparse Connectivity inspired by Network Science", Nature Communications 9, 2018, arXiv 1707.04780; as the RigL
paper and repository run it (drop by magnitude, RigL's schedule), and in ITOP form with ``form: itop``.

The update is RigL's (see :mod:`dist_sparse.sparsity.methods.rigl`) with uniformly random scores for growth, drawn from a
generator that is seeded by (seed, step, layer): the same on any number of ranks. Defaults are RigL's, too.

Deviations from the references: growth is an exact count (the GraNet repository grows each weight with a probability, so its
density drifts); the original paper drops the smallest positive and the largest negative weights separately, here |w|
decides for both unless ``removal: set`` asks for that (the ITOP code has it the wrong way round for negative weights).
"""

from dist_sparse.sparsity.methods.drop_grow.method import DropAndGrow


class Set(DropAndGrow):
    """Drop by magnitude, grow at random."""

    name = "set"
    default_growth = "random"
