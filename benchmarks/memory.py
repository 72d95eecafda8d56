"""The memory of training: what masks take, here and as others hold them, in bytes a weight; and all state, packed or not."""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import state_memory, timing
from benchmarks.peers import GraNet, RiglTorch, Sparsimony
from benchmarks.resnet50 import Trainee, build, start
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.engines.precision import Precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--density", type=float, default=0.1, help="active weights over all weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--plot", type=Path, help="a file for the curves of memory, such as memory.svg")
    args = parser.parse_args()
    device = start(args.device)
    timing.pin(device)
    trainee = build("static", args.density, Precision(device=device))
    print(table(trainee, device), end="\n\n")
    sizes = (_file_size(trainee, trainee.method.state_dict(), packed=packed) / 1e6 for packed in (False, True))
    print("weights, masks and record in a checkpoint: {:.1f} MB, with checkpoint.format=packed {:.1f} MB\n".format(*sizes))
    print(state_memory.table(), end="\n\n")
    kept, returned = state_memory.processes(args.density), state_memory.processes(args.density, **state_memory.RETURNING)
    print(state_memory.resident_table(kept, returned), end="\n\n")
    if args.plot:
        state_memory.plot(returned, args.plot)
    print(timing.setting(device))


def table(trainee: Trainee, device: torch.device) -> str:
    """Bytes for each weight of a masked layer."""
    weights = sum(weight.numel() for weight in trainee.weights.values())
    bare = _file_size(trainee, {})
    heads = [f"{weights:,} weights, bytes for each", f"masks in use ({device.type})", "masks in a checkpoint"]
    rows = [heads, ["---", "---:", "---:"]]
    for name, (used, saved) in holdings(trainee).items():
        in_use = sum(tensor.untyped_storage().nbytes() for tensor in used)
        rows.append([name, *(f"{size / weights:.3f}" for size in (in_use, _file_size(trainee, saved) - bare))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def holdings(trainee: Trainee) -> dict[str, tuple[Iterable[Tensor], dict[str, Any]]]:
    """By name: the tensors that are held while training, and what goes into a checkpoint."""
    ours, masks = trainee.method.masks, trainee.masks()
    saved = trainee.method.state_dict()
    granet = GraNet(trainee.weights, trainee.optimizer, masks).masks
    rigl_torch = RiglTorch(trainee.weights, trainee.optimizer, masks).masks
    sparsimony = Sparsimony(masks).masks
    return {
        "dist_sparse": ([*map(ours._multiplier, ours.names), *ours.packed().values()], {"masks": saved["masks"]}),
        "dist_sparse, record of explored weights": (ours._explored.values(), {"explored": saved["explored"]}),
        "GraNet": (granet.values(), {}),
        "rigl-torch": (rigl_torch.values(), rigl_torch),
        "sparsimony": (sparsimony.values(), sparsimony),
    }


def _file_size(trainee: Trainee, masks: dict[str, Any], *, packed: bool = False) -> int:
    """Bytes of a checkpoint of the engine's state, before any step, and ``masks``."""
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder), keep=1, packed=packed)
        assert store.save(1, {**trainee.engine.state_dict(), "method": masks})
        return store.paths()[0].stat().st_size


if __name__ == "__main__":
    main()
