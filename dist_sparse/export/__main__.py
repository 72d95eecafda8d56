"""Export a run's network: ``python -m dist_sparse.export RUN_DIR [--format=NAME] [--subnet=N|all] [--output=DIR|FILE]``.

Writes the weights, inactive ones 0, with the sub-net's own batch norms where it has them, and what a user of them has to know:
model and arguments, classes, size, resizing and normalisation of the images, masks. A method that trains one network has it as
sub-net 1.
Formats:
"""

from collections.abc import Sequence

from dist_sparse.arguments import Parser
from dist_sparse.errors import Incomplete, UserError, refuse
from dist_sparse.export.formats import FORMATS, find
from dist_sparse.inputs import expand
from dist_sparse.leaving import leave


def main(argv: Sequence[str] | None = None) -> int:
    """Export and print the files; 2 for a mistake of the user."""
    known = "\n".join(f"  {name:<12} subnetN{kind.suffix}: {kind.about}" for name, kind in FORMATS.items())
    parser = Parser(prog="python -m dist_sparse.export", description=f"{__doc__}\n{known}")
    parser.add_argument("run_dir", type=expand, help="folder of a run")
    parser.add_argument("--format", default="timm", help=f"one of {', '.join(FORMATS)} (default: timm)")
    parser.add_argument("--subnet", default="all", help="number of a sub-net, 1 being the densest, or all (the default)")
    parser.add_argument("--checkpoint", default="best", help="best (the default), last, or a checkpoint file")
    parser.add_argument("--averaged", action="store_true", help="the averaged weights of a run with train.ema")
    parser.add_argument("--output", type=expand, help="folder of the files, or the file of one network; default: RUN_DIR")
    parser.add_argument("--shrink", action="store_true", help="of onnx and program: without the units that are dead")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    try:
        arguments = parser.parse_args(argv)
        kind = find(arguments.format)
        from dist_sparse.export.exporting import export

        lines = export(
            arguments.run_dir,
            kind,
            subnet=arguments.subnet,
            checkpoint=arguments.checkpoint,
            output=arguments.output,
            averaged=arguments.averaged,
            shrink=arguments.shrink,
            overwrite=arguments.overwrite,
        )
    except (UserError, Incomplete) as error:
        return refuse(error)
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    leave(main)
