"""``python -m dist_sparse.sparsity.methods``: which structure goes with which method, as in dist_sparse/sparsity/README.md."""

from dist_sparse.leaving import leave
from dist_sparse.sparsity.methods.combinations import table


def main() -> int:
    """Print the table."""
    print(table())
    return 0


if __name__ == "__main__":
    leave(main)
