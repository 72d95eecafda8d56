import pytest

from dist_sparse.config import Config, load_config, parse_args, to_flat
from dist_sparse.errors import UserError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes YAML files into the working directory, and answers with their names as a user would type them."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    return write


def error(path: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_nested_and_dotted_keys(write):
    path = write("a.yaml", "optim: {lr: 1e-3}\nsparsity.density: 0.1\nsparsity:\n  update.interval: 5 epochs\ntrain:\n")
    config = load_config(path)
    assert (config.optim.lr, config.sparsity.density, str(config.sparsity.update.interval)) == (1e-3, 0.1, "5 epochs")


def test_overrides_win_over_the_file(write):
    path = write("a.yaml", "seed: 1\noptim: {lr: 0.5}\n")
    for argv in (["--config", path, "--seed=2"], ["--seed=2", f"--config={path}"], [f"config={path}", "seed=2"]):
        config = parse_args(argv).config
        assert (config.seed, config.optim.lr) == (2, 0.5)


def test_base_files_chain_relative_to_the_file(write):
    write("base/root.yaml", "seed: 1\nname: root\nmodel: {kwargs: {a: 1, b: 1}}\n")
    write("base/extra.yaml", "name: extra\noptim: {lr: 0.5, momentum: 0.5}\n")
    write("mid.yaml", "base: [base/root.yaml, base/extra.yaml]\nmodel: {kwargs: {b: 2}}\n")
    path = write("sub/top.yaml", "optim: {lr: 0.25}\nbase: ../mid.yaml\n")
    config = load_config(path)
    assert (config.seed, config.name, config.optim.lr, config.optim.momentum) == (1, "extra", 0.25, 0.5)
    assert config.model.kwargs == {"a": 1, "b": 2}


def test_two_paths_to_one_base_are_no_circle(write):
    write("root.yaml", "seed: 1\n")
    write("a.yaml", "base: root.yaml\n")
    write("b.yaml", "base: root.yaml\n")
    assert load_config(write("top.yaml", "base: [a.yaml, b.yaml]\n")).seed == 1


def test_scalars_mean_what_they_look_like(write):
    path = write(
        "a.yaml", "name: on\noutput: 2024-01-01\nmodel.kwargs: {a: 1e-8, b: no, c: 1:30, d: 010, e: None}\ntracking.group: 7\n"
    )
    config = load_config(path)
    assert (config.name, config.output, config.tracking.group) == ("on", "2024-01-01", "7")
    assert config.model.kwargs == {"a": 1e-8, "b": "no", "c": "1:30", "d": 10, "e": None}


def test_anchors_and_merge_keys(write):
    path = write("a.yaml", "model.kwargs: &k {a: 1, b: 1}\noptim.kwargs: {<<: *k, b: 2}\n")
    config = load_config(path)
    assert (config.model.kwargs, config.optim.kwargs) == ({"a": 1, "b": 1}, {"a": 1, "b": 2})


def test_merge_key_in_a_section(write):
    path = write("a.yaml", "train: &t {epochs: 3, compile: true}\ndata.workers: 0\n")
    assert load_config(path).train.epochs == 3
    path = write("a.yaml", "sparsity: {update: &u {interval: 3, form: itop}}\nsparsity.update.interval: 4\n")
    assert "stands twice" in error(path)
    path = write("a.yaml", "model.kwargs: &k {lr: 3, momentum: 0.5}\noptim: {<<: *k, lr: 0.25}\n")
    assert (load_config(path).optim.lr, load_config(path).optim.momentum) == (0.25, 0.5)


def test_empty_file_is_the_defaults(write):
    assert to_flat(load_config(write("a.yaml", "# nothing\n"))) == to_flat(Config())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed: 1\nseed: 2\n", "a.yaml:2: the key 'seed' stands twice"),
        ("seed: 1\nmodel:\n  kwargs: {a: 1, a: 2}\n", "a.yaml:3: the key 'a' stands twice"),
        (
            "seed: 1\nsparsity.density: 0.1\nsparsity:\n  density: 0.2\n",
            "a.yaml:4: the key 'sparsity.density' stands twice",
        ),
        ("- 1\n", "a.yaml: should be a mapping of keys to values at the top level"),
        ("seed: [1\n", "a.yaml:2: expected ',' or ']', but got '<stream end>'"),
        ("seed: !!python/name:os.system x\n", None),
        ("base: missing.yaml\n", "missing.yaml: no such file (named as base in a.yaml)"),
        ("base: a.yaml\n", "a.yaml: the base files go round in a circle: a.yaml -> a.yaml"),
        ("base: {x: 1}\n", """base={"x": 1} (from a.yaml:1): should be the path of a YAML file, or a list of paths"""),
        ("optim:\n  lr: -1\n", "optim.lr=-1 (from a.yaml:2): should be greater than 0"),
        ("optim:\n  foo: -1\n", None),
        ("seed: 1\noptim: fast\n", "optim=fast (from a.yaml:2): is a section; give its keys, such as optim.name"),
        ("data.workers: true\n", "data.workers=true (from a.yaml:1): should be a whole number"),
        ("name: [a]\n", 'name=["a"] (from a.yaml:1): should be text'),
    ],
)
def test_errors_name_file_and_line(write, text, line):
    found = error(write("a.yaml", text))
    assert "\n" not in found
    assert found.startswith(("a.yaml:1: ", "optim.foo: unknown key (from a.yaml:2)")) if line is None else found == line


def test_errors_of_file_and_command_line_together(write):
    path = write("a.yaml", "optim.lr: -1\n")
    assert [line.split("):")[0] for line in error(path, "--seed=x").splitlines()] == [
        "optim.lr=-1 (from a.yaml:1",
        "seed=x (from the command line",
    ]


def test_circle_of_three(write):
    write("b.yaml", "base: sub/c.yaml\n")
    write("sub/c.yaml", "base: ../a.yaml\n")
    assert error(write("a.yaml", "base: b.yaml\n")).endswith("a.yaml -> b.yaml -> sub/c.yaml -> a.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: \x00"])
def test_unreadable_file(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    assert "\n" not in error(str(path))


def test_a_folder_is_not_a_file(tmp_path):
    assert "cannot be read" in error(str(tmp_path))
