"""The configurations that are shipped: each loads, says where it comes from, and shares its folder's recipe."""

import dataclasses
from pathlib import Path

import pytest

from dist_sparse.config import load_config

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("**/*.yaml"))
FOUR_METHODS = ["cifar10", "cifar100", "digits", "fashion_mnist"]
METHODS = ["dense", "static", "set", "rigl"]


def header(file: str) -> dict[str, str]:
    """The `# Key: text` lines that a file begins with; a line without a key goes on with the one before."""
    entries: dict[str, str] = {}
    key = ""
    for line in (CONFIGS / file).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.removeprefix("#").strip()
        if line.startswith("# ") and not line.startswith("#  "):
            key, _, text = text.partition(":")
        entries[key] = f"{entries.get(key, '')} {text.strip()}".strip()
    return entries


@pytest.mark.parametrize("file", FILES)
def test_loads(file: str) -> None:
    load_config(str(CONFIGS / file))


@pytest.mark.parametrize("file", FILES)
def test_header_names_source_command_hardware_and_accuracy(file: str) -> None:
    entries = header(file)
    assert list(entries) == ["Source", "Command", "Hardware", "Expected"]
    assert all(entries.values())
    assert f"--config configs/{file}" in entries["Command"]


@pytest.mark.parametrize("folder", FOUR_METHODS)
def test_folder_holds_the_four_methods_on_one_recipe(folder: str) -> None:
    recipes = []
    for method in METHODS:
        config = load_config(str(CONFIGS / folder / f"{method}.yaml"))
        assert config.sparsity.method == method
        assert config.data.name == folder
        assert config.name == f"{folder}-{method}"
        recipes.append(dataclasses.replace(config, name="", sparsity=type(config.sparsity)()))
    assert recipes.count(recipes[0]) == len(METHODS)


@pytest.mark.parametrize("folder", FOUR_METHODS)
def test_sparse_methods_of_a_folder_differ_in_the_method_alone(folder: str) -> None:
    updates = [load_config(str(CONFIGS / folder / f"{method}.yaml")).sparsity for method in ("set", "rigl")]
    assert dataclasses.replace(updates[0], method="rigl") == updates[1]
