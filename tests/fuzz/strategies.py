"""Command lines for training, drawn from the schema: a new key is among them without an edit here."""

import json
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from dist_sparse.config.duration import Length
from dist_sparse.config.tree import Leaf, leaves, sections
from tests.values import LOGGED

BASE = {
    "data.limit": 48,
    "train.batch_size": 16,
    "train.epochs": 1,
    "model.kwargs": {"width": 0.25, "blocks": 1},
    **LOGGED,
}
"""Three steps of a small network on digits; what is drawn goes over it."""

NOT_HERE = {
    "data.download": True,
    "model.pretrained": True,
    "tracking.wandb": ("auto", "online", "offline"),
    "tracking.artifacts": True,
    "train.compile": True,
    "engine.name": "deepspeed",
}
"""Values that need the network, a compiler or minutes; they have tests of their own. All others are drawn of these keys too."""

NAMES: dict[str, Sequence[str]] = {
    "data.name": ["digits", "digits", "digits", "noise", "cifar10", "image_folder", "fashion_mnist"],
    "model.name": ["cifar_resnet20", "cifar_resnet20", "test_vit", "test_resnet", "cifar_vgg"],
    "optim.name": ["sgd", "momentum", "adamw", "lamb", "lion", "muon", "adafactor", "lars", "rmsprop", "sgdp", "adabelief"],
    "scheduler.name": ["cosine", "constant", "multistep", "step", "poly", "tanh", "plateau", "exp"],
    "sparsity.method": ["rigl"],
    "sparsity.structure": ["unstructured", "block:4x1", "nm:2:4", "fan_in", "kernel", "kernel_per_filter", "channel", "filter"],
    "resume": ["auto", "never"],
}
"""Known values of text keys whose values are names, which are drawn mostly; any text is drawn too, and for all other keys."""

LARGEST = {"data.image_size": 24, "data.eval_size": 24, "data.progressive.start_size": 24, "train.epochs": 5}
"""Bounds of values that are fine in themselves and cost memory or minutes."""

KWARGS = {
    "model.kwargs": {"width": [0.25, 0.5, 0, -1, None, "wide", 1e-9], "drop_rate": [0.0, 0.5, 1.0, 2, "x"], "depth": [1, 0]},
    "optim.kwargs": {"betas": [[0.9, 0.9], [1, 1], [], 3, "x"], "eps": [1e-8, 0, -1, "x"], "nesterov": [True, False, "x"]},
}
METHODS: list[dict[str, Any]] = [
    {"sparsity.method": "dense"},
    *(
        {"sparsity.method": "static", "sparsity.density": 0.3, "sparsity.init": init}
        for init in ("random", "magnitude", "snip")
    ),
    *(
        {"sparsity.method": method, "sparsity.density": 0.3, "sparsity.update.interval": 2}
        for method in (
            "set",
            "rigl",
            "snfs",
            "granet",
            "granet_uniform",
            "gmp",
            "gmp_uniform",
            "acdc",
            "mest",
            "shuffled_block",
            "top_kast",
        )
    ),
    {"sparsity.method": "set", "sparsity.density": 0.3, "sparsity.structure": "kernel", "sparsity.update.interval": 1},
    {"sparsity.method": "rigl", "sparsity.structure": "nm:2:4", "sparsity.keep_dense": "first", "sparsity.update.interval": 2},
    {"sparsity.method": "ast", "sparsity.ast.densities": [0.5, 0.2], "sparsity.update.interval": 1, "sparsity.ast.offset": 0},
    {"sparsity.method": "srste", "sparsity.structure": "nm:2:4", "sparsity.keep_dense": "first"},
]

LENGTHS = st.sampled_from(
    ["0", "1", "2 steps", "3", "4", "1 epochs", "0.5 epochs", "0%", "50%", "66.7%", "100%", "1e12 steps", "1e-9 epochs"]
)
ODD_LENGTHS = st.sampled_from(["-1", "1.5", "101%", "1e13 steps", "soon", "1 weeks", "%", "1e999 epochs", 0.5, [1], {"a": 1}])
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), max_size=8).filter(lambda text: text != "..")
ODD = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                " ",
                "None",
                "null",
                "true",
                "inf",
                "-inf",
                "nan",
                "1e999",
                "-0.0",
                "[",
                "{",
                "[]",
                "{}",
                "[[]]",
                "a,b",
                "!!bool x",
            ),
            *(
                "&a [*a]",
                "9" * 30,
                "9" * 5000,
                "1e-400",
                "\ud800",
                "a\0b",
                "a\nb",
                "x" * 300,
                "~",
                "~/",
                ".",
                "/dev/null",
                "/proc/x",
            ),
        ]
    ),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.booleans(),
    st.none(),
    TEXT,
    st.lists(st.integers(-1, 2) | TEXT, max_size=3),
    st.dictionaries(TEXT, st.integers(-1, 2) | TEXT, max_size=2),
)
"""Values of no type in particular."""


def fine(leaf: Leaf) -> st.SearchStrategy[Any]:
    """Values that the key takes, at their bounds above all; whether they go with the others' is another matter."""
    if leaf.key in NAMES:
        values: st.SearchStrategy[Any] = st.sampled_from(NAMES[leaf.key])
    elif leaf.key in KWARGS:
        options = {name: st.sampled_from(each) for name, each in KWARGS[leaf.key].items()}
        values = st.fixed_dictionaries({}, optional=options)
    else:
        values = _of(leaf.annotation, LARGEST.get(leaf.key, 10**12))
    refused = NOT_HERE.get(leaf.key, ())
    refused = refused if isinstance(refused, tuple) else (refused,)
    return values.filter(lambda value: value not in refused or value is None)


def _of(annotation: Any, largest: float) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if arguments[0] is Length:
            return LENGTHS
        bounds = [bound for each in arguments[1:] for bound in (each.metadata if isinstance(each, FieldInfo) else [])]
        return _within(arguments[0], bounds, largest) if arguments[0] in (int, float) else _of(arguments[0], largest)
    if origin in (Union, types.UnionType):
        return st.one_of([_of(each, largest) for each in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(_of(arguments[0], largest), max_size=3)
    if origin is dict:
        return st.dictionaries(
            st.sampled_from(["*", "layer1.*", "first", "conv1", ""]) | TEXT, _of(arguments[1], largest), max_size=2
        )
    if annotation in (int, float):
        return _within(annotation, [], largest)
    plain = {bool: st.booleans(), type(None): st.none(), str: TEXT | st.sampled_from(["first", "last", "nm:1:4"]), Any: ODD}
    return plain[annotation]


def _within(kind: type, bounds: list[Any], largest: float) -> st.SearchStrategy[Any]:
    """Numbers at the bounds, a step beyond them, and between."""
    low = next((getattr(each, name) for each in bounds for name in ("ge", "gt") if hasattr(each, name)), -2)
    high = min(largest, next((getattr(each, name) for each in bounds for name in ("le", "lt") if hasattr(each, name)), largest))
    if kind is int:
        return st.sampled_from([low, low, low + 1, low + 1, low + 2, min(low + 7, high), high])
    return st.sampled_from(
        [low, low + 1e-9, low + (min(high, low + 1) - low) / 3, low + (min(high, low + 1) - low) / 2, high, 5e-324]
    )


def odd(leaf: Leaf) -> st.SearchStrategy[Any]:
    """Values that no key is meant to have, or just beyond its bounds."""
    beyond = [ODD]
    if leaf.type is Length or (leaf.is_list and Length in get_args(get_args(leaf.type)[0])):
        beyond.append(ODD_LENGTHS)
    elif leaf.type in (int, float):
        beyond.append(st.sampled_from([-1, 0, 1.0000001, 2**31, 2**63, -(10**15), 1e308, 2049, 100_001]))
    blocked = NOT_HERE.get(leaf.key, ())
    blocked = {str(each) for each in (blocked if isinstance(blocked, tuple) else (blocked,))} | (
        {"1", "yes", "on", "true"} if blocked is True else set()
    )
    largest = LARGEST.get(leaf.key)
    return st.one_of(beyond).filter(
        lambda value: (
            str(value).strip() not in blocked and (largest is None or not (isinstance(value, (int, float)) and largest < value))
        )
    )


KEYS = list(leaves())
NEAR_KEYS = st.sampled_from([*KEYS, *sections()]).map(lambda key: key[:-1]) | st.sampled_from(
    ["", ".", "seed.", "model.kwargs.", "lr"]
)


@st.composite
def commands(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """The words of a command, and the keys that it sets beyond the usual. Most are valid."""
    values = {**BASE, **draw(st.sampled_from(METHODS))}
    chosen = draw(st.lists(st.sampled_from(KEYS), max_size=2, unique=True))
    for key in chosen:
        values[key] = draw(fine(leaves()[key]))
    if draw(st.integers(0, 5)) == 5:
        key = draw(st.sampled_from(KEYS))
        values[key] = draw(odd(leaves()[key]))
        chosen.append(key)
    if draw(st.integers(0, 15)) == 15:
        key = draw(NEAR_KEYS)
        values[key] = draw(ODD)
        chosen.append(key)
    words = [word for key, value in values.items() for word in draw(_words(key, value))]
    if draw(st.integers(0, 31)) == 31:
        words.append(
            draw(
                st.sampled_from(
                    ["", "--", "--=1", "--seed", "stray", "{", "-x", "[]", "a.json", "--config=", "=", "--\udcff=1"]
                )
            )
        )
    return words, [*values]


def _words(key: str, value: Any) -> st.SearchStrategy[list[str]]:
    """In the forms that people and W&B agents write."""
    text = str(value)
    forms = [[f"--{key}={text}"], [f"--{key}={text}"], [f"{key}={text}"]]
    if key in leaves() and not text.startswith("--"):
        forms.append([f"--{key}", text])
    if not isinstance(value, str) or text.isascii():
        forms.append([json.dumps({key: value})])
    return st.sampled_from(forms)
