"""The state that training holds, dense, masked and packed: counted on shapes alone, and as a process takes it."""

import argparse
import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import nn

from benchmarks.resnet50 import DROP_FRACTION, build, start
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.config import Config, with_values
from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import UpdateConfig
from dist_sparse.engines.precision import Precision
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.memory import keep_memory
from dist_sparse.plan.outlook import Memory, look_ahead
from dist_sparse.sparsity.masks import Masks
from dist_sparse.step import TrainStep
from dist_sparse.stored import read_checkpoint

MODELS = ("resnet50", "deit_small_patch16_224", "vit_large_patch16_224")
OPTIMIZERS = ("sgd", "adamw")
DENSITIES = (0.2, 0.1, 0.05)
CASES = {
    "dense": ("dense", "dense"),
    "masked": ("masked", "static"),
    "masked, RigL": ("masked", "rigl"),
    "packed": ("packed", "static"),
    "packed, RigL": ("packed", "rigl"),
}
"""What is trained in a process of its own: how weights are stored, and the method; RigL updates every third step."""
RETURNING = {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
"""The environment in which every larger piece of memory goes back to the system at once: the process holds what it needs."""
_STEPS, _EVERY = 10, 0.01
_UPDATE = UpdateConfig(interval=Length(3, "steps"), drop_fraction=DROP_FRACTION)


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


class Process(NamedTuple):
    """What a process did that trained ResNet-50 (batch 2 at 64 x 64, SGD) for a few steps; memory in MB."""

    own: float
    """The model's own weights."""
    curve: list[tuple[float, float]]
    """Seconds, and resident memory above what it was before the model was built."""
    written: float
    """What it grows by while it writes a checkpoint of bits and values (``checkpoint.format=packed``)."""
    read: float
    """The same while it reads it, to go on from it."""

    @property
    def above(self) -> float:
        """The peak over the model's own weights."""
        return max(memory for _, memory in self.curve) - self.own


def processes(density: float, **environment: str) -> dict[str, Process]:
    """One after another, by the name of its case, with further environment variables."""
    return {case: _in_a_process(case, density, environment) for case in CASES}


def resident_table(kept: Mapping[str, Process], returned: Mapping[str, Process]) -> str:
    """What processes grow by at their peak over the model's weights, with a heap that is kept and with :data:`RETURNING`."""
    rows = [
        "| ResNet-50 | heap kept: MB | / dense | heap returned: MB | / dense | checkpoint written | read |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case, process in kept.items():
        figures = " | ".join(
            f"{found[case].above:.0f} | {found[case].above / found['dense'].above:.2f}" for found in (kept, returned)
        )
        rows.append(f"| {case} | {figures} | {process.written:.0f} | {process.read:.0f} |")
    return "\n".join(rows)


def plot(found: Mapping[str, Process], path: Path) -> None:
    """Resident memory over time, of all processes in one figure."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    title = "ResNet-50: the model is built, then ten steps (batch 2 at 64 x 64, SGD, ERK density 0.1)"
    axes = figure.add_subplot(title=title, xlabel="seconds", ylabel="resident memory, MB")
    axes.title.set_fontsize(9)
    for case, process in found.items():
        axes.plot(*zip(*process.curve, strict=True), label=case, linewidth=1)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with rc_context({"svg.hashsalt": "dist_sparse", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _in_a_process(case: str, density: float, environment: Mapping[str, str]) -> Process:
    command = [sys.executable, "-m", "benchmarks.state_memory", "--case", case, "--density", str(density)]
    everything = {**os.environ, **environment}
    said = subprocess.run(command, env=everything, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Process(**json.loads(said.splitlines()[-1]))


def main() -> None:
    """In a process of its own: build the model and take a few steps; print the memory that it takes meanwhile."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--case", choices=list(CASES), required=True)
    parser.add_argument("--density", type=float, required=True)
    args = parser.parse_args()
    device = start("cpu")
    torch.set_num_threads(1)
    keep_memory()
    _step_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()))  # loads libraries
    curve: list[tuple[float, float]] = []
    with _watched(curve):
        storage, method = CASES[args.case]
        execute = _pack if storage == "packed" else lambda _model, _masks: None
        trained = build(method, args.density, Precision(device=device), execute=execute, update=_UPDATE)
        images, labels = torch.rand(2, 3, 64, 64), torch.tensor([1, 2])
        step = TrainStep(trained.engine, trained.method)
        for number in range(1, _STEPS + 1):
            step.forward_backward(number, images, labels)
            step.optimizer_step(number)
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder), keep=1, packed=True)
        written = _growth(lambda: store.save(_STEPS, trained.engine.state_dict()))
        read = _growth(lambda: read_checkpoint(store.path(_STEPS), packed=storage == "packed"))
    own = sum(parameter.numel() * 4 for parameter in timm.create_model("resnet50").parameters())
    print(json.dumps({"own": own / 1e6, "curve": curve, "written": written, "read": read}))


def _growth(act: Callable[[], object]) -> float:
    """What the process grows by at its peak, after it has given back what it holds for nothing."""
    ctypes.CDLL(None).malloc_trim(0)
    curve: list[tuple[float, float]] = []
    with _watched(curve):
        act()
    return max((memory for _, memory in curve), default=0.0)


@contextlib.contextmanager
def _watched(curve: list[tuple[float, float]]) -> Iterator[None]:
    """Within the context a thread looks at the process's memory a hundred times a second."""
    began, before, ended = time.perf_counter(), _resident(), threading.Event()

    def watch() -> None:
        while not ended.wait(_EVERY):
            curve.append((time.perf_counter() - began, _resident() - before))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _pack(model: nn.Module, masks: Masks) -> PackedWeights:
    return PackedWeights(model, masks)


def _step_of(model: nn.Module) -> None:
    torch.nn.functional.cross_entropy(model(torch.rand(2, 3, 64, 64)), torch.tensor([1, 2])).backward()


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
