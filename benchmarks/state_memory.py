"""The state that training holds, dense, masked and packed: counted on shapes alone, and as a process takes it."""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import timm
import torch
from torch import nn

from benchmarks.resnet50 import build, start
from dist_sparse.config import Config, with_values
from dist_sparse.engines.precision import Precision
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.memory import keep_memory
from dist_sparse.plan.outlook import Memory, look_ahead
from dist_sparse.sparsity.masks import Masks

MODELS = ("resnet50", "deit_small_patch16_224", "vit_large_patch16_224")
OPTIMIZERS = ("sgd", "adamw")
DENSITIES = (0.2, 0.1, 0.05)
STORAGES = ("dense", "masked", "packed")


def counted(model: str, optimizer: str, density: float, storage: str) -> tuple[int, int]:
    """Bytes of weights, gradients, optimizer, masks and indices on the CPU, as ``--plan`` has them; and active weights."""
    masks = {"sparsity.method": "static", "sparsity.density": density} if storage != "dense" else {"sparsity.method": "dense"}
    values = {
        "model.name": model,
        "data.name": "image_folder",
        "optim.name": optimizer,
        "optim.lr": 0.01,
        "execution.storage": "masked" if storage == "dense" else storage,
        **masks,
    }
    outlook = look_ahead(with_values(Config(), values), 1)
    return _on_the_cpu(outlook.memory), outlook.cost.active_parameters


def _on_the_cpu(memory: Memory) -> int:
    return memory.total - memory.masks + memory.masks_on_cpu


def table() -> str:
    """State by network, optimizer and density: of packed and of masked weights, over dense ones."""
    rows = ["| network | optimizer | density | dense, MB | masked / dense | packed / dense | bytes an active weight |"]
    rows.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for model in MODELS:
        for optimizer in OPTIMIZERS:
            dense, _ = counted(model, optimizer, 1.0, "dense")
            for density in DENSITIES:
                masked, active = counted(model, optimizer, density, "masked")
                packed, _ = counted(model, optimizer, density, "packed")
                figures = f"{dense / 1e6:.0f} | {masked / dense:.2f} | {packed / dense:.2f} | {packed / active:.1f}"
                rows.append(f"| {model} | {optimizer} | {density} | {figures} |")
    return "\n".join(rows)


def resident_table(density: float) -> str:
    """What a process with a small batch grows by, from before its model is built to the peak of its steps."""
    rows = [
        "| ResNet-50, SGD, batch 2 at 64 x 64 | peak growth, MB | over the model's own | / dense |",
        "| --- | ---: | ---: | ---: |",
    ]
    found = {storage: _in_a_process(storage, density) for storage in STORAGES}
    for storage, (growth, own) in found.items():
        dense = found["dense"][0] - found["dense"][1]
        rows.append(f"| {storage} | {growth:.0f} | {growth - own:.0f} | {(growth - own) / dense:.2f} |")
    return "\n".join(rows)


def _in_a_process(storage: str, density: float) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.state_memory", "--storage", storage, "--density", str(density)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    growth, own = json.loads(said.splitlines()[-1])
    return growth, own


def main() -> None:
    """In a process of its own: take a few steps; print by how much it has grown, and the model's own weights, in MB."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--storage", choices=STORAGES, required=True)
    parser.add_argument("--density", type=float, required=True)
    args = parser.parse_args()
    device = start("cpu")
    torch.set_num_threads(1)
    keep_memory()
    _step_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()))  # loads libraries
    before = _resident()
    method = "dense" if args.storage == "dense" else "static"
    execute = _pack if args.storage == "packed" else lambda _model, _masks: None
    trained = build(method, args.density, Precision(device=device), execute=execute)
    images, labels = torch.rand(2, 3, 64, 64), torch.tensor([1, 2])
    for step in range(1, 4):
        trained.engine.forward_backward(images, labels, trained.method.gradient_masks(step))
        trained.method.after_backward(step)
        trained.engine.step(skip=False)
        trained.method.after_step(step)
    own = sum(parameter.numel() * 4 for parameter in timm.create_model("resnet50").parameters())
    print(json.dumps([_peak() - before, own / 1e6]))


def _pack(model: nn.Module, masks: Masks) -> PackedWeights:
    return PackedWeights(model, masks)


def _step_of(model: nn.Module) -> None:
    torch.nn.functional.cross_entropy(model(torch.rand(2, 3, 64, 64)), torch.tensor([1, 2])).backward()


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
