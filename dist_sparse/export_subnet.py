"""Export a run's network: ``python -m dist_sparse.export_subnet RUN_DIR [--subnet=N|all] [--checkpoint=best|last|FILE]``.

Writes the weights, inactive ones 0, with the sub-net's own batch norms where it has them, as a plain state dict that timm's
model of the same name and arguments loads with ``strict=True``. A method that trains a single network has that as sub-net 1.
``subnetN.json`` beside it says what goes in and comes out: size and normalisation of the images, and the classes' names.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_sparse.arguments import Parser
from dist_sparse.errors import UserError, one_line, refuse
from dist_sparse.inputs import expand, is_folder
from dist_sparse.leaving import leave
from dist_sparse.run_folder import RunFolder


def main(argv: Sequence[str] | None = None) -> int:
    """Export and print the files; 2 for a mistake of the user."""
    parser = Parser(prog="python -m dist_sparse.export_subnet", description=__doc__)
    parser.add_argument("run_dir", type=expand, help="folder of a run")
    parser.add_argument("--subnet", default="all", help="number of a sub-net, 1 being the densest, or all (the default)")
    parser.add_argument("--checkpoint", default="best", help="best (the default), last, or a checkpoint file")
    parser.add_argument("--averaged", action="store_true", help="the averaged weights of a run with train.ema")
    parser.add_argument("--output", type=expand, help="folder of the files subnet1.pt and so on; default: the run's folder")
    try:
        arguments = parser.parse_args(argv)
        for line in export(
            arguments.run_dir, arguments.subnet, arguments.checkpoint, arguments.output, averaged=arguments.averaged
        ):
            print(line)
    except UserError as error:
        return refuse(error)
    return 0


def export(run: Path, subnet: str, checkpoint: str, output: Path | None, *, averaged: bool = False) -> list[str]:
    """Write the files; returns a line about each."""
    from dist_sparse.checkpoint_content import check_networks
    from dist_sparse.files import atomic_write, dump
    from dist_sparse.networks import networks_of
    from dist_sparse.stored import read_checkpoint, step_of

    if not is_folder(run):
        raise UserError(f"{run} is not the folder of a run")
    path = RunFolder(path=run).checkpoint(checkpoint)
    state = read_checkpoint(path)
    check_networks(state, path)
    if averaged and state.get("state_dict_ema") is None:
        raise UserError(f"{path} holds no averaged weights: the run had no train.ema")
    networks = list(enumerate(networks_of(state, averaged=averaged), start=1))
    chosen = [(number, network) for number, network in networks if subnet in ("all", str(number))]
    if not chosen:
        raise UserError(f"--subnet={subnet}: {path} holds sub-nets 1 to {len(networks)}; give one of their numbers, or all")
    folder, lines = output or run, []
    for number, network in chosen:
        file = folder / f"subnet{number}.pt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(file, lambda stream, weights=network.weights: dump(weights, stream))
            atomic_write(file.with_suffix(".json"), lambda stream: stream.write(_description(state)))
        except OSError as error:
            raise UserError(f"--output={folder} cannot be written: {error.strerror}") from error
        masked = sum(network.weights[name].numel() for name in network.active)
        density = sum(network.active.values()) / masked if masked else 1.0
        lines.append(f"{file}  density {density:.2%} of the sparse layers, step {step_of(state, path)}")
    return lines


def _description(state: Mapping[str, Any]) -> bytes:
    """What a user of the weights has to know; null is what an earlier version did not keep."""
    data, config = state["data"], state["config"]
    about = {
        "model": config["model.name"],
        "model_kwargs": config["model.kwargs"],
        "channels": data["channels"],
        "image_size": data["image_size"],
        "mean": config.get("data.mean"),
        "std": config.get("data.std"),
        "class_names": [one_line(name) for name in data.get("class_names", ())] or None,
    }
    return (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    leave(main)
