"""Train: ``python -m dist_sparse.train [--config FILE] [--key=value ...]``, or the same under torchrun.

Exit codes: 0 finished, 2 a mistake in the configuration or the data (one line says which), 75 preempted (SIGTERM or SIGUSR1
stopped it with a checkpoint: ``--resume=auto`` goes on), 130 interrupted, 1 a crash (with its traceback) or a run that
is over but could not be saved (one line; ``--resume=auto`` completes it). torchrun itself
ends with 1 whatever its processes end with: there the file ``preempted`` in the run's folder tells the one from the other.
"""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dist_sparse.command import given_words, is_first_process, speaking_once
from dist_sparse.config import annotated, completion, file_schema, parse_args
from dist_sparse.config.parse import Invocation
from dist_sparse.errors import Incomplete, ToldElsewhere, UserError, refuse
from dist_sparse.leaving import EXIT_INTERRUPTED, importing, leave
from dist_sparse.preemption import StopAsked, StopSignals

if TYPE_CHECKING:
    from dist_sparse.trainer import Hook

EXIT_PREEMPTED = 75
"""EX_TEMPFAIL of sysexits.h: try again."""


def main(argv: Sequence[str] | None = None, *, hooks: Sequence["Hook"] = ()) -> int:
    """Read the command line and train; errors become exit codes. ``hooks``: see :func:`dist_sparse.run.train`."""
    is_first = is_first_process()
    try:
        with speaking_once():
            invocation = parse_args(given_words(argv))
    except UserError as error:
        return refuse(error, reports=is_first)
    try:
        _do(invocation, hooks, reports=is_first)
    except ToldElsewhere as error:
        return refuse(error, reports=False)
    except UserError as error:
        return refuse(error, reports=is_first or not error.on_all_ranks)
    except Incomplete as error:
        return refuse(error, reports=error.reports)
    except StopAsked as asked:
        return EXIT_PREEMPTED if asked.preempted else EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _do(invocation: Invocation, hooks: Sequence["Hook"], *, reports: bool) -> None:
    """Heavy packages are imported only here, once the command line is in order."""
    config = invocation.config
    if invocation.schema or invocation.completion:
        if reports:
            _print_for_editors(invocation)
    elif invocation.print_config:
        with importing():
            from dist_sparse.build import resolved

        text = annotated(config, resolved(config), invocation.origins)
        if reports:
            print(text, end="")
    elif invocation.plan is not None:
        with importing():
            from dist_sparse.plan.outlook import look_ahead
            from dist_sparse.plan.report import report

        if reports:
            ranks = invocation.plan or int(os.environ.get("WORLD_SIZE", "1"))
            print(report(look_ahead(config, ranks, typed=invocation.typed)))
    else:
        signals = StopSignals()
        with signals.listening():
            with importing():
                if invocation.smoke:
                    from dist_sparse.smoke import smoke as train
                else:
                    from dist_sparse.run import train

            train(config, signals, typed=invocation.typed, hooks=hooks)


def _print_for_editors(invocation: Invocation) -> None:
    with importing():
        from dist_sparse.engines import ENGINES
        from dist_sparse.sparsity.methods import METHODS

    words = {"sparsity.method": list(METHODS), "engine.name": list(ENGINES)}
    if invocation.schema:
        print(json.dumps(file_schema(words), indent=2))
    else:
        print(completion(words), end="")


if __name__ == "__main__":
    leave(main, on_all_ranks=True)
