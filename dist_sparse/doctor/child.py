"""Run a check in a process of its own: whatever a library does there, to the output or to its process, ends as a finding.

The process itself is ``python -m dist_sparse.doctor.child NAME FILE``, and leaves what it finds in FILE, as JSON.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dist_sparse.doctor.finding import Finding, look

SECONDS = 240
"""In which a check must end. Compiling the kernels takes up to a minute on a slow machine."""


def found_by_child(name: str, advice: str, *, seconds: float = SECONDS) -> Iterator[Finding]:
    """What the check of this name in :data:`.native.CHECKS` finds; ``advice`` is for when it comes to no end."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-m", "dist_sparse.doctor.child", name, str(file)]
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                yield Finding(name=name, status="slow", text=f"no end within {seconds:g} s", advice=advice)
                return
            finally:
                _end(process)
            said.seek(0)
            words = said.read().decode(errors="replace").strip().splitlines()
        if file.is_file():
            yield from map(Finding.of, json.loads(file.read_text(encoding="utf-8")))
        else:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            text = f"the check's process ends by {how}" + (f": {words[-1]}" if words else "")
            yield Finding(name=name, status="broken" if name == "PyTorch" else "slow", text=text, advice=advice)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With what it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def main(name: str, file: str) -> None:
    """In the child: run the check, and write what it finds in one go."""
    from dist_sparse.doctor.native import CHECKS

    found = [finding.as_dict() for finding in look(name, CHECKS[name][0])]
    made = Path(f"{file}.new")
    made.write_text(json.dumps(found), encoding="utf-8")
    made.replace(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # what the libraries would do at exit is not what is looked at
