"""Every configuration that is shipped runs, on two ranks and on real images: a smoke run of each.

The widest networks are narrowed, so that all of them fit into minutes; that they can be built at full width is
:mod:`tests.test_configs`'s business.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_sparse.config import load_config
from dist_sparse.config.schema import Config
from tests.command import metrics
from tests.distributed import cases
from tests.distributed.world import World
from tests.on_disk import write_all
from tests.shipped_configs import CONFIGS, FILES

RESNETS = ("resnet18", "resnet50", "cifar_resnet18", "cifar_resnet50")
RESTING = {"dense", "static"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("file", FILES)
def test_recipe(worlds: Callable[[int], World], data: Path, tmp_path: Path, file: str) -> None:
    config = load_config(str(CONFIGS / file))
    argv = [f"--config={CONFIGS / file}", f"--data.root={data / config.data.name}", "--data.workers=0", "--engine.device=cpu"]
    argv += [f"--output={tmp_path / 'run'}", *narrow(config.model.name)]
    outcomes = worlds(2).run(cases.smoke, argv, str(data))
    assert [outcome.err for outcome in outcomes if outcome.code] == []
    first = outcomes[0].out
    assert first.startswith(f"smoke run of {config.name}: ")
    assert "random ones" not in first.partition("\n")[0]
    check(config, tmp_path / "run-smoke")


def narrow(model: str) -> list[str]:
    """What makes a wide network quick."""
    if model.startswith("deit"):
        return ["--model.kwargs.embed_dim=96"]
    return ["--model.kwargs.channels=[16,32,64,128]"] if model in RESNETS else []


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
        assert (len(set(digests)) > 1) == (config.sparsity.method not in RESTING or config.sparsity.init == "snip")
