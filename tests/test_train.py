"""The training command from end to end: what it prints, what it leaves, and what it does without torch."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse.config import Config, load_config, parse_args, to_flat
from dist_sparse.plan.outlook import look_ahead
from dist_sparse.run_folder import choose
from dist_sparse.train import main
from tests.command import ROOT, here, metrics, train_here, words
from tests.values import QUIET, TINY_VIT

RIGL = {
    "name": "small",
    **QUIET,
    "tracking.log_every": 4,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": TINY_VIT,
    "train.epochs": 2,
    "train.batch_size": 128,
    "optim.name": "adamw",
    "optim.lr": 0.003,
    "sparsity.method": "rigl",
    "sparsity.density": 0.2,
    "sparsity.update.interval": "3 steps",
}
"""22 steps in 2 epochs; updates at 3, 6, 9, 12 and 15."""

WITHOUT_TORCH = """
import sys
from dist_sparse.train import main
try:
    code = main(sys.argv[1:])
finally:
    assert "torch" not in sys.modules and "numpy" not in sys.modules, "--help and errors have to come at once"
sys.exit(code)
"""


def without_torch(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_lists_every_key_and_imports_no_torch() -> None:
    result = without_torch("--help")
    assert (result.returncode, result.stderr) == (0, "")
    for key in to_flat(load_config()):
        assert key in result.stdout


def test_a_mistake_on_the_command_line_imports_no_torch() -> None:
    result = without_torch("--sparsity.densty=0.1")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "error: sparsity.densty: unknown key (from the command line); did you mean sparsity.density"
    )
    assert result.stderr.count("\n") == 1


def test_print_config_resolves_and_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = str(ROOT / "configs/digits/dense.yaml")
    outcome = here(main, ["--config", base, "--sparsity.method=rigl", "--sparsity.density=0.1", "--print-config"])
    assert (outcome.code, outcome.err) == (0, "")
    assert list(tmp_path.iterdir()) == [], "nothing has begun"
    Path("resolved.yaml").write_text(outcome.out)
    config = load_config("resolved.yaml")
    assert config.sparsity.density == 0.1
    update = config.sparsity.update
    assert (str(update.interval), update.drop_fraction, update.drop_schedule, str(update.end)) == (
        "100 steps",
        0.3,
        "cosine",
        "75%",
    )
    again = here(main, ["--config", "resolved.yaml", "--print-config"]).out
    assert load_config(as_file(tmp_path, again)) == config


def as_file(folder: Path, text: str) -> str:
    (folder / "printed.yaml").write_text(text)
    return str(folder / "printed.yaml")


def test_print_config_says_where_each_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model:\n  kwargs: {width: 2}\ntrain.epochs: 3\nseed: 1\n")
    (tmp_path / "mine.yaml").write_text(
        "base: base.yaml\nsparsity: {method: srste, structure: 'nm:2:4'}\ntrain:\n  epochs: 4\n"
    )
    words = ["--config", str(tmp_path / "mine.yaml"), "--seed=2", "--model.kwargs.depth=8", "--tracking.tags=[a,b]"]
    out = here(main, [*words, f"--tracking.group={'word ' * 40}", "--print-config"]).out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    base, mine = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    for line in (
        "resume: never # default",
        "seed: 2 # the command line",
        f"kwargs: # {base}:2, the command line",
        f"epochs: 4 # {mine}:4",
        f"method: srste # {mine}:2",
        "density: 0.5 # method srste",
        "tags: # the command line",
        "mean: # data set digits",
    ):
        assert line in lines, line
    group = lines.index("# the command line")
    assert lines[group + 1].startswith("group: 'word"), "text on several lines has its comment above"
    config = load_config(as_file(tmp_path, out))
    assert config.model.kwargs == {"width": 2, "depth": 8} and config.tracking.tags == ["a", "b"]
    assert config.tracking.group == "word " * 40


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a whole run and what it printed."""
    folder = tmp_path_factory.mktemp("run") / "folder"
    outcome = train_here({**RIGL, "output": folder})
    assert (outcome.code, outcome.err) == (0, "")
    return folder, outcome.out


def test_what_is_printed(finished: tuple[Path, str]) -> None:
    folder, out = finished
    before, *progress = re.split(r"^step ", out, flags=re.MULTILINE)
    for layer in ("patch_embed.proj.weight", "blocks.1.mlp.fc2.weight", "head.weight"):
        assert layer in before, "the table comes before the first step"
    for word in ("density", "structure", "parameters", "FLOPs"):
        assert word in before
    assert len(progress) >= 5
    last = progress[-1]
    summary = json.loads((folder / "summary.json").read_text())
    assert f"top-1 {summary['last_top1']:.2%}" in last
    assert "density 20." in last
    assert f"run folder: {folder}" in last


def test_an_epoch_s_line_holds_its_mean_loss_however_often_rows_are_logged(finished: tuple[Path, str], tmp_path: Path) -> None:
    values = {**RIGL, "tracking.log_every": 1, "checkpoint.every": "13 steps", "output": tmp_path}
    before = train_here(values, interrupt_after=15).out
    again = train_here({**values, "resume": "auto"}).out
    losses = {int(row["step"]): float(row["train/loss"]) for row in metrics(tmp_path) if row["train/loss"]}
    tops = {int(row["step"]): float(row["val/top1"]) for row in metrics(tmp_path) if row["val/top1"]}
    shown = {
        out: dict(re.findall(r"^epoch (\d)/2 ends  (.*)  took", out, re.MULTILINE)) for out in (finished[1], before, again)
    }

    def line(steps: range) -> str:
        loss = sum(losses[step] for step in steps) / len(steps)
        return f"loss {loss:.4f}  val loss .*  top1 {100 * tops[11 * -(-steps[-1] // 11)]:.1f} %  density 20.0 %"

    first, second = range(1, 12), range(12, 23)
    for out, expected in ((finished[1], {"1": first, "2": second}), (before, {"1": first})):
        assert set(shown[out]) == set(expected)
        assert all(re.fullmatch(line(steps), shown[out][epoch]) for epoch, steps in expected.items())
    assert "going on after step 13" in again
    assert set(shown[again]) == {"2"}
    assert re.fullmatch(line(second), shown[again]["2"]), "of the steps before the stop too"


def test_what_is_left(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    config = load_config(str(folder / "config.yaml"))
    assert config.output == str(folder)
    assert config.sparsity.update.drop_fraction == 0.3
    assert sorted(path.name for path in (folder / "checkpoints").iterdir())[-2:] == ["step_00000011.pt", "step_00000022.pt"]
    assert (folder / "logs" / "rank_0.log").exists()
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]


def test_metrics(finished: tuple[Path, str]) -> None:
    rows = {int(row["step"]): row for row in metrics(finished[0])}
    updates, logged, validated = {3, 6, 9, 12, 15}, {4, 8, 12, 16, 20, 22}, {11, 22}
    assert set(rows) == {0} | updates | logged | validated, "step 0 tells of the initial masks"
    for step, row in rows.items():
        assert float(row["epoch"]) == step / 11
        assert bool(row["train/loss"]) == bool(row["train/lr"]) == (step in logged)
        assert bool(row["val/top1"]) == bool(row["val/top5"]) == bool(row["val/loss"]) == (step in validated)
        assert bool(row["sparsity/changed"]) == (step in updates)
        assert bool(row["sparsity/mask_digest"]) == (step in {0} | updates | validated)
    digests = [rows[step]["sparsity/mask_digest"] for step in sorted(updates)]
    for before, after, step in zip([rows[0]["sparsity/mask_digest"], *digests], digests, sorted(updates), strict=False):
        assert (before != after) == (float(rows[step]["sparsity/changed"]) > 0)
    assert len(set(digests)) >= 4
    assert rows[22]["sparsity/mask_digest"] == digests[-1]
    explored = [float(rows[step]["sparsity/exploration"]) for step in sorted(updates)]
    assert explored == sorted(explored)
    assert 0.2 < explored[0] < explored[-1] < 1
    assert all(0 <= float(rows[step][f"val/{name}"]) <= 1 for step in validated for name in ("top1", "top5"))


def test_summary(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    summary = json.loads((folder / "summary.json").read_text())
    validations = {int(row["step"]): float(row["val/top1"]) for row in metrics(folder) if row["val/top1"]}
    assert summary["exit_reason"] == "finished"
    assert summary["last_top1"] == validations[22]
    assert summary["best_top1"] == max(validations.values()) == validations[summary["best_step"]]
    assert summary["density"] == pytest.approx(0.2, abs=0.002)
    assert summary["steps"] == 22
    assert summary["wall_seconds"] > 0
    assert 0 < summary["active_parameters"] < summary["parameters"]
    assert 0 < summary["flops"] < summary["dense_flops"]
    forward = summary["inference_flops_relative"]
    assert forward == summary["flops"] / summary["dense_flops"]
    assert summary["train_flops_relative"] == pytest.approx(forward + 5 / 22 * (1 - forward) / 3), "5 dense gradients"


@pytest.mark.parametrize(
    ("values", "dense_gradients"),
    [
        ({"sparsity.update.gradient_steps": 2}, 10),
        ({"sparsity.update.growth": "random"}, 0),
        ({"sparsity.method": "snfs", "sparsity.update.interval": "4 steps"}, 22),
        ({"sparsity.method": "static"}, 0),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_training_costs_what_the_steps_needed(tmp_path: Path, values: dict[str, Any], dense_gradients: int) -> None:
    keys = {key: value for key, value in RIGL.items() if "update" not in key or values.get("sparsity.method") != "static"}
    assert train_here({**keys, **values, "output": tmp_path}).code == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    forward = summary["inference_flops_relative"]
    slack = 0.02 if values.get("sparsity.method") == "snfs" else 1e-9  # weights move between layers
    expected = forward + dense_gradients / 22 * (1 - forward) / 3
    assert summary["train_flops_relative"] == pytest.approx(expected, rel=slack)


def test_training_costs_the_density_of_the_time(tmp_path: Path) -> None:
    """Pruning from dense costs more than its end: the mean over steps, uniform in all layers here."""
    keys = {"sparsity.method": "gmp_uniform", "sparsity.ramp.end": "12 steps", "sparsity.keep_dense": ["last"]}
    assert train_here({**RIGL, **keys, "output": tmp_path}).code == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    forward, density = summary["inference_flops_relative"], summary["density"]
    dense_share = (forward - density) / (1 - density)
    assert summary["train_flops_relative"] == pytest.approx(dense_share + (1 - dense_share) * summary["mean_density"], rel=1e-3)


def test_a_larger_backward_costs_what_it_computes(tmp_path: Path) -> None:
    """Two of three units of a step go by the forward's density, one by the backward's, each the same in all masked layers."""
    values = {
        **QUIET,
        "train.epochs": 1,
        "model.kwargs": {"width": 0.25, "blocks": 1},
        "optim.weight_decay": 0.0,
        "sparsity.method": "top_kast",
        "sparsity.density": 0.25,
        "sparsity.distribution": "uniform",
        "sparsity.keep_dense": ["first", "last"],
        "sparsity.top_kast.backward_density": 0.75,
        "sparsity.update.interval": "5 steps",
        "output": tmp_path,
    }
    assert train_here(values).code == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    forward = summary["inference_flops_relative"]
    dense_layers = (forward - 0.25) / 0.75
    expected = (2 * forward + dense_layers + (1 - dense_layers) * 0.75) / 3
    assert summary["train_flops_relative"] == pytest.approx(expected, rel=2e-3)  # whole weights of small layers
    planned = look_ahead(parse_args(words(values)).config, 1).training_share
    assert planned == pytest.approx(summary["train_flops_relative"], rel=1e-9)


def test_the_checkpoint_is_a_plain_timm_model(finished: tuple[Path, str]) -> None:
    import timm

    from dist_sparse.sparsity.bits import unpack

    state = torch.load(finished[0] / "checkpoints" / "step_00000022.pt", weights_only=True)
    kwargs: dict[str, Any] = {"num_classes": 10, "in_chans": 1, **TINY_VIT}
    model = timm.create_model("vit_tiny_patch16_224", **kwargs)
    model.load_state_dict(state["state_dict"], strict=True)
    for name, packed in state["method"]["masks"].items():
        weight = model.get_parameter(name).detach()
        assert not weight[~unpack(packed, weight.shape)].any(), "off-mask weights are exactly zero"


def test_layers(finished: tuple[Path, str]) -> None:
    with (finished[0] / "layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    assert sorted(set(steps)) == [3, 6, 9, 12, 15]
    first = [row for row in rows if row["step"] == "3"]
    assert all(0 < float(row["density"]) <= 1 and 0 <= float(row["changed"]) <= 1 for row in first)


def test_the_same_command_gives_the_same_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    assert train_here({**RIGL, "output": tmp_path}).code == 0
    assert metrics(tmp_path) == metrics(finished[0])
    other: dict[str, Any] = {**RIGL, "seed": 1, "train.epochs": 1, "sparsity.update.end": "100%", "output": tmp_path / "other"}
    assert train_here(other).code == 0
    assert metrics(tmp_path / "other")[0]["sparsity/mask_digest"] != metrics(tmp_path)[0]["sparsity/mask_digest"]


def test_without_an_output_the_folder_is_named_after_run_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = {**RIGL, "train.epochs": 1, "sparsity.method": "dense", "sparsity.density": None, "sparsity.update.interval": None}
    assert train_here({**values, "resume": "auto"}, interrupt_after=3).code == 130
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"small-\d{8}-\d{6}", folder.name)
    assert json.loads((folder / "summary.json").read_text())["exit_reason"] == "interrupted"
    assert train_here({**values, "resume": "auto"}).code == 0
    assert list(Path("runs").iterdir()) == [folder], "an unfinished run of this name goes on where it is"
    assert json.loads((folder / "summary.json").read_text())["exit_reason"] == "finished"


def test_a_run_whose_name_only_begins_alike_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("small-20261231-235959-2", "small-3-20261231-235959"):
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    assert choose(Config(name="small", resume="auto")).path == Path("runs/small-20261231-235959-2")


@pytest.mark.slow
def test_the_quickstart_keeps_its_word(tmp_path: Path) -> None:
    """At least 97 % on held-out digits: the issue's promise for configs/digits/rigl.yaml, here in a world of one."""
    outcome = train_here({"config": "configs/digits/rigl.yaml", "output": tmp_path, "tracking.wandb": "disabled"})
    assert outcome.code == 0, outcome.err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["last_top1"] >= 0.97
    assert summary["density"] == pytest.approx(0.1, abs=1e-3)
