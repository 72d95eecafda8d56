"""The configurations that are shipped: each loads, can start, says where it comes from, and shares its folder's recipe."""

import dataclasses
import logging
import re

import pytest

from dist_sparse.build import resolved
from dist_sparse.config import Config, load_config, with_values
from dist_sparse.plan.outlook import look_ahead
from dist_sparse.plan.report import in_bytes
from dist_sparse.sparsity.methods import METHODS
from tests.shipped_configs import BASELINES, CONFIGS, FILES, header, is_for_any_number_of_gpus, is_of_a_reference, plan

FOUR_METHODS = ["cifar10", "cifar100", "digits", "fashion_mnist"]
HEADER = ["Source", "Original", "Command", "Hardware", "Expected", "Differs"]


@pytest.mark.parametrize("file", FILES)
def test_recipe(file: str, caplog: pytest.LogCaptureFixture) -> None:
    """A configuration is read once, and checked for all that holds of every one."""
    config = load_config(str(CONFIGS / file))
    assert config.name == file.removesuffix(".yaml").replace("/", "-")
    check_header(file)
    check_ranks(config, header(file)["Command"])
    if is_for_any_number_of_gpus(file):
        check_figures(config, header(file))
        check_rules(config, header(file)["Nodes"])
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert plan(resolved(config)) > 0
    assert [text for text in caplog.messages if "whole units of structure" not in text] == []


def check_header(file: str) -> None:
    """It has the entries of its kind, in their order."""
    entries = header(file)
    own = [key for key in HEADER if key not in ("Original", "Differs")]
    scaled = ["Source", "Command", "Nodes", "Hardware", "Memory", "Expected", "FLOPs"]
    assert list(entries) == (scaled if is_for_any_number_of_gpus(file) else HEADER if is_of_a_reference(file) else own)
    assert all(entries.values())
    assert entries["Command"].endswith(f"-m dist_sparse.train --config configs/{file}")


def check_ranks(config: Config, command: str) -> None:
    """The batch can be shared out over the ranks of the command."""
    ranks = re.search(r"--nproc-per-node=(\d+) ", command)
    assert ranks and config.train.batch_size % (int(ranks[1]) * config.train.accumulation) == 0


def check_figures(config: Config, entries: dict[str, str]) -> None:
    """The header's memory and FLOPs are those of the plan."""
    outlook = look_ahead(with_values(config, {"data.root": "/nowhere"}), 64)
    assert entries["Memory"].startswith(f"{in_bytes(outlook.memory.total)} a GPU for weights, gradients, optimizer and masks")
    about = "about " if outlook.forecast.estimate else ""
    shares = f"training {about}{outlook.training_share:.2f}, inference {about}{outlook.inference_share:.2f} of dense (--plan)"
    assert entries["FLOPs"].startswith(shares)
    assert outlook.source.startswith("ImageNet's" if config.data.name == "image_folder" else "as published")


def check_rules(config: Config, nodes: str) -> None:
    """A recipe for any number of GPUs scales its rate, warms up, and divides by the ranks of its examples."""
    assert config.optim.lr_batch_size is not None
    assert not config.optim.decay_norm_and_bias
    assert config.train.bce or config.train.label_smoothing == 0.1
    assert str(config.scheduler.warmup) == ("20 epochs" if "convnext" in config.model.name else "5 epochs")
    assert config.train.precision in ("bf16", "fp16")
    assert config.train.channels_last or "deit" in config.model.name
    assert config.sparsity.update.interval is None or config.sparsity.update.interval.unit == "epochs"
    batches = re.findall(r"--train.batch_size=(\d+)", nodes)
    for batch, ranks in [(config.train.batch_size, 1), (config.train.batch_size, 8), *((int(each), 64) for each in batches)]:
        assert batch % ranks == 0


@pytest.mark.parametrize("folder", FOUR_METHODS)
def test_folder_holds_the_four_methods_on_one_recipe(folder: str) -> None:
    recipes = []
    for method in BASELINES:
        config = load_config(str(CONFIGS / folder / f"{method}.yaml"))
        assert config.sparsity.method == method
        assert config.data.name == folder
        recipes.append(dataclasses.replace(config, name="", sparsity=type(config.sparsity)()))
    assert recipes.count(recipes[0]) == len(BASELINES)


@pytest.mark.parametrize("folder", FOUR_METHODS)
def test_sparse_methods_of_a_folder_differ_in_the_method_alone(folder: str) -> None:
    updates = [load_config(str(CONFIGS / folder / f"{method}.yaml")).sparsity for method in ("set", "rigl")]
    assert dataclasses.replace(updates[0], method="rigl") == updates[1]


def test_fashion_mnist_has_every_method() -> None:
    files = [file for file in FILES if file.startswith("fashion_mnist/")]
    assert {load_config(str(CONFIGS / file)).sparsity.method for file in files} == METHODS.keys()
