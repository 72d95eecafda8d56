import re

import pytest

from dist_sparse.config import parse_args
from dist_sparse.config.help import format_help
from dist_sparse.config.schema import Config
from dist_sparse.config.tree import leaves, sections
from dist_sparse.errors import UserError


def entry(text: str, key: str) -> str:
    """A key's line and its description."""
    tail = text[text.index(f"  --{key} ") + 2 :]
    lines = tail.splitlines()
    end = next((n for n, line in enumerate(lines[1:], 1) if not line.startswith(" " * 10)), len(lines))
    return " ".join(line.strip() for line in lines[:end])


def test_every_key_has_meaning_kind_and_default():
    text = format_help(width=10**6)
    for key in leaves():
        found = entry(text, key)
        assert len(found.split()) > 3, key
    assert entry(text, "optim.lr") == (
        "--optim.lr NUMBER > 0 Peak learning rate, at `optim.lr_batch_size` samples a step if that is given. [default: 0.1]"
    )
    assert entry(text, "sparsity.distribution").startswith("--sparsity.distribution erk|er|uniform|table ")
    assert entry(text, "scheduler.warmup").startswith("--scheduler.warmup LENGTH ")
    assert entry(text, "data.image_size").startswith("--data.image_size INT >= 1 ")
    assert entry(text, "sparsity.keep_dense").startswith("--sparsity.keep_dense LIST of TEXT ")


def test_it_names_what_the_registries_hold():
    from dist_sparse.engines import ENGINES
    from dist_sparse.sparsity.methods import METHODS
    from dist_sparse.sparsity.structures import STRUCTURES

    text = format_help(width=10**6)
    for key, registry in (("sparsity.method", METHODS), ("engine.name", ENGINES)):
        names = entry(text, key).partition(" TEXT ")[2].partition(".")[0]
        assert set(re.findall(r"\w+", names)) - {"or"} == set(registry)
    structures = entry(text, "sparsity.structure").partition(": ")[2].partition(".")[0]
    assert structures.split(", ") == [cls.example for cls in STRUCTURES.values()]


def test_every_key_and_section_is_documented():
    from dist_sparse.config.help import described_keys

    undocumented = [key for key, schema in described_keys().items() if not schema.get("description")]
    assert not undocumented
    assert set(described_keys()) == set(leaves()) | set(sections())


@pytest.mark.parametrize("width", [80, 120])
def test_wrapped(width):
    lines = format_help(width=width).splitlines()
    assert max(map(len, lines)) <= width


def test_filtered():
    text = format_help("sparsity.update")
    assert "--sparsity.update.interval" in text
    assert "--sparsity.density" not in text
    assert "Usage" not in text
    assert format_help("optim.lr").count("  --") == 1
    with pytest.raises(UserError, match="did you mean sparsity"):
        format_help("sparsty")


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--seed=x", "--help"], ["--help", "optim"], ["--help=optim"]])
def test_help_prints_and_leaves(argv, capsys):
    with pytest.raises(SystemExit) as left:
        parse_args(argv)
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "--optim.lr" in shown
    assert ("--sparsity.density" in shown) == ("optim" not in "".join(argv))


def test_defaults_are_valid():
    from pydantic import TypeAdapter

    from dist_sparse.config import to_flat

    assert TypeAdapter(Config).validate_python(TypeAdapter(Config).dump_python(Config())) == Config()
    assert to_flat(Config())
