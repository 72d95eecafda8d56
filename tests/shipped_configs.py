"""The configurations that are shipped, their headers, and all that could refuse to start one of them."""

import dataclasses
import functools
import json
from pathlib import Path

import timm
import torch
from torch import nn

import dist_sparse.models  # noqa: F401 - registers the networks with timm
from dist_sparse.config import Config
from dist_sparse.data.batch import DataInfo
from dist_sparse.data.efficient import make_clock, plan_efficient
from dist_sparse.optim import build_loss, build_mixup, build_optimizer, build_scheduler
from dist_sparse.sparsity.layers import sparse_layers, weight_layers
from dist_sparse.sparsity.methods.build import plan_method
from dist_sparse.sparsity.methods.context import RunFacts

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("**/*.yaml") if path.parent.name != "sweeps")
BASELINES = ["dense", "static", "set", "rigl"]
OWN = ("digits", "mnist", "fashion_mnist")
"""Folders of small runs that no reference has."""

SETS = {
    "digits": DataInfo("digits", 10, 1, 8, 1_437, 360),
    "mnist": DataInfo("mnist", 10, 1, 28, 60_000, 10_000),
    "fashion_mnist": DataInfo("fashion_mnist", 10, 1, 28, 60_000, 10_000),
    "cifar10": DataInfo("cifar10", 10, 3, 32, 50_000, 10_000),
    "cifar100": DataInfo("cifar100", 100, 3, 32, 50_000, 10_000),
    "tiny_imagenet": DataInfo("tiny_imagenet", 200, 3, 64, 100_000, 10_000),
    "image_folder": DataInfo("image_folder", 1_000, 3, 224, 1_281_167, 50_000),  # ImageNet
}


def header(file: str) -> dict[str, str]:
    """The `# Key: text` lines that a file begins with; a line without a key goes on with the one before."""
    entries: dict[str, str] = {}
    key = ""
    for line in (CONFIGS / file).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.removeprefix("#").strip()
        if line.startswith("# ") and not line.startswith("#  "):
            key, _, text = text.partition(":")
        entries[key] = f"{entries.get(key, '')} {text.strip()}".strip()
    return entries


def is_for_any_number_of_gpus(file: str) -> bool:
    """One of the recipes that a folder of its own holds for every network, beside the references' runs."""
    path = Path(file)
    return len(path.parts) > 2 and path.parts[0] not in OWN


def is_of_a_reference(file: str) -> bool:
    """Not one of our own recipes, nor one of the baselines that run on a reference's recipe."""
    path = Path(file)
    own = path.parts[0] in OWN or is_for_any_number_of_gpus(file)
    return not own and path.stem not in BASELINES


@functools.cache
def network(model: str, data: str) -> nn.Module:
    """A configuration's network (``model`` in JSON) on the meta device."""
    info, config = SETS[data], json.loads(model)
    with torch.device("meta"):
        net = timm.create_model(config["name"], num_classes=info.classes, in_chans=info.channels, **config["kwargs"])
    image = torch.empty(2, info.channels, info.image_size, info.image_size, device="meta")
    assert net.eval()(image).shape == (2, info.classes)
    return net.train()


def plan(config: Config) -> int:
    """Build all that could refuse to start a run, except its data. Returns the run's steps."""
    info = SETS[config.data.name]
    net = network(json.dumps(dataclasses.asdict(config.model)), config.data.name)
    plan_efficient(config.data.forgetting, config.train, info)
    clock = make_clock(config.data.forgetting, config.train, info, info.train_size // config.train.batch_size)
    optimizer = build_optimizer(config.optim, net, config.train.batch_size)
    build_scheduler(config.scheduler, optimizer, steps_per_epoch=clock.whole, total_steps=clock.total)
    build_loss(config.train)
    build_mixup(config.train, info.classes, seed=config.seed, world_size=1)
    facts = RunFacts(
        seed=config.seed,
        steps_per_epoch=clock.whole,
        total_steps=clock.total,
        rank=0,
        world_size=1,
        device=torch.device("meta"),
        classifier=list(weight_layers(net))[-1],
    )
    plan_method(config.sparsity, sparse_layers(net, config.sparsity.keep_dense), facts)
    return clock.total
