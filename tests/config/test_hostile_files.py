"""Whatever a file of keys and values holds, and whatever lies in its place: one line that names it, and no waiting."""

import re
from pathlib import Path

import pytest

from dist_sparse.config import load_config, parse_args
from dist_sparse.errors import UserError
from tests import hostile
from tests.privileges import unprivileged


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_args(argv)
    (line,) = str(caught.value).splitlines()
    assert line.isprintable()
    return line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("content", "number"), hostile.YAML.values(), ids=hostile.YAML)
@pytest.mark.parametrize("place", ["the file", "its base"])
def test_yaml(here: Path, content: bytes, number: int | None, place: str) -> None:
    (here / "bad.yaml").write_bytes(content)
    (here / "top.yaml").write_text("base: bad.yaml\n")
    line = refusal(f"--config={'bad' if place == 'the file' else 'top'}.yaml")
    assert "bad.yaml" in line
    assert number is None or re.search(rf"bad\.yaml:{number}\b", line), line


@pytest.mark.parametrize("content", hostile.JSON.values(), ids=hostile.JSON)
def test_json(here: Path, content: bytes) -> None:
    (here / "bad.json").write_bytes(content)
    assert "bad.json" in refusal("bad.json")


def test_json_names_the_line(here: Path) -> None:
    (here / "bad.json").write_bytes(hostile.JSON["cut off"])
    assert refusal("bad.json").startswith("bad.json:3: not readable as JSON: ")


@pytest.mark.parametrize("form", ["--config={}", "{}.json", "base"])
def test_whatever_lies_there(here: Path, form: str) -> None:
    with hostile.places(here) as places:
        for path in places.values():
            name = str(path)
            if form == "base":
                (here / "top.yaml").write_text(f"base: {name}\n")
                line = refusal("--config=top.yaml")
            elif form.endswith(".json"):
                named = here / "place.json"
                named.unlink(missing_ok=True)
                named.symlink_to(path) if len(name) < 250 else named.touch()
                line, name = refusal(str(named)), str(named)
            else:
                line = refusal(form.format(name))
            assert name[:250] in line


def test_no_permission(here: Path) -> None:
    (here / "a.yaml").write_text("seed: 1\n")
    with unprivileged(here / "a.yaml"):
        assert refusal(f"--config={here / 'a.yaml'}").endswith("a.yaml: cannot be read: Permission denied")


def test_bases_that_multiply(here: Path) -> None:
    for number in range(40):
        (here / f"{number}.yaml").write_text(f"base: [{number + 1}.yaml, {number + 1}.yaml]\n")
    (here / "40.yaml").write_text("seed: 1\n")
    assert refusal("--config=0.yaml") == "0.yaml: builds on more than 100 files"


def test_marks_of_byte_order_and_anchors_are_fine(here: Path) -> None:
    (here / "a.yaml").write_bytes(b"\xef\xbb\xbfseed: 3\nmodel.kwargs: {a: &a [1, 2], b: *a, c: [*a, *a]}\n")
    (here / "b.json").write_bytes(b'\xef\xbb\xbf{"seed": 4}')
    assert load_config("a.yaml").model.kwargs == {"a": [1, 2], "b": [1, 2], "c": [[1, 2], [1, 2]]}
    assert load_config(None, ["b.json"]).seed == 4
    (here / "empty.yaml").touch()
    assert load_config("empty.yaml").seed == 0


DEEP = "[" * 300 + "]" * 300
WORDS = [
    [f"--model.kwargs={DEEP}"],
    ["--model.kwargs=" + "[" * 100_000],
    ["--model.kwargs=" + '{"a":' * 300 + "1" + "}" * 300],
    [f'{{"model.kwargs": {{"a": {DEEP}}}}}'],
    ['{"model.kwargs": ' + "[" * 100_000],
    ["--model.kwargs" + ".a" * 300 + "=1"],
    ["--" + "a." * 50_000 + "b=1"],
    ['{"seed": 1, "seed": 2}'],
    ['{"seed": 1' + "0" * 5000 + "}"],
    ["--seed=1" + "0" * 5000],
    ["--train.epochs=1" + "0" * 1000],
    ["--checkpoint.every=1" + "0" * 5000],
    ["--checkpoint.every=1e99999999999999999999 steps"],
    ["--plan=1" + "0" * 5000],
    ["--optim.lr=inf"],
    ["--optim.lr=nan"],
    ["--optim.lr=1e999"],
    ["--output=a\0b"],
    ["--name=a\udcffb"],
    ["--output=a\udcffb"],
    ["--data.root=a\udcffb"],
    ["--model.kwargs.a=\udcff"],
    ["--model.kwargs.\udcff=1"],
    ["--config=a\0b"],
    ["--config="],
    ["--config=~/a\0b.yaml"],
    ["--a\nb=1"],
    ["a\nb"],
    ["--seed=a\nb"],
    ["--\udcff=1"],
    ["\udcff"],
    ["\udcff.json"],
    ["a\0.json"],
    [""],
    ["--"],
    ["--=1"],
    ["=1"],
    ["="],
    ["---seed=1"],
    ["-seed=1"],
    ["--seed"],
    ["--seed="],
    ["--.=1"],
    ["--..=1"],
    ["--sparsity.=1"],
    ["--sparsity..density=1"],
    ["--name=" + "x" * 300],
    ["--name=" + "é" * 150],
    ["{"],
    ["{}{}"],
    ["--sparsity={'density': {'a': 1}}"],
    ["--sparsity=[1]"],
    ["--sparsity.table.=2"],
    ["--model.kwargs=!!bool maybe"],
    ["--model.kwargs=&a [*a]"],
]


@pytest.mark.parametrize(
    "argv", WORDS, ids=[" ".join(argv)[:40].encode("ascii", "backslashreplace").decode() for argv in WORDS]
)
def test_words(here: Path, argv: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_args(argv)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000


def test_no_python_warning_comes_with_a_literal(here: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert load_config(None, [r"--model.kwargs.a='\d'"]).model.kwargs == {"a": r"\d"}
    assert not recwarn.list
