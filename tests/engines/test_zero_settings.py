"""DeepSpeed's settings: what our keys make of them, and a file that says otherwise."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.build import resolved
from dist_sparse.config import Config, with_values
from dist_sparse.config.engine import EngineConfig, ZeroConfig
from dist_sparse.config.schema import OptimConfig
from dist_sparse.engines.build import capabilities_of, check_installed, resolve_engine
from dist_sparse.engines.zero_settings import deepspeed_settings
from dist_sparse.errors import UserError
from dist_sparse.optim import check_flattenable

STAGE_2 = capabilities_of(EngineConfig(name="deepspeed", zero=ZeroConfig(stage=2)))
SHIPPED = sorted(Path("configs/deepspeed").glob("*.json"))


def config_of(**values: Any) -> Config:
    given = {key.replace("__", "."): value for key, value in values.items()}
    return with_values(Config(), {"engine.name": "deepspeed", "sparsity.method": "dense", **given})


def settings_of(**values: Any) -> dict[str, Any]:
    return deepspeed_settings(resolved(config_of(**values)), world_size=2)


def file_of(tmp_path: Path, settings: Any) -> str:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    return str(path)


def test_our_keys_fill_in_the_settings() -> None:
    settings = settings_of(
        train__batch_size=64, train__accumulation=4, train__clip_norm=0.5, train__precision="bf16", engine__zero__stage=3
    )
    assert settings["train_batch_size"] == 64
    assert settings["train_micro_batch_size_per_gpu"] == 8
    assert settings["gradient_accumulation_steps"] == 4
    assert settings["gradient_clipping"] == 0.5
    assert settings["torch_autocast"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    assert settings["zero_optimization"] == {"stage": 3, "offload_optimizer": {"device": "none"}}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_file_gives_its_stage(path: Path) -> None:
    config = resolved(config_of(engine__deepspeed_config=str(path)))
    assert f"zero{config.engine.zero.stage}" == path.stem.partition("_")[0]
    assert config.engine.zero.offload == ("cpu" if "offload" in path.stem else "none")
    assert deepspeed_settings(config, world_size=2)["zero_optimization"]["stage"] == config.engine.zero.stage


def test_shipped_files_are_described() -> None:
    described = Path("configs/README.md").read_text()
    assert len(SHIPPED) >= 5
    assert all(f"`deepspeed/{path.name}`" in described for path in SHIPPED)


def test_equal_is_no_contradiction(tmp_path: Path) -> None:
    given = {
        "train_batch_size": 64,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
        "optimizer": "auto",
        "prescale_gradients": False,
        "steps_per_print": 10,
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000, "allgather_bucket_size": 5e8},
    }
    values = {"train.batch_size": 64, "train.clip_norm": 0.5, "train.precision": "bf16", "engine.zero.stage": 2}
    config = with_values(config_of(engine__deepspeed_config=file_of(tmp_path, given)), values)
    settings = deepspeed_settings(resolved(config), world_size=2)
    assert settings["zero_optimization"]["reduce_bucket_size"] == 1000
    assert "optimizer" not in settings and "fp16" not in settings and "bf16" not in settings


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"train_batch_size": 32}, "train_batch_size=32 contradicts train.batch_size, which makes it 128"),
        (
            {"train_micro_batch_size_per_gpu": 1},
            "contradicts train.batch_size over 2 ranks x 1 accumulation steps, which makes it 64",
        ),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2 contradicts train.accumulation, which makes it 1"),
        ({"gradient_clipping": 1.0}, "gradient_clipping=1.0 contradicts train.clip_norm, which makes it 0.0"),
        ({"fp16": {"enabled": True}}, "fp16.enabled=True contradicts train.precision, which makes it False"),
        ({"bf16": {"enabled": True}}, "bf16.enabled=True contradicts train.precision"),
        ({"optimizer": {"type": "Adam"}}, "optimizer.type contradicts optim.name; leave optimizer out or write 'auto'"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler.type contradicts scheduler.name"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage=3 contradicts engine.zero.stage, which makes it 2"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "device='nvme' contradicts engine.zero.offload"),
        ({"zero_optimization": {"reduce_buckets": 1}}, "zero_optimization.reduce_buckets is unknown"),
        ({"steps_per_print": "auto"}, "steps_per_print='auto': no key decides it"),
        ({"steps_per_print": 0}, "steps_per_print=0 should be a number of at least 1, or null"),
        ({"steps_per_print": "often"}, "steps_per_print='often' should be a number of at least 1, or null"),
        (
            {"zero_optimization": {"allgather_bucket_size": 1001}},
            "zero_optimization.allgather_bucket_size=1001 should be an even number of at least 2",
        ),
        ({"zero_optimization": {"allgather_bucket_size": 0}}, "allgather_bucket_size=0 should be an even number"),
        ({"prescale_gradients": True}, "prescale_gradients=True contradicts engine.name=deepspeed, which makes it False"),
        ({"gradient_predivide_factor": 2}, "gradient_predivide_factor=2 contradicts engine.name=deepspeed, which makes it 1.0"),
        ([1], "holds a list, not a JSON object"),
    ],
)
def test_a_contradiction_names_both(tmp_path: Path, given: Any, line: str) -> None:
    with pytest.raises(UserError) as caught:
        settings_of(engine__deepspeed_config=file_of(tmp_path, given), engine__zero__stage=2, engine__zero__offload="none")
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"stage": 7}, "zero_optimization.stage=7 should be one of 0, 1, 2, 3"),
        ({"stage": "two"}, "zero_optimization.stage='two' should be one of"),
        ({"stage": 2, "offload_optimizer": {"device": "nvme"}}, "offload_optimizer.device='nvme' should be one of none, cpu"),
    ],
)
def test_stages_and_devices_that_we_do_not_know(tmp_path: Path, given: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        settings_of(engine__deepspeed_config=file_of(tmp_path, {"zero_optimization": given}))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"engine.name": "ddp", "engine.zero.stage": 1}, "engine.zero.stage: acts with engine.name=deepspeed only"),
        (
            {"engine.name": "ddp", "engine.deepspeed_config": "x.json"},
            "engine.deepspeed_config: acts with engine.name=deepspeed",
        ),
        ({"engine.zero.stage": 0, "engine.zero.offload": "cpu"}, "engine.zero.offload=cpu: stage 0 shares nothing out"),
        ({"engine.deepspeed_config": "none.json"}, "engine.deepspeed_config=none.json: no such file"),
        ({"train.precision": "fp64"}, "train.precision=fp64: DeepSpeed trains fp32 weights"),
        ({"train.compile": True}, "train.compile=true: goes with engine.name=ddp only"),
    ],
)
def test_what_does_not_go_together(values: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        deepspeed_settings(resolved(with_values(config_of(), values)), world_size=2)


def test_the_default_is_stage_1() -> None:
    zero = resolve_engine(config_of().engine).zero
    assert (zero.stage, zero.offload) == (1, "none")


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion", "rmsprop"])
def test_optimizers_that_step_every_weight_by_itself(name: str) -> None:
    check_flattenable(OptimConfig(name=name), STAGE_2)


@pytest.mark.parametrize("name", ["lamb", "lars", "adafactor", "adafactorbv", "muon", "adagrad"])
def test_optimizers_that_look_at_a_parameters_shape_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^optim\.name={name}: does not step every weight by itself.*engine\.zero\.stage=2"):
        check_flattenable(OptimConfig(name=name), STAGE_2)


def test_copies_of_weights_are_refused() -> None:
    with pytest.raises(UserError, match=r"^optim\.name=sgd with optim\.lookahead=true: does not step every weight by itself"):
        check_flattenable(OptimConfig(lookahead=True), STAGE_2)


def test_without_deepspeed_its_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("deepspeed") is None:  # importing it would change the process
        pytest.skip("DeepSpeed is not installed")
    check_installed(config_of())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    check_installed(Config())
    with pytest.raises(UserError, match="needs DeepSpeed, which is not installed here: pip install deepspeed ninja, or ddp"):
        check_installed(config_of())
