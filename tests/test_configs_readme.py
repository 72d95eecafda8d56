"""The table from the references' commands to ours, and that ours mean the same."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.build import resolved
from dist_sparse.config import load_config, parse_args, to_flat
from tests.shipped_configs import CONFIGS, FILES, OWN, header, is_for_any_number_of_gpus, is_of_a_reference, plan

README = (CONFIGS / "README.md").read_text(encoding="utf-8")
SCALED = [file for file in FILES if is_for_any_number_of_gpus(file)]
IN_TABLE = [file for file in FILES if file not in SCALED and Path(file).parts[0] not in OWN]
VARIANTS = re.findall(r"`--config configs/(\S+\.yaml [^`]+)`", README)


def row(file: str) -> str:
    """A configuration's row, as its header tells it."""
    entries = header(file)
    system = entries["Source"].split(",")[0] if is_of_a_reference(file) else "baseline"
    original = f"`{entries['Original']}`" if "Original" in entries else ""
    return f"| {system} | {original} | `{entries['Command']}` | {entries['Expected']} |"


def scaled_row(file: str) -> str:
    """The row of a recipe for any number of GPUs."""
    entries = header(file)
    return f"| `{file}` | {entries['Source']} | {entries['Expected']} | {entries['FLOPs']} |"


def test_table_of_recipes_for_any_number_of_gpus() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `") and ".yaml` |" in line]
    assert sorted(rows) == sorted(map(scaled_row, SCALED))


def test_list_of_the_resnet50_recipes() -> None:
    listed = re.findall(r"`(\w+)`", README.partition("The ResNet-50 recipes for ImageNet are ")[2].partition(", at their")[0])
    stems = [Path(file).stem for file in FILES if file.startswith("imagenet/resnet50/")]
    assert [stem for stem in stems if not re.match(rf"({'|'.join(listed)})(_|$)", stem)] == []
    assert [name for name in listed if not any(re.match(rf"{name}(_|$)", stem) for stem in stems)] == []


def test_table_of_the_references_commands() -> None:
    assert set(re.findall(r"configs/(\S+\.yaml)", README)) <= set(FILES)
    rows = [line for line in README.splitlines() if "torchrun" in line and line.startswith("| ")]
    assert sorted(rows) == sorted(row(file) for file in IN_TABLE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_can_start(variant: str, caplog: pytest.LogCaptureFixture) -> None:
    file, *overrides = shlex.split(variant)
    assert plan(resolved(parse_args(["--config", str(CONFIGS / file), *overrides]).config)) > 0
    assert [text for text in caplog.messages if "whole units of structure" not in text] == []


# A reference's numbers -> ours: sparsities 0.92-0.91-0.9 are densities 0.08-0.09-0.1, epochs 90-120 of 160 56.25 % and 75 %.
GRANET = {"density": 0.1, "distribution": "erk", "update.interval": "1000 steps", "update.drop_fraction": 0.5}
GRANET_IMAGENET = GRANET | {"density": 0.2, "update.interval": "4000 steps", "ramp.end": "30%"}
MEST = {"update.interval": "5 epochs", "mest.decay": ["56.25%", "75%"], "distribution": "uniform"}
EM = MEST | {"density": 0.1, "mest.keep": [0.08, 0.09, 0.1], "mest.grow_to": [0.1, 0.1, 0.1]}
EMS = MEST | {"density": 0.1, "mest.keep": [0.1, 0.1, 0.1], "mest.grow_to": [0.15, 0.125, 0.1]}
BLOCKS = {"method": "shuffled_block", "density": 0.1, "shuffled_block.size": 16, "distribution": "erk"}
DSB = BLOCKS | {"shuffled_block.dynamic": True, "update.interval": "100 steps", "update.drop_fraction": 0.3}
AST = {
    "update.interval": "999 steps",
    "update.drop_fraction": 0.5,
    "ramp.initial_density": 1.0,
}  # offsets: the reference's times K
MEANINGS: dict[str, dict[str, Any]] = {
    "cifar*/granet": GRANET | {"ramp.initial_density": 1.0, "ramp.end": "50%"},
    "cifar*/granet_05": GRANET | {"ramp.initial_density": 0.5},
    "cifar*/rigl_itop": GRANET | {"update.form": "itop", "update.growth": "gradient", "update.end": "100%"},
    "cifar*/set_itop": GRANET | {"update.form": "itop", "update.growth": "random"},
    "cifar*/mest_em": EM,
    "cifar*/mest_em_block": EM | {"structure": "block:4x1"},
    "cifar*/mest_em_pattern": EM | {"structure": "pattern"},
    "cifar*/mest_em_channel": EM | {"structure": "channel"},
    "cifar*/mest_em_95": {"density": 0.05, "mest.keep": [0.04, 0.045, 0.05], "mest.grow_to": [0.05, 0.05, 0.05]},
    "cifar*/mest_ems": EMS,
    "cifar*/mest_ems_filter": EMS | {"structure": "filter"},
    "cifar*/mest_ems_readme_block": EMS | {"structure": "block:4x1", "mest.grow_to": [0.12, 0.11, 0.1]},
    "cifar*/mest_ems_readme_pattern": EMS | {"structure": "pattern", "mest.grow_to": [0.12, 0.11, 0.1]},
    "cifar*/mest_ems_95": {"density": 0.05, "mest.keep": [0.05, 0.05, 0.05], "mest.grow_to": [0.1, 0.075, 0.05]},
    "cifar*/mest_ems_block_efficient": EMS | {"structure": "block:4x1"},
    "imagenet/granet": GRANET_IMAGENET | {"ramp.initial_density": 1.0},
    "imagenet/granet_05": GRANET_IMAGENET | {"ramp.initial_density": 0.5},
    "cifar10/ssb_wrn_22_2": BLOCKS | {"shuffled_block.dynamic": False},
    "cifar10/dsb_wrn_22_2": DSB | {"update.end": "75%"},
    "cifar100/dsb_vgg_d": DSB | {"update.end": "75%"},
    "cifar100/rigl_vgg_d": DSB | {"shuffled_block.size": 0, "update.growth": "gradient"},
    "imagenet/dsb": DSB | {"density": 0.5, "update.interval": "800 steps", "update.end": "400000 steps"},
    "tiny_imagenet/dsb": DSB | {"density": 0.25, "update.interval": "800 steps", "update.end": "76%"},
    "cifar10/ast": AST | {"ast.densities": [0.1, 0.05, 0.02], "ast.offset": "300 steps", "ramp.end": "110 epochs"},
    "cifar10/ast_nm": AST | {"ast.structures": ["nm:2:4", "nm:1:4", "nm:1:8"], "ramp.end": "150 epochs"},
    "imagenet/ast": AST | {"ast.densities": [0.5, 0.05], "update.interval": "4000 steps", "ast.offset": "800 steps"},
}
CASES = {
    key.replace("cifar*", folder): meaning
    for key, meaning in MEANINGS.items()
    for folder in (["cifar10", "cifar100"] if "*" in key else [""])
}


@pytest.mark.parametrize("name", CASES)
def test_meaning(name: str) -> None:
    config = resolved(load_config(str(CONFIGS / f"{name}.yaml")))
    flat = to_flat(config)
    assert {key: flat[f"sparsity.{key}"] for key in CASES[name]} == CASES[name]
    if name.endswith("_efficient"):
        assert (config.data.forgetting.epochs, config.data.forgetting.remove) == (70, 12_000)


def test_uneven_profile_has_its_bounds_in_proportion() -> None:
    """The table's overall density over ResNet-32's 30 convolutions of 1,843,200 weights, two of 9,216 not at 0.1."""
    overall = 0.1 + (0.3 + 0.2) * 9_216 / 1_843_200
    for mode, keep, grow_to in (("em", [0.8, 0.9, 1], [1, 1, 1]), ("ems", [1, 1, 1], [1.5, 1.25, 1])):
        mest = load_config(str(CONFIGS / f"cifar10/mest_{mode}_uneven.yaml")).sparsity.mest
        assert mest.keep == pytest.approx([overall * share for share in keep])
        assert mest.grow_to == pytest.approx([overall * share for share in grow_to])
