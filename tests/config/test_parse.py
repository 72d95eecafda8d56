import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_sparse.config import Config, Length, annotated, dump_config, load_config, parse_args, to_flat, with_values
from dist_sparse.config.recipes import FOLDER
from dist_sparse.config.tree import leaves
from dist_sparse.errors import UserError


def changed(config: Config) -> dict:
    """The keys that differ from the defaults."""
    default = to_flat(Config())
    return {key: value for key, value in to_flat(config).items() if value != default[key]}


def message(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_args(argv)
    return str(caught.value)


FORMS = [
    # the forms of a W&B agent: ${args}, ${args_no_hyphens}, ${args_no_boolean_flags}, ${args_no_equals}, ${args_json}, Hydra's
    (["--sparsity.density=0.1"], {"sparsity.density": 0.1}),
    (["sparsity.density=0.1"], {"sparsity.density": 0.1}),
    (["--train.compile", "--data.download", "--seed=3"], {"train.compile": True, "data.download": True, "seed": 3}),
    (["--sparsity.density", "0.1", "--train.compile", "True"], {"sparsity.density": 0.1, "train.compile": True}),
    (["--data.augment", "off", "--seed", "0"], {"data.augment": False}),
    (["--data.augment", "False", "--seed", "-3"], {"data.augment": False, "seed": -3}),
    (['{"sparsity.density": 0.1, "train": {"compile": true}}'], {"sparsity.density": 0.1, "train.compile": True}),
    (["+seed=3", "++sparsity.density=0.1"], {"seed": 3, "sparsity.density": 0.1}),
    # a flag that stands alone before words of other forms
    (["--train.compile", "seed=3"], {"train.compile": True, "seed": 3}),
    (["--train.compile", '{"seed": 3}'], {"train.compile": True, "seed": 3}),
    # Python's str() of a value, and the spellings of YAML and JSON
    (["--optim.lr=1e-05"], {"optim.lr": 1e-05}),
    (["--train.epochs=20.0"], {"train.epochs": 20}),
    (["--data.augment=False"], {"data.augment": False}),
    (["--data.augment=false"], {"data.augment": False}),
    (["--data.flip=True", "--data.flip=None"], {}),
    (["--data.flip=True", "--data.flip=null"], {}),
    (["--output=None"], {}),
    # a key that has the word none among its own
    (["--sparsity.update.redistribution=none"], {"sparsity.update.redistribution": "none"}),
    (["--engine.zero.offload", "none"], {"engine.zero.offload": "none"}),
    (["--engine.zero.offload=cpu", "--engine.zero.offload=None"], {}),
    (["--name=None"], {"name": "None"}),
    (["--name=2024"], {"name": "2024"}),
    (["--name=1e-05"], {"name": "1e-05"}),
    (["--output=a=b"], {"output": "a=b"}),
    (["--tracking.group="], {"tracking.group": ""}),
    (["--sparsity.keep_dense=['first']"], {"sparsity.keep_dense": ["first"]}),
    (["--sparsity.keep_dense=('first', 'last')"], {"sparsity.keep_dense": ["first", "last"]}),
    (["--sparsity.keep_dense=[first, '*.downsample.*']"], {"sparsity.keep_dense": ["first", "*.downsample.*"]}),
    (["--sparsity.keep_dense=[first,*.downsample.*]"], {"sparsity.keep_dense": ["first", "*.downsample.*"]}),
    (["--sparsity.keep_dense=first"], {"sparsity.keep_dense": ["first"]}),
    (["--sparsity.keep_dense=first,last"], {"sparsity.keep_dense": ["first", "last"]}),
    (["--sparsity.keep_dense=first", "--sparsity.keep_dense=[]"], {}),
    (["--tracking.tags=2024"], {"tracking.tags": ["2024"]}),
    # lengths
    (["--sparsity.update.interval=100"], {"sparsity.update.interval": "100 steps"}),
    (["--sparsity.update.interval=0.5 epochs"], {"sparsity.update.interval": "0.5 epochs"}),
    (["--scheduler.milestones=[30, '50%']"], {"scheduler.milestones": ["30 steps", "50%"]}),
    (["--scheduler.milestones=50%"], {"scheduler.milestones": ["50%"]}),
    # mappings: a section, a dict key, and entries of a dict key
    (["--sparsity={'density': 0.1, 'update': {'form': 'itop'}}"], {"sparsity.density": 0.1, "sparsity.update.form": "itop"}),
    (["--sparsity={density: 0.1, update.form: itop}"], {"sparsity.density": 0.1, "sparsity.update.form": "itop"}),
    (["--model.kwargs={'width': 2, 'x': (1, None)}"], {"model.kwargs": {"width": 2, "x": [1, None]}}),
    (["--model.kwargs.width=2", "--model.kwargs.rate", "1e-3"], {"model.kwargs": {"width": 2, "rate": 1e-3}}),
    (["--model.kwargs.a.b=x", "--model.kwargs.a.c=True"], {"model.kwargs": {"a": {"b": "x", "c": True}}}),
    (["--model.kwargs={'width': 2}", "--model.kwargs={'depth': 3}"], {"model.kwargs": {"width": 2, "depth": 3}}),
    (["--model.kwargs.a.b=1", "--model.kwargs={'a': {'c': 2}}"], {"model.kwargs": {"a": {"b": 1, "c": 2}}}),
    (["--model.kwargs.width=2", "--model.kwargs={}"], {}),
    (["--sparsity.table.layer1.0.conv1=0.5"], {"sparsity.table": {"layer1.0.conv1": 0.5}}),
    # the last one wins
    (["--seed=1", "seed=2", '{"seed": 3}'], {"seed": 3}),
]


@pytest.mark.parametrize(("argv", "expected"), FORMS, ids=[" ".join(argv) for argv, _ in FORMS])
def test_override_forms(argv, expected):
    assert changed(parse_args(argv).config) == expected


def test_json_file(tmp_path):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"sparsity.density": 0.1, "name": 2024, "train.compile": True}))
    expected = {"sparsity.density": 0.1, "name": "2024", "train.compile": True}
    assert changed(parse_args([str(path)]).config) == expected


def test_every_key_accepts_the_str_of_its_default():
    for key, value in to_flat(Config()).items():
        assert changed(parse_args([f"--{key}={value}"]).config) == {}, key


def test_types_stay_exact():
    config = parse_args(["--train.epochs=3.0", "--optim.lr=1", "--scheduler.warmup=5 epochs"]).config
    assert (type(config.train.epochs), type(config.optim.lr)) == (int, float)
    assert config.scheduler.warmup == Length(5, "epochs")


LENGTH_HINT = "should be a whole number of steps, '500 steps', '5 epochs' or '75%' of the run"
ERRORS = [
    (["--optim.lr=-1"], "optim.lr=-1 (from the command line): should be greater than 0"),
    (
        ["--sparsity.ast.densities=[0.1, low]"],
        "sparsity.ast.densities[1]=low (from the command line): should be a number",
    ),
    (
        ["--sparsity.mest.keep=nan"],
        "sparsity.mest.keep[0]=nan (from the command line): should be a finite number",
    ),
    (["--sparsity.table={a: b}"], "sparsity.table.a=b (from the command line): should be a number"),
    (["--optim.lr=nan"], "optim.lr=nan (from the command line): should be a finite number"),
    (["--scheduler.min_lr=1e308"], "scheduler.min_lr=1e308 (from the command line): should be at most 1e30"),
    (["--sparsity.er_power=1e12"], "sparsity.er_power=1e12 (from the command line): should be less than or equal to 10"),
    (["--train.epochs=1.5"], "train.epochs=1.5 (from the command line): should be a whole number"),
    (["--train.epochs=few"], "train.epochs=few (from the command line): should be a whole number"),
    (["--train.compile=maybe"], "train.compile=maybe (from the command line): should be true or false"),
    (["--seed=True"], "seed=True (from the command line): should be a whole number"),
    (["--train.epochs=None"], "train.epochs=None (from the command line): should be a whole number"),
    (["--sparsity.keep_dense=None"], "sparsity.keep_dense=None (from the command line): should be a list"),
    (["--tracking.tags", "null"], "tracking.tags=null (from the command line): should be a list"),
    (['{"sparsity.keep_dense": null}'], "sparsity.keep_dense=null (from the command line): should be a list"),
    (
        ["--sparsity.distribution=er1"],
        "sparsity.distribution=er1 (from the command line): should be 'erk', 'er', 'uniform' or 'table'",
    ),
    (
        ["--scheduler.milestones=[30, x]"],
        f"scheduler.milestones[1]=x (from the command line): {LENGTH_HINT}",
    ),
    (["--sparsity.table.fc=3"], "sparsity.table.fc=3 (from the command line): should be less than or equal to 1"),
    (["--sparsity.table={'fc': 3}"], "sparsity.table.fc=3 (from the command line): should be less than or equal to 1"),
    (['{"seed": "x"}'], "seed=x (from the command line): should be a whole number"),
    (['{"model.kwargs": [1]}'], "model.kwargs=[1] (from the command line): should be a mapping"),
    (["--sparsity=3"], "sparsity=3 (from the command line): is a section; give its keys, such as sparsity.method"),
    (["--lr=1"], "lr: unknown key (from the command line); did you mean optim.lr? --help lists every key"),
    (["--optim.lr"], "--optim.lr needs a value: --optim.lr=VALUE"),
    (["--config"], "--config needs a value: --config=VALUE"),
    (["stray"], "'stray' is not understood; write --key=value (--help lists the keys)"),
    (["configs/digits/set.yaml"], "'configs/digits/set.yaml' is not understood; write --config=configs/digits/set.yaml"),
    (
        ["--config=a.yaml", "--config=b.yaml"],
        "--config is given twice; a YAML file names the file it builds on in its `base:` key",
    ),
    (["--config=missing.yaml"], f"missing.yaml: no such file; recipes are in {FOLDER}"),
    (["missing.json"], "missing.json: no such file"),
]


@pytest.mark.parametrize(("argv", "line"), ERRORS, ids=[" ".join(argv) for argv, _ in ERRORS])
def test_errors_are_one_clear_line(argv, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).touch()
    assert message(*argv) == line


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("sparsity.densty", "sparsity.density"),
        ("momentun", "optim.momentum"),
        ("sparsity.interval", "sparsity.update.interval"),
    ],
)
def test_unknown_key_names_the_nearest(key, near):
    assert near in message(f"--{key}=1")


def test_all_errors_at_once_and_no_library_leaks():
    text = message("--optim.lr=-1", "stray", "--foo.bar=1", "--train.epochs=x")
    assert len(text.splitlines()) == 4
    assert not any(word in text.lower() for word in ("pydantic", "config(", "input", "http"))
    many = message(*[f"--foo{n}=1" for n in range(20)]).splitlines()
    assert len(many) == 9
    assert many[-1] == "... and 12 more"


@pytest.mark.parametrize(
    "text", ["#", "a # b", "a: b " * 40, "x" * 300, "two\nlines " * 20, "'", '"' * 120, "- a", " #\t " * 50]
)
def test_comments_leave_the_values_as_they_are(tmp_path, text):
    config = with_values(Config(), {"tracking.group": text, "tracking.tags": [text, ""], "model.kwargs": {text: {"b": [text]}}})
    (tmp_path / "printed.yaml").write_text(printed := annotated(config, config, {"tracking.group": ["a\nfile"]}))
    assert load_config(str(tmp_path / "printed.yaml")) == config
    assert r"# a\nfile" in printed


def test_print_config_is_a_flag_of_the_invocation():
    assert parse_args(["--print-config", "--seed=1"]).print_config
    assert not parse_args(["--seed=1"]).print_config


def test_overrides_name_no_file():
    with pytest.raises(UserError, match="--config is not accepted here"):
        load_config(None, ["--config=a.yaml"])


def test_with_values_copies():
    config = load_config(None, {"model.kwargs": {"width": 2}})
    other = with_values(
        config, {"sparsity.density": 0.2, "scheduler.warmup": Length(5, "epochs"), "model": {"kwargs.depth": 3}}
    )
    assert changed(config) == {"model.kwargs": {"width": 2}}
    assert other.sparsity.density == 0.2
    assert other.scheduler.warmup == Length(5, "epochs")
    assert other.model.kwargs == {"width": 2, "depth": 3}
    with pytest.raises(UserError, match=r"sparsity\.density=2 \(from the given values\): should be less than or equal to 1"):
        with_values(config, {"sparsity.density": 2})


TEXT = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
NUMBER = st.integers(1 - 2**63, 2**63 - 1)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBER | st.floats(allow_nan=False) | st.text(TEXT, max_size=8),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(TEXT, max_size=5), each, max_size=3),
    max_leaves=6,
)


@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            "name": st.from_regex(r"[\w.-]+", fullmatch=True),
            "tracking.tags": st.lists(
                st.sampled_from(["1e-05", "on", "null", "2024-01-01", "1:30", "0x1f", "<<", "=", "~", "- a", "#"])
            ),
            "optim.lr": st.floats(0, 1e30, exclude_min=True),
            "seed": NUMBER,
            "sparsity.update.end": st.floats(0, 1).map(lambda share: Length(share, "run")),
            "scheduler.milestones": st.lists(st.floats(0, 1e3).map(lambda value: Length(value, "epochs")), max_size=3),
            "sparsity.table": st.dictionaries(st.text(TEXT, max_size=5), st.floats(0.01, 1), max_size=3),
            "model.kwargs": st.dictionaries(st.text(TEXT, max_size=5), ANYTHING, max_size=3),
        },
    )
)
@settings(max_examples=150)
def test_dump_reads_back_exactly(values, tmp_path):
    config = with_values(Config(), values)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    again = load_config(str(path))
    assert again == config
    assert dump_config(again) == dump_config(config)


def test_dump_and_flat_follow_the_schema():
    assert list(to_flat(Config())) == list(leaves())
    assert dump_config(Config()).startswith("name: run\noutput: null\nresume: never\nseed: 0\ndata:\n  name: digits\n")


def test_imports_no_torch():
    program = (
        "import sys; from dist_sparse.config import parse_args; parse_args(['--seed=1']);"
        "import dist_sparse.config.help; print(sorted({'torch', 'numpy', 'wandb'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
