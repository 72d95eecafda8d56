"""What the server of ranks imports once, as a command would, before it forks them; it is frozen, as it is never garbage."""

import atexit
import gc

from dist_sparse.leaving import importing

with importing():
    import tests.distributed.cases  # noqa: F401
gc.freeze()
atexit.register(gc.unfreeze)  # or libraries complain of what is left at the end
