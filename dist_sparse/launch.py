"""Start a launcher: ``python -m dist_sparse.launch torchrun|deepspeed|sweep_agent [OPTIONS] [--KEY=VALUE ...]``.

They are the scripts of the folder launchers, with the same words; ``--dry-run`` prints the command only. From an installed
package they run in the environment of this Python, and install nothing.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dist_sparse.errors import UserError, is_unknown, refuse
from dist_sparse.leaving import leave

FOLDER = Path(__file__).parent / "launchers"
"""In a clone a link to the folder at its root."""
NAMES = ("torchrun", "deepspeed", "sweep_agent")


def main(argv: Sequence[str] | None = None) -> int:
    """Become the launcher; returns only after a mistake or ``--help``."""
    name, *words = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    if name not in NAMES:
        return refuse(UserError(f"the launcher {name!r} {is_unknown(name, NAMES)}"))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = ["bash", str(FOLDER / f"{name}.sh"), *words]
    try:
        os.execvpe(command[0], command, {**os.environ, "PATH": programs})
    except OSError as error:
        return refuse(UserError(f"bash cannot be started: {error.strerror}; the launchers need it"))


if __name__ == "__main__":
    leave(main)
