"""What tells one data set from another: the names of its classes, and which samples it has of each in which order.

A checkpoint keeps both (tens of kilobytes for ImageNet), so that a run never goes on with permuted labels or other images.
Samples are told apart by what does not depend on where and how they lie: a file's name without its folder and ending, or the
pixels of a set that lies on the device. So a run may move from folders to shards of them.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from dist_sparse.distributed import AgreedError, everyones, from_first_rank
from dist_sparse.errors import UserError, one_line


@dataclass(frozen=True)
class Samples:
    """A split's samples in order. Empty where they are not known: in a plan, or a checkpoint from before they were kept."""

    counts: tuple[int, ...] = ()
    """Samples of each class."""
    digests: tuple[str, ...] = ()
    """A digest of each class's samples, in order."""
    order: str = ""
    """Digest of the labels in order."""

    @property
    def digest(self) -> str:
        """A digest of everything; empty where it is not known."""
        whole = " ".join((*self.digests, self.order))
        return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest() if self.order else ""


def samples_of(labels: np.ndarray, keys: Iterable[bytes | np.ndarray], classes: int) -> Samples:
    """The samples with these labels ([N] int64 below ``classes``), told apart by one of ``keys`` each."""
    digests = [hashlib.blake2b(digest_size=8) for _ in range(classes)]
    for label, key in zip(labels.tolist(), keys, strict=True):
        content = bytes(key)
        digests[label].update(b"%d:" % len(content) + content)
    return Samples(
        counts=tuple(np.bincount(labels, minlength=classes).tolist()),
        digests=tuple(digest.hexdigest() for digest in digests),
        order=hashlib.blake2b(labels.astype("<i8").tobytes(), digest_size=8).hexdigest(),
    )


IDENTITY = ("class_names", "train_samples", "val_samples")
"""The entries of a DataInfo that this module compares."""


def differences(saved: Mapping[str, Any], current: Mapping[str, Any], now: str = "now") -> list[str]:
    """All in which two data sets differ, in words.

    Both are the facts of a :class:`dist_sparse.data.batch.DataInfo` by name. ``now`` says whose the second ones are.
    """
    facts = [key for key in current if key not in IDENTITY and saved.get(key) != current[key]]
    differing = [f"{key} {saved.get(key)} ({now} {current[key]})" for key in facts]
    return [*differing, *filter(None, (other_classes(saved, current, now), other_samples(saved, current, now)))]


def check_same_on_all_ranks(facts: Mapping[str, Any]) -> None:
    """Refuse with a UserError a data set (its facts as in :func:`differences`) of which a rank sees another one. Collective.

    The ranks share out one order of samples by their positions, which in another list are those of other samples.
    """
    first = from_first_rank(facts)
    for rank, differing in enumerate(everyones(differences(facts, first, "rank 0's"))):
        if differing:
            raise AgreedError(
                f"rank {rank}'s data set is not that of rank 0: it has {', '.join(differing)}; "
                "all ranks must see the same files under data.root"
            )


def other_classes(saved: Mapping[str, Any], current: Mapping[str, Any], now: str = "now") -> str:
    """The first class in which two data sets differ, in words; empty if there is none, or if one does not know their names.

    The arguments are those of :func:`differences`.
    """
    _check_sound(saved)
    names, names_now = saved.get("class_names"), current.get("class_names")
    if not names or not names_now:
        return ""
    for number, (before, after) in enumerate(zip_longest(names, names_now, fillvalue="none")):
        if before != after:
            return f"class {number} {one_line(before)} ({now} {one_line(after)})"
    return ""


def other_samples(saved: Mapping[str, Any], current: Mapping[str, Any], now: str = "now") -> str:
    """Where two data sets first differ in their samples, in words; empty if nowhere, or if one does not know."""
    _check_sound(saved)
    names = current.get("class_names") or saved.get("class_names") or ()
    for key, split in (("train_samples", "training"), ("val_samples", "validation")):
        before, after = saved.get(key), current.get(key)
        if not before or not after or not before["order"] or not after["order"]:
            continue
        facts = zip(*(each[fact] for each in (before, after) for fact in ("counts", "digests")), strict=False)
        for number, (count, digest, count_now, digest_now) in enumerate(facts):
            name = one_line(names[number]) if number < len(names) else str(number)
            if count != count_now:
                return f"{count:,} {split} samples of class {name} ({now} {count_now:,})"
            if digest != digest_now:
                return f"other {split} samples of class {name}, or another order of them"
        if before["order"] != after["order"]:
            return f"another order of the {split} samples"
    return ""


def _check_sound(saved: Mapping[str, Any]) -> None:
    """Refuse with a UserError entries of a checkpoint that are nothing of what this module keeps there."""
    if not _are(str, saved.get("class_names") or ()):
        raise UserError("the checkpoint's entry 'data.class_names' is not a list of names")
    for key in IDENTITY[1:]:
        samples = saved.get(key) or {"counts": (), "digests": (), "order": ""}
        sound = isinstance(samples, dict) and samples.keys() >= {"counts", "digests", "order"}
        if not (sound and _are(int, samples["counts"]) and _are(str, samples["digests"]) and isinstance(samples["order"], str)):
            raise UserError(f"the checkpoint's entry 'data.{key}' is not counts and digests of samples")


def _are(kind: type, values: object) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, kind) for value in values)


def check_classes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse with a UserError a data set of other classes than those that a checkpoint's network knows."""
    differing = other_classes(saved, current)
    if not differing and saved.get("classes") != current["classes"]:
        differing = f"{saved.get('classes')} classes (now {current['classes']})"
    if differing:
        raise UserError(f"the data set has other classes than the checkpoint's, which has {differing}")


def stems(names: Iterable[bytes]) -> list[bytes]:
    """File names without folder and ending, and with no dot: what is left of them in every kind of shard."""
    bare = (name.rpartition(b"/")[2] for name in names)
    return [(name.rpartition(b".")[0] or name).replace(b".", b"_") for name in bare]
