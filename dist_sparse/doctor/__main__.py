"""What this machine has for training, and what to do about the rest: ``python -m dist_sparse.doctor [--data=DIR] [--json]``.

A line for each thing. ``note`` is fine as it is, ``slow`` works worse than it could, and ``broken`` will fail. The exit code is
0 unless something that is needed is broken (then 1). A bug report should contain this output. It holds no keys or passwords.
"""

import json
from collections.abc import Sequence

from dist_sparse.arguments import Parser
from dist_sparse.errors import UserError, refuse
from dist_sparse.inputs import expand
from dist_sparse.leaving import leave

EXIT_BROKEN = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Look at everything and print what is found, each line as soon as it is there; 1 if something is broken."""
    parser = Parser(prog="python -m dist_sparse.doctor", description=__doc__)
    parser.add_argument("--data", metavar="DIR", type=expand, help="a folder of images or shards, to measure reading from it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    try:
        arguments = parser.parse_args(argv)
    except UserError as error:
        return refuse(error)
    from dist_sparse.doctor.examination import examine, lines, verdict, version

    found = []
    if not arguments.json:
        print(version(), flush=True)
    for finding in examine(arguments.data):
        found.append(finding)
        if not arguments.json:
            print(lines(finding), flush=True)
    broken = any(finding.status == "broken" for finding in found)
    if arguments.json:
        tree = {"version": version(), "broken": broken, "findings": [finding.as_dict() for finding in found]}
        print(json.dumps(tree, indent=2, ensure_ascii=False))
    else:
        print(verdict(found))
    return EXIT_BROKEN if broken else 0


if __name__ == "__main__":
    leave(main)
