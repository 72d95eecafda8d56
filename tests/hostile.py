"""Files that no program should trip over: what each holds, by name. All are refused in one line, and none is waited for."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.privileges import unprivileged

DEEP = 300
LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40))])

YAML: dict[str, tuple[bytes, int | None]] = {
    "an anchor in itself": (b"model.kwargs: &a\n  x: [1, *a]\n", 2),
    "a merge with itself": (b"model.kwargs: &a {<<: *a, x: 1}\n", 1),
    "a section in itself": (b"train: &a\n  epochs: 1\n  compile: *a\n", 3),
    "nested lists": (b"seed: 1\nmodel.kwargs: {a: " + b"[" * DEEP + b"]" * DEEP + b"}\n", 2),
    "open lists": (b"model.kwargs: {a: " + b"[" * 100_000, 1),
    "nested mappings": (b"".join(b" " * n + b"a:\n" for n in range(DEEP)), 50),
    "a list as key": (b"seed: 1\n? [a, b]\n: 1\n", 2),
    "a mapping as key in a section": (b"train:\n  ? {a: b}\n  : 1\n", 2),
    "a list as key in a merge": (b"train:\n  <<: {? [a] : 1}\n", 2),
    "a list as key of a value": (b"model.kwargs: {? [a] : 1}\n", 1),
    "no bool": (b"train.compile: !!bool maybe\n", 1),
    "no int": (b"seed: !!int few\n", 1),
    "no float": (b"optim.lr: !!float fast\n", 1),
    "no timestamp": (b"name: !!timestamp then\n", 1),
    "no base64": (b"name: !!binary '='\n", 1),
    "bytes": (b"name: !!binary aGVsbG8=\n", 1),
    "a set": (b"model.kwargs: {a: !!set {b}}\n", 1),
    "a function": (b"seed: 1\nname: !!python/name:os.system x\n", 2),
    "a NUL": (b"seed: 1\nname: a\0b\n", 2),
    "an escaped NUL": (b'seed: 1\nname: "a\\0b"\n', 2),
    "an escaped NUL in a path": (b'seed: 1\noutput: "a\\0b"\n', 2),
    "an escaped NUL in a base": (b'base: "a\\0b"\n', None),
    "half a character": (b'seed: 1\nname: "a\\uD800b"\n', 2),
    "half a character in a value": (b'seed: 1\nmodel.kwargs: {"\\uD800": 1}\n', 2),
    "laughs": (LAUGHS.encode(), 10),
    "laughs in merges": (b"a: &a {x: 1}\n" + b"".join(b"b%d: {<<: [%s]}\n" % (n, b"*a, " * 400) for n in range(300)), None),
    "latin-1": ("seed: 1\nname: é\n".encode("latin-1"), 2),
    "utf-16": ("seed: 1\n".encode("utf-16"), 1),
    "bytes that are no text": (b"\xff\xfe\x00", 1),
    "a huge whole number": (b"seed: 1\ntrain.epochs: 1" + b"0" * 5000 + b"\n", 2),
    "a large whole number": (b"train.epochs: 1" + b"0" * 1000 + b"\n", 1),
    "a huge length": (b"checkpoint.every: 1" + b"0" * 5000 + b"\n", 1),
    "an endless exponent": (b"checkpoint.every: 1e99999999999999999999 epochs\n", 1),
    "a huge rate": (b"optim.lr: 1" + b"0" * 5000 + b".0\n", 1),
    "infinity": (b"seed: 1\noptim.lr: .inf\n", 2),
    "no number": (b"optim.lr: .nan\n", 1),
    "a key twice": (b"seed: 1\nseed: 2\n", 2),
    "a tab": (b"train:\n\tepochs: 1\n", 2),
    "a list": (b"- 1\n", None),
    "a scalar": (b"42\n", None),
    "two documents": (b"seed: 1\n---\nseed: 2\n", 2),
    "too long": (b"# comment\n" * 200_000, None),
}
"""YAML files, and the line that the message names; None where it is the whole file."""

JSON: dict[str, bytes] = {
    "nothing": b"",
    "lists": b"[" * 5_000 + b"]" * 5_000,
    "deep": b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "open": b'{"a": ' + b"[" * 100_000,
    "a key twice": b'{"seed": 1, "seed": 2}',
    "a huge number": b'{"seed": 1' + b"0" * 5000 + b"}",
    "a list": b"[1]",
    "latin-1": '{"name": "é"}'.encode("latin-1"),
    "utf-16": '{"seed": 1}'.encode("utf-16"),
    "a NUL": b'{"name": "a\\u0000b"}',
    "half a character": b'{"name": "a\\ud800b"}',
    "cut off": b'{\n"seed": 1,\n',
    "too long": b" " * 2_000_000 + b"{}",
}
"""JSON files that are no configuration."""


@contextlib.contextmanager
def places(folder: Path) -> Iterator[dict[str, Path]]:
    """Paths at which something lies that is no readable file, or nothing."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "locked").write_text("seed: 1\n")
    (folder / "loop").symlink_to("loop")
    (folder / "file").touch()
    with unprivileged(folder / "locked"):
        yield {
            "nothing": folder / "nothing",
            "a folder": folder / "folder",
            "a pipe": folder / "pipe",
            "a device": Path("/dev/zero"),
            "a loop of links": folder / "loop",
            "below a file": folder / "file" / "x",
            "a long name": folder / ("x" * 300),
            "a long path": folder / ("x/" * 3000),
            "no permission": folder / "locked",
        }
