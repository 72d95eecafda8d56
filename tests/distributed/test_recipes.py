"""The configurations that are shipped run, on two ranks and on real images: a smoke run of each kind.

Files are of a kind if they have all words on sparsity and engine in common, and differ in numbers such as the density, in the
network or in the data set only; of each kind the first is tried, and one of each data set and network. The widest networks are
narrowed, and the deepest shortened. That every file can be built, at full size, is :mod:`tests.test_configs`'s business.
"""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from dist_sparse.config import load_config
from dist_sparse.config.schema import Config
from dist_sparse.config.tree import flat
from tests.command import metrics
from tests.distributed import cases
from tests.distributed.world import World
from tests.on_disk import write_all
from tests.shipped_configs import CONFIGS, FILES

RESNETS = ("resnet18", "resnet50", "cifar_resnet18", "cifar_resnet50")
FIXED = {"dense", "static"}
BACKENDS = ["torchvision", "dali"] if find_spec("nvidia.dali") else ["torchvision"]


def words(config: Config) -> tuple[object, ...]:
    """What files of a kind have in common."""
    of_sections = [(key, value) for key, value in flat(config) if key.startswith(("sparsity.", "engine."))]
    chosen = tuple((key, value) for key, value in of_sections if isinstance(value, str | bool))
    return (bool(config.sparsity.mest.grow_to), bool(config.data.forgetting.remove), *chosen)


def one_of_each_kind() -> list[str]:
    """Files, in order."""
    seen: set[object] = set()
    chosen = []
    for file in FILES:
        config = load_config(str(CONFIGS / file))
        kinds = {words(config), (config.data.name, config.model.name)}
        if kinds - seen:
            chosen.append(file)
        seen |= kinds
    return chosen


KINDS = one_of_each_kind()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("file", KINDS)
def test_recipe(worlds: Callable[[int], World], data: Path, tmp_path: Path, file: str) -> None:
    config = load_config(str(CONFIGS / file))
    argv = [f"--config={CONFIGS / file}", f"--data.root={data / config.data.name}", "--data.workers=0", "--engine.device=cpu"]
    argv += [f"--output={tmp_path / 'run'}", *narrow(config.model.name)]
    if config.data.name == "image_folder":  # each backend every other time
        argv.append(f"--data.backend={BACKENDS[KINDS.index(file) % len(BACKENDS)]}")
    outcomes = worlds(2).run(cases.smoke, argv, str(data))
    assert [outcome.err for outcome in outcomes if outcome.code] == []
    first = outcomes[0].out
    assert first.startswith(f"smoke run of {config.name}: ")
    assert "random ones" not in first.partition("\n")[0]
    check(config, tmp_path / "run-smoke")


def narrow(model: str) -> list[str]:
    """What makes a large network quick."""
    if model.startswith("deit"):
        return ["--model.kwargs.embed_dim=96", "--model.kwargs.depth=4"]
    if model == "convnext_tiny":
        return ["--model.kwargs.depths=[1,1,1,1]", "--model.kwargs.dims=[24,48,96,192]"]
    if model == "cifar_resnet32":
        return ["--model.name=cifar_resnet20", "--model.kwargs.width=0.5"]
    if model.partition(".")[0] in RESNETS:
        shorter = ["--model.name=cifar_resnet18"] if model.startswith("cifar") else ["--model.kwargs.layers=[1,1,1,1]"]
        return ["--model.kwargs.channels=[8,16,32,64]", *shorter]
    return []


def check(config: Config, folder: Path) -> None:
    """The run has come to its end and its density, and the masks of a method that moves them have moved."""
    summary, rows = json.loads((folder / "summary.json").read_text()), metrics(folder)
    assert summary["exit_reason"] == "finished"
    if config.sparsity.density is not None:
        assert summary["density"] == pytest.approx(config.sparsity.density, rel=0.25)
    digests = [row["sparsity/mask_digest"] for row in rows if row["sparsity/mask_digest"]]
    if config.sparsity.method == "shuffled_block":  # a line of a block moves if half of it is to go, which may be none
        assert any(row["sparsity/changed"] for row in rows) == config.sparsity.shuffled_block.dynamic
    else:
        assert (len(set(digests)) > 1) == (config.sparsity.method not in FIXED or config.sparsity.init == "snip")
