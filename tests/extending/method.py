"""A method in one file: RigL's drop by magnitude, and growth by the running average of gradients."""

from dist_sparse.sparsity.methods.drop_grow.method import DropAndGrow


class GrowByMomentum(DropAndGrow):
    """Drop by magnitude, grow by momentum."""

    name = "grow_by_momentum"
    default_growth = "momentum"
