"""The configurations that are shipped: each loads, can start, says where it comes from, and shares its folder's recipe."""

import dataclasses
import logging
import re

import pytest

from dist_sparse.build import resolved
from dist_sparse.config import load_config
from dist_sparse.sparsity.methods import METHODS
from tests.shipped_configs import BASELINES, CONFIGS, FILES, header, is_of_a_reference, plan

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
    assert list(entries) == (HEADER if is_of_a_reference(file) else own)
    assert all(entries.values())
    assert entries["Command"].endswith(f"-m dist_sparse.train --config configs/{file}")


@pytest.mark.parametrize("file", FILES)
def test_batches_divide_by_the_ranks_of_the_command(file: str) -> None:
    train = load_config(str(CONFIGS / file)).train
    ranks = re.search(r"--nproc-per-node=(\d+) ", header(file)["Command"])
    assert ranks and train.batch_size % (int(ranks[1]) * train.accumulation) == 0


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
