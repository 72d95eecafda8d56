"""The sparse step against the dense one for many densities, structures and networks, each by ``benchmarks.execution``.

    python -m benchmarks.execution_table [--only TEXT] [--rounds 3] [--records DIR]

Each line is a process of its own, whose command ends its line of the table; what it found is kept in the records, and not
measured again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.timing import setting

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records" / "execution"
HEAD = """\
| network, structure, density | sparse / dense | packed / dense | sparse / dense bf16 | `python -m benchmarks.execution` |
| --- | ---: | ---: | ---: | --- |"""
_DENSITIES = ((0.2, "erk"), (0.1, "erk"), (0.05, "erk"), (0.02, "erk"), (0.1, "uniform"))
_STRUCTURES = ("block:1x4", "block:16x16", "filter", "channel", "kernel", "kernel_per_filter", "fan_in")
_CIFAR = "--size 32 --classes 10 --batch 128"
_DEIT = "--model deit_small_patch16_224 --size 224 --batch 8"
CELLS: Mapping[str, str] = {
    **{
        f"resnet50, {structure}, {spread} {density}": f"--structure {structure} --density {density} --distribution {spread}"
        for density, spread in _DENSITIES
        for structure in ("unstructured", "block:4x1")
    },
    "resnet18, block:4x1, erk 0.1": "--model resnet18 --structure block:4x1",
    "cifar_vgg_d, block:4x1, erk 0.1": f"--model cifar_vgg_d {_CIFAR} --structure block:4x1",
    "cifar_wrn_22_2, block:16x16, erk 0.1": f"--model cifar_wrn_22_2 {_CIFAR} --structure block:16x16",
    "deit_small, unstructured, uniform 0.2": f"{_DEIT} --density 0.2 --distribution uniform",
    **{f"resnet50, {structure}, erk 0.1": f"--structure {structure}" for structure in _STRUCTURES},
}
"""By name, the arguments of ``benchmarks.execution``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the lines whose name has this text in it")
    parser.add_argument("--rounds", type=int, default=3, help="times each step is measured")
    parser.add_argument("--records", type=Path, default=RECORDS)
    args = parser.parse_args()
    names = [name for name in CELLS if args.only in name]
    if not names:
        parser.error(f"--only={args.only}: no line has this in its name; there are: {'; '.join(CELLS)}")
    args.records.mkdir(parents=True, exist_ok=True)
    print(HEAD)
    for name in names:
        _measure(name, args.rounds, args.records)
        print(line(name, args.records), flush=True)
    print(f"\n{setting(torch.device('cpu'))}")


def line(name: str, records: Path = RECORDS) -> str:
    """The record of whole steps, with masked and with packed weights and over dense bf16, or a word that there is none."""
    record = _record(name, records)
    if not record.exists():
        return f"| {name} | failed | | | `{CELLS[name]}` |"
    step = json.loads(record.read_text())["step"]
    ratios = (f"{step[key]:.2f}" for key in ("sparse_over_dense", "packed_over_dense", "sparse_over_dense_bf16"))
    return f"| {name} | {' | '.join(ratios)} | `{CELLS[name]}` |"


def _record(name: str, records: Path) -> Path:
    return records / f"{name.translate(str.maketrans({',': '', ' ': '-', ':': '_'}))}.json"


def _measure(name: str, rounds: int, records: Path) -> None:
    """In a process, unless it is on record; a failure is told and leaves none."""
    record = _record(name, records)
    if record.exists():
        return
    command = [sys.executable, "-m", "benchmarks.execution", *shlex.split(CELLS[name])]
    command += ["--rounds", str(rounds), "--no-layers", "--bf16", "--json", str(record)]
    found = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    if found.returncode:
        print(found.stderr, file=sys.stderr)


if __name__ == "__main__":
    main()
