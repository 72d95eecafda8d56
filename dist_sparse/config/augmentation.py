"""The words for automatic augmentation, which are timm's."""

import re
from typing import Annotated

from pydantic import AfterValidator

_NUMBER = r"\d+(\.\d*)?"
_PART = r"(0(\.\d*)?|1(\.0*)?)"
"""A number from 0 to 1."""
_POLICIES = {
    "rand": rf"m\d+|n[1-9]|p{_PART}|mstd{_NUMBER}|mmax[1-9]\d*|inc[01]|t(weights|3aw|3a)",
    "augmix": rf"m\d+|w[1-9]|d[1-9]|a(?!0*\.?0*$){_NUMBER}|b[01]|mstd{_NUMBER}",
    **dict.fromkeys(("original", "originalr", "v0", "v0r", "3a"), f"mstd{_NUMBER}"),
    "trivial": "",
}
"""Which sections, parted by dashes, may follow a policy's name."""


def _checked(text: str) -> str:
    name, *sections = text.split("-")
    if name not in _POLICIES:
        raise ValueError(f"should begin with one of {', '.join(_POLICIES)}, as in rand-m9-mstd0.5-inc1 or augmix-m5-w4-d2")
    if unknown := [section for section in sections if not re.fullmatch(_POLICIES[name], section)]:
        raise ValueError(f"{_known(name)}, and none of them is {' or '.join(map(repr, unknown))}")
    return text


def _known(name: str) -> str:
    examples = {"rand": "rand-m9-n2-p0.5-mstd0.5-mmax10-inc1-tweights", "augmix": "augmix-m3-w3-d2-a1-b0-mstd0.5"}
    if name == "trivial":
        return "should be trivial alone, since it has no sections"
    return f"should have timm's sections, as in {examples.get(name, f'{name}-mstd0.5')}"


AutoAugment = Annotated[str, AfterValidator(_checked)]
"""A policy of timm's, or torchvision's TrivialAugmentWide as ``trivial``."""


def replaces_jitter(policy: str | None) -> bool:
    """A policy takes the place of colour jitter, except for the three-augment, which timm combines with it."""
    return policy is not None and "3a" not in policy
