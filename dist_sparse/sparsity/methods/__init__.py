"""Sparse methods, one file a paper. A new method is one new file and its line in this table."""

from dist_sparse.sparsity.methods.acdc import AcDc
from dist_sparse.sparsity.methods.ast.method import Ast
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.dense import Dense
from dist_sparse.sparsity.methods.gmp import Gmp, GmpUniform
from dist_sparse.sparsity.methods.granet import GraNet, GraNetUniform
from dist_sparse.sparsity.methods.mest.method import Mest
from dist_sparse.sparsity.methods.rigl import RigL
from dist_sparse.sparsity.methods.set import Set
from dist_sparse.sparsity.methods.shuffled_block.method import ShuffledBlock
from dist_sparse.sparsity.methods.snfs import Snfs
from dist_sparse.sparsity.methods.srste import SrSte
from dist_sparse.sparsity.methods.static import Static
from dist_sparse.sparsity.methods.top_kast import TopKast

METHODS: dict[str, type[Method]] = {
    cls.name: cls
    for cls in (
        Dense,
        Static,
        Set,
        RigL,
        Snfs,
        GraNet,
        GraNetUniform,
        Gmp,
        GmpUniform,
        Mest,
        ShuffledBlock,
        Ast,
        SrSte,
        AcDc,
        TopKast,
    )
}
