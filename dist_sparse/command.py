"""What commands share that torchrun may start in several processes: one of them speaks."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence


def is_first_process() -> bool:
    """This process speaks for all: it is rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def is_needless() -> bool:
    """A launcher of ranks has started this process beside the first. (A cluster may set RANK alone, in each node's shell.)"""
    return "LOCAL_RANK" in os.environ and not is_first_process()


@contextlib.contextmanager
def speaking_once() -> Iterator[None]:
    """Within the context only the first process is heard: for a help text, or what argparse has against the words."""
    if is_first_process():
        yield
    else:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield


def given_words(argv: Sequence[str] | None) -> list[str]:
    """The command line, or the words given instead, without what DeepSpeed's launcher puts into the environment as well."""
    return [word for word in (sys.argv[1:] if argv is None else argv) if not word.startswith("--local_rank=")]
