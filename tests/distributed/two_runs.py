"""The training command, twice in one process. To be started by torchrun."""

import sys

from dist_sparse import train

if __name__ == "__main__":
    sys.exit(max(train.main(sys.argv[1:]) for _ in range(2)))
