"""Takes the lease of a folder and keeps it until it is killed. To be started by a test."""

import sys
import threading
from pathlib import Path
from unittest import mock

from dist_sparse import lease
from dist_sparse.errors import UserError

if __name__ == "__main__":
    with mock.patch.object(lease, "SECONDS", 3.0), mock.patch.object(lease, "_MARGIN", 1.0):
        try:
            held = lease.take(Path(sys.argv[1]))
        except UserError as error:
            sys.exit(print(error))
        print("mine", flush=True)
        threading.Event().wait()
