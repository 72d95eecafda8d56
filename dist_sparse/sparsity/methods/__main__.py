"""``python -m dist_sparse.sparsity.methods``: which structure goes with which method, as the README shows it."""

import sys

from dist_sparse.sparsity.methods.combinations import table

if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
