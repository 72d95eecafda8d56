"""The shipped sweeps: what W&B's own schema and engine make of them, and that every combination can start without a warning."""

import itertools
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_sparse.build import resolved
from dist_sparse.config import Config, load_config, parse_args, to_flat
from tests.command import ROOT
from tests.shipped_configs import header, plan

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the engine is written for an older pydantic
    import sweeps

FILES = sorted((ROOT / "configs/sweeps").glob("*.yaml"))
SWEPT = {"sparsity.method", "sparsity.density", "sparsity.update.drop_fraction", "sparsity.update.interval", "optim.lr"}


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def suggestions(config: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """As many runs as the engine gives, each told to it before the next one; every run's accuracy is its drop fraction."""
    runs: list[sweeps.SweepRun] = []
    for _ in range(count):
        run = sweeps.next_run(config, runs, validate=True)
        if run is None:
            break
        run.state = sweeps.RunState.finished
        run.history = [{"val/top1": run.config["sparsity.update.drop_fraction"]["value"]}]
        runs.append(run)
    return [run.config for run in runs]


def started(config: dict[str, Any], parameters: dict[str, Any]) -> Config:
    """The configuration of a run that an agent starts: from the words after the program."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args  # seconds that every pytest would take

    words = config["command"][config["command"].index("${program}") + 1 : -1]
    assert config["command"][-1] == "${args}"
    return parse_args([*words, *create_sweep_command_args({"args": parameters})["args"]]).config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_wandb_finds_nothing_wrong(path: Path) -> None:
    config = read(path)
    assert sweeps.schema_violations_from_proposed_config(config) == []
    assert sweeps.SweepConfig(config)["metric"] == {"name": "val/top1", "goal": "maximize"}
    assert config["early_terminate"]["type"] == "hyperband"
    assert config["parameters"].keys() == SWEPT


def test_there_is_one_of_each_kind() -> None:
    assert sorted(read(path)["method"] for path in FILES) == ["bayes", "grid", "random"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_header_and_name(path: Path) -> None:
    entries = header(path.relative_to(ROOT / "configs").as_posix())
    assert list(entries) == ["Source", "Command", "Hardware", "Runs"]
    assert entries["Command"] == f"wandb sweep --project=dist_sparse configs/sweeps/{path.name}"
    assert f"--name={read(path)['name']}" in read(path)["command"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_signal_reaches_the_ranks_as_from_the_launcher(path: Path) -> None:
    """A torchrun that dies of it would leave them behind."""
    launcher = (ROOT / "launchers/torchrun.sh").read_text()
    options = re.findall(r"--(?:signals-to-handle|shutdown-timeout)=[\w,]+", launcher)
    assert len(options) == 2 and set(options) <= set(read(path)["command"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_run_that_the_engine_picks_can_start_with_its_parameters(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = read(path)
    with caplog.at_level(logging.WARNING):
        for parameters in suggestions(config, 33 if config["method"] == "grid" else 4):
            run = started(config, parameters)
            values = {key: each["value"] for key, each in parameters.items()}
            assert load_config(overrides={**to_flat(run), **values}) == run
            assert plan(resolved(run)) > 0
    assert caplog.messages == []


def test_the_grid_is_every_combination_once() -> None:
    config = read(ROOT / "configs/sweeps/digits_grid.yaml")
    picked = [tuple(each["value"] for each in run.values()) for run in suggestions(config, 100)]
    values = [config["parameters"][key]["values"] for key in suggestions(config, 1)[0]]
    assert sorted(picked) == sorted(itertools.product(*values))
    assert header("sweeps/digits_grid.yaml")["Runs"] == str(len(picked))


def test_the_bayes_search_goes_where_val_top1_is_high() -> None:
    """The metric's name, with its slash, is that of our columns; told the accuracy, the engine climbs."""
    config = read(ROOT / "configs/sweeps/cifar10_bayes.yaml")
    fractions = [run["sparsity.update.drop_fraction"]["value"] for run in suggestions(config, 14)]
    assert sum(fractions[-5:]) / 5 > sum(fractions[:5]) / 5


def test_hyperband_stops_the_worse_runs_at_their_first_band() -> None:
    config = read(ROOT / "configs/sweeps/digits_grid.yaml")
    first = config["early_terminate"]["min_iter"]
    runs = [
        sweeps.SweepRun(name=f"{top1}", state=sweeps.RunState.running, sampledHistory=[{"val/top1": top1}] * (first + 1))
        for top1 in (0.9, 0.8, 0.7, 0.2, 0.1)
    ]
    assert {run.name for run in sweeps.stop_runs(config, runs)} == {"0.2", "0.1"}
    for run in runs:
        run.history = run.history[:first]
    assert sweeps.stop_runs(config, runs) == []
