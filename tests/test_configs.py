"""The configurations that are shipped: each loads, can start, says where it comes from, and shares its folder's recipe."""

import dataclasses
import logging
import re

import pytest

from dist_sparse.build import resolved
from dist_sparse.config import load_config
from dist_sparse.plan.outlook import look_ahead
from dist_sparse.plan.report import in_bytes
from dist_sparse.sparsity.methods import METHODS
from tests.shipped_configs import BASELINES, CONFIGS, FILES, header, is_for_any_number_of_gpus, is_of_a_reference, plan

FOUR_METHODS = ["cifar10", "cifar100", "digits", "fashion_mnist"]
HEADER = ["Source", "Original", "Command", "Hardware", "Expected", "Differs"]


@pytest.mark.parametrize("file", FILES)
def test_can_start_without_a_warning(file: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = resolved(load_config(str(CONFIGS / file)))
        assert plan(config) > 0
    assert [text for text in caplog.messages if "whole units of structure" not in text] == []


@pytest.mark.parametrize("file", FILES)
def test_name_is_that_of_the_file(file: str) -> None:
    assert load_config(str(CONFIGS / file)).name == file.removesuffix(".yaml").replace("/", "-")


@pytest.mark.parametrize("file", FILES)
def test_header(file: str) -> None:
    entries = header(file)
    own = [key for key in HEADER if key not in ("Original", "Differs")]
    scaled = ["Source", "Command", "Nodes", "Hardware", "Memory", "Expected", "FLOPs"]
    assert list(entries) == (scaled if is_for_any_number_of_gpus(file) else HEADER if is_of_a_reference(file) else own)
    assert all(entries.values())
    assert entries["Command"].endswith(f"-m dist_sparse.train --config configs/{file}")


@pytest.mark.parametrize("file", FILES)
def test_batches_divide_by_the_ranks_of_the_command(file: str) -> None:
    train = load_config(str(CONFIGS / file)).train
    ranks = re.search(r"--nproc-per-node=(\d+) ", header(file)["Command"])
    assert ranks and train.batch_size % (int(ranks[1]) * train.accumulation) == 0


@pytest.mark.parametrize("file", [file for file in FILES if is_for_any_number_of_gpus(file)])
def test_figures_of_a_header_are_those_of_the_plan(file: str) -> None:
    entries, config = header(file), load_config(str(CONFIGS / file), {"data.root": "/nowhere"})
    outlook = look_ahead(config, 64)
    assert entries["Memory"].startswith(f"{in_bytes(outlook.memory.total)} a GPU for weights, gradients, optimizer and masks")
    about = "about " if outlook.forecast.estimate else ""
    shares = f"training {about}{outlook.training_share:.2f}, inference {about}{outlook.inference_share:.2f} of dense (--plan)"
    assert entries["FLOPs"].startswith(shares)
    assert outlook.source.startswith("ImageNet's" if config.data.name == "image_folder" else "as published")


@pytest.mark.parametrize("file", [file for file in FILES if is_for_any_number_of_gpus(file)])
def test_a_recipe_for_any_number_of_gpus_keeps_its_rules(file: str) -> None:
    config = load_config(str(CONFIGS / file))
    assert config.optim.lr_batch_size is not None
    assert (config.train.label_smoothing, config.optim.decay_norm_and_bias) == (0.1, False)
    assert str(config.scheduler.warmup) == "5 epochs"
    assert config.train.precision in ("bf16", "fp16")
    assert config.train.channels_last or "deit" in config.model.name
    assert config.sparsity.update.interval is None or config.sparsity.update.interval.unit == "epochs"
    batches = re.findall(r"--train.batch_size=(\d+)", header(file)["Nodes"])
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
