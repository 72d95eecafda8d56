"""DeepSpeed's four stages on two ranks: the masks and losses of DDP, zeros in every copy, and runs that resume bit for bit."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse import evaluate
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.train import main
from tests.command import PATIENCE, here, metrics, start, words
from tests.distributed import cases, zero_cases
from tests.distributed.test_runs import codes
from tests.distributed.world import World
from tests.values import LOGGED, QUIET, TINY_VIT

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is an extra")

Worlds = Callable[[int], World]
STAGES = (0, 1, 2, 3)
VIT = {"model.name": "vit_tiny_patch16_224", "model.kwargs": {**TINY_VIT, "depth": 1}}
CONVOLUTIONS: dict[str, Any] = {
    "model.name": "test_resnet",
    "model.kwargs": {"channels": [16] * 4, "layers": [1, 1, 0, 0], "stem_width": 8},
}
COMMON: dict[str, Any] = {**VIT, "train.epochs": 1, "train.batch_size": 64, "sparsity.density": 0.3, "checkpoint.every": "100%"}
"""22 steps."""
EVERY_OTHER = {"sparsity.update.interval": "2 steps"}
METHOD_KEYS: dict[str, dict[str, Any]] = {
    "dense": {"sparsity.density": None},
    "static": {"sparsity.init": "snip"},
    "set": EVERY_OTHER,
    "rigl": {**EVERY_OTHER, "train.clip_norm": 0.5},
    "snfs": EVERY_OTHER,
    "granet": EVERY_OTHER,
    "granet_uniform": {**EVERY_OTHER, "sparsity.update.removal": "taylor"},
    "gmp": EVERY_OTHER,
    "gmp_uniform": EVERY_OTHER,
    "acdc": EVERY_OTHER,
    "top_kast": EVERY_OTHER,
    "mest": {
        **EVERY_OTHER,
        **{"sparsity.mest.keep": [0.2], "sparsity.mest.grow_to": [0.3], "sparsity.mest.decay": []},
        "sparsity.mest.removal_gradient": 0.1,
    },
    "shuffled_block": {**EVERY_OTHER, **CONVOLUTIONS, "sparsity.shuffled_block.size": 4},
    "ast": {
        **CONVOLUTIONS,
        "sparsity.density": None,
        "sparsity.ast.densities": [0.6, 0.4, 0.3],
        "sparsity.ast.offset": "1 steps",
        "sparsity.update.interval": "6 steps",
    },
    "srste": {"sparsity.density": None, "sparsity.structure": "nm:2:4", "sparsity.keep_dense": ["first", "last"]},
}
"""What makes each method use all that it may ask of an engine."""


def zero(stage: int, **keys: Any) -> dict[str, Any]:
    return {
        "engine.name": "deepspeed",
        "engine.zero.stage": stage,
        **{f"engine.zero.{key}": value for key, value in keys.items()},
    }


def keys_of(method: str) -> dict[str, Any]:
    keys = {**COMMON, **METHOD_KEYS[method], "sparsity.method": method}
    return {key: value for key, value in keys.items() if value is not None}


def stages_of(method: str) -> tuple[int, ...]:
    """RigL and MEST, which ask most of an engine, go through all stages; the others through 3 and one other, in turn."""
    return STAGES if method in ("rigl", "mest") else (list(METHODS).index(method) % 3, 3)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_masks_and_losses_of_ddp(worlds: Worlds, tmp_path: Path, method: str) -> None:
    values = keys_of(method)
    ddp = worlds(2).run(cases.train, values, str(tmp_path))[0]
    assert method in ("dense", "static", "srste") or ddp.updates >= 2
    kept = METHODS[method].dense_weights is None
    for stage in stages_of(method):
        for sharded in worlds(2).run(zero_cases.train, {**values, **zero(stage)}, str(tmp_path)):
            ours = sharded.trained
            assert (ours.initial, ours.final, ours.digests) == (ddp.initial, ddp.final, ddp.digests)
            assert ours.losses.keys() == ddp.losses.keys() and len(ours.losses) >= 20
            assert list(ours.losses.values()) == pytest.approx(list(ddp.losses.values()), abs=5e-4)
            assert ours.column("val/loss") == pytest.approx(ddp.column("val/loss"), abs=5e-4)
            assert not kept or not any(sharded.inactive.values()), sharded.inactive


@pytest.mark.parametrize("stage", STAGES)
def test_masks_reach_every_copy(worlds: Worlds, tmp_path: Path, stage: int) -> None:
    values = {**COMMON, "sparsity.method": "static", **zero(stage)}
    for found in worlds(2).run(zero_cases.pieces, values, str(tmp_path)):
        assert found["before"] > 0
        assert found["after"] == found["after the next step"] == 0
        assert found["copies"] == (3 if stage else 2)


def test_sub_nets_have_a_whole_optimizer_state_each_or_are_refused(worlds: Worlds, tmp_path: Path) -> None:
    """Adam's count of steps too, which is that of a whole group from stage 1 on."""
    values = {**keys_of("ast"), "optim.name": "adamw", "optim.lr": 0.01}
    ddp = worlds(2).run(cases.train, values, str(tmp_path))[0]
    for sharded in worlds(2).run(zero_cases.train, {**values, **zero(0)}, str(tmp_path)):
        assert list(sharded.trained.losses.values()) == pytest.approx(list(ddp.losses.values()), abs=1e-6)
    first, other = worlds(2).run(cases.command, {**LOGGED, **values, **zero(2), "output": tmp_path / "refused"})
    assert (first.code, other.code) == (2, 2)
    (line,) = first.errors
    assert line.startswith("optim.name=adamw: AST's sub-nets need a state of it each")


@pytest.mark.parametrize("stage", STAGES)
def test_an_optimizer_that_acdc_cannot_begin_anew_is_refused(tmp_path: Path, stage: int) -> None:
    """``--plan`` refuses what a run would."""
    values = {**keys_of("acdc"), **zero(stage), "optim.name": "adamw", "optim.lr": 0.01, "output": tmp_path}
    outcome = here(main, [*words(values), "--plan"])
    expected = (
        f"optim.name=adamw: AC/DC begins its state of the sparse layers anew at every decompression, and "
        f"engine.zero.stage={stage} keeps one count of steps for all; engine.name=ddp or engine.zero.stage=0 takes it, and "
        "sgd, momentum and lion go with all"
    )
    assert outcome.errors == ([expected] if stage else [])


def test_so_after_a_resume(worlds: Worlds, tmp_path: Path) -> None:
    values = {**keys_of("ast"), **LOGGED, **zero(0), "optim.name": "adamw", "optim.lr": 0.01, "resume": "auto"}
    values |= {"checkpoint.every": "2 steps", "train.batch_size": 128}
    whole, parts = {**values, "output": tmp_path / "whole"}, {**values, "output": tmp_path / "parts"}
    assert codes(worlds(2).run(cases.command, whole)) == [0, 0]
    assert codes(worlds(2).run(cases.command, parts, interrupt_after=7)) == [130, 130]
    assert codes(worlds(2).run(cases.command, parts)) == [0, 0]
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


OPTIONS: dict[str, dict[str, Any]] = {
    "accumulation": {"train.accumulation": 2, "train.clip_norm": 0.5},
    "bf16": {"train.precision": "bf16"},
    "averaged weights": {"train.ema": 0.8},
    "adamw": {"optim.name": "adamw", "optim.lr": 1e-3},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_do_what_they_do_under_ddp(worlds: Worlds, tmp_path: Path, option: str) -> None:
    values = {**COMMON, **EVERY_OTHER, **OPTIONS[option], "sparsity.method": "rigl", "data.limit": 704}  # 11 steps
    ddp = worlds(2).run(cases.train, values, str(tmp_path))[0]
    for stage, offload in ((1, "cpu"), (2, "none"), (3, "cpu")):
        keys = {**values, **zero(stage, offload=offload)}
        sharded = worlds(2).run(zero_cases.train, keys, str(tmp_path))[0]
        ours = sharded.trained
        assert list(ours.losses.values())[:8] == pytest.approx(list(ddp.losses.values())[:8], abs=5e-4)
        assert ours.column("val/loss") == pytest.approx(ddp.column("val/loss"), abs=5e-3)
        assert not any(sharded.inactive.values())


@pytest.mark.parametrize("stage", STAGES)
def test_an_overflow_on_one_rank_holds_back_all(worlds: Worlds, tmp_path: Path, stage: int) -> None:
    values = {**COMMON, "train.precision": "fp16", "sparsity.method": "static", **zero(stage)}
    for rank in worlds(2).run(zero_cases.overflow, values, str(tmp_path)):
        assert rank == {"told": [False, True, False], "scales": [2.0**16, 2.0**15, 2.0**15], "moved": [True, False, True]}


RUN = {
    **CONVOLUTIONS,
    **QUIET,
    "tracking.log_every": 3,
    "resume": "auto",
    "data.limit": 640,
    "train.epochs": 2,
    "train.batch_size": 128,
    "train.accumulation": 2,
    "train.ema": 0.8,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "3 steps",
    "checkpoint.every": "2 steps",
    "checkpoint.keep": 1,
    "engine.name": "deepspeed",
}
"""10 steps, five an epoch."""
SHORT = {
    **RUN,
    "data.limit": 384,
    "sparsity.update.form": "itop",
    "sparsity.update.interval": "1 steps",
    "sparsity.update.end": "100%",
}
"""6 steps, three an epoch, and an update at each of them."""


@pytest.mark.parametrize("settings", ["zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"])
def test_a_resumed_run_equals_the_uninterrupted_one(worlds: Worlds, tmp_path: Path, settings: str) -> None:
    values = {**SHORT, "engine.deepspeed_config": f"configs/deepspeed/{settings}.json"}
    whole, parts = {**values, "output": tmp_path / "whole"}, {**values, "output": tmp_path / "parts"}
    assert codes(worlds(2).run(cases.command, whole)) == [0, 0]
    assert codes(worlds(2).run(cases.command, parts, interrupt_after=5)) == [130, 130]
    first, other = worlds(2).run(cases.command, parts)
    assert (first.code, other.code, first.err, other.out, other.err) == (0, 0, "", "", "")
    assert "going on after step 4 of 6" in first.out
    rows = [row for row in metrics(tmp_path / "parts") if float(row["sparsity/changed"] or 0)]
    assert int(rows[0]["step"]) <= 4 < int(rows[-1]["step"]), "masks move before it and after"
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    states = [torch.load(tmp_path / run / "checkpoints" / "step_00000006.pt") for run in ("parts", "whole")]
    assert all(torch.equal(states[0]["state_dict"][name], value) for name, value in states[1]["state_dict"].items())


def test_a_signal_in_validation_stops_all_and_the_run_goes_on(worlds: Worlds, tmp_path: Path) -> None:
    values = {**SHORT, "engine.zero.stage": 3, "output": tmp_path / "parts"}
    assert codes(worlds(2).run(cases.command, {**values, "output": tmp_path / "whole"})) == [0, 0]
    assert codes(worlds(2).run(cases.command_asked, values, place="validation", nth=1, rank=1)) == [75, 75]
    assert codes(worlds(2).run(cases.command, values)) == [0, 0]
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_checkpoints_and_their_shards(worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {**RUN, "engine.zero.stage": 2, "output": tmp_path}
    assert codes(worlds(2).run(cases.command, {**values, "checkpoint.keep": 2}, interrupt_after=9)) == [130, 130]
    checkpoints = tmp_path / "checkpoints"
    assert torch.load(checkpoints / "best.pt")["progress"]["step"] == 5
    assert sorted(path.name for path in checkpoints.glob("*.pt")) == ["best.pt", "step_00000006.pt", "step_00000008.pt"]
    assert sorted(path.name for path in checkpoints.glob("*.shards")) == [f"step_{step:08}.shards" for step in (5, 6, 8)]
    assert evaluate.main([str(tmp_path), "--checkpoint=last"]) == 0
    assert "(step 8)" in capsys.readouterr().out

    for keys, reason in (
        ({"engine.zero.stage": 3}, "cannot resume with another engine.zero.stage (was 2, now 3)"),
        (
            {"engine.name": "ddp", "engine.zero.stage": None},
            "cannot resume with another engine.name (was 'deepspeed', now 'ddp')",
        ),
    ):
        changed = {key: value for key, value in {**values, **keys}.items() if value is not None}
        outcomes = worlds(2).run(cases.command, changed)
        assert codes(outcomes) == [2, 2]
        assert reason in outcomes[0].err and outcomes[0].err.count("\n") == 1
    (outcome,) = worlds(1).run(cases.command, values)
    assert outcome.code == 2
    assert "cannot resume on 1 ranks a run of 2: engine.zero.stage=2 has cut" in outcome.err

    zero_cases.damage(checkpoints / "step_00000008.shards")
    outcomes = worlds(2).run(cases.command, values, interrupt_after=7)
    assert "is missing or not whole; going back to the one before it" in outcomes[0].err
    assert "going on after step 6 of 10" in outcomes[0].out


@pytest.mark.parametrize(("stage", "full"), [(1, 0), (1, 1), (3, 1)])
def test_shards_that_one_rank_cannot_write_cost_none_of_those_before(
    worlds: Worlds, tmp_path: Path, stage: int, full: int
) -> None:
    values = {**COMMON, "sparsity.method": "static", **zero(stage)}
    first, other = worlds(2).run(zero_cases.save_where_one_rank_cannot, values, str(tmp_path), full)
    assert first == other, "all ranks know"
    error, sizes = first
    assert "File too large" in error and "\n" not in error
    assert [path.name for path in tmp_path.glob("*shards*")] == ["step.shards"]
    assert {name: (tmp_path / "step.shards" / name).stat().st_size for name in sizes} == sizes


def test_a_run_through_deepspeeds_launcher(tmp_path: Path) -> None:
    launcher = ["-m", "deepspeed.launcher.runner", "--num_gpus=2", f"--master_port={20000 + hash(tmp_path) % 20000}"]
    values = {**RUN, "train.epochs": 1, "engine.zero.stage": 1, "output": tmp_path}
    process = start([*launcher, "--module", "dist_sparse.train", *words(values)])
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "density 30.0" in said
    assert torch.load(tmp_path / "checkpoints" / "step_00000005.pt")["world_size"] == 2
