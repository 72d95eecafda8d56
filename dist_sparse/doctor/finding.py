"""What one check found, as a line; a check that fails is a line as well. Secrets are not shown, wherever they come up."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dist_sparse.errors import one_line

Status = Literal["ok", "note", "slow", "broken"]
"""note: fine as it is, something more could be had; slow: training works, but worse than it could; broken: it will fail."""

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 6
_MOST_LETTERS = 300


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line: what was looked at, what was found, and what to do where that falls short (else empty)."""

    name: str
    status: Status
    text: str
    advice: str = ""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Finding":
        """From plain values, as a child process hands them over."""
        return cls(name=found["name"], status=found["status"], text=found["text"], advice=found["advice"])

    def as_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)


Check = Callable[[], Iterable[Finding]]
"""It looks at one thing, and may fail in any way."""


def look(name: str, check: Check) -> Iterator[Finding]:
    """What a check finds, cleaned of secrets; that it fails is a finding of its own, under the check's ``name``."""
    try:
        for finding in check():
            yield clean(finding)
    except Exception as error:
        # Not a reason to go no further, and not one to call the machine broken: what is needed has checks that say so.
        text = f"could not be looked at ({type(error).__name__}: {error})"
        yield clean(Finding(name=name, status="note", text=text, advice="a defect of the doctor: report it with this line"))


def clean(finding: Finding) -> Finding:
    """The finding on one line each, without the values of secrets that the environment holds."""
    return dataclasses.replace(finding, text=without_secrets(finding.text), advice=without_secrets(finding.advice))


def without_secrets(text: str) -> str:
    """The text with ``***`` for each value of an environment variable whose name says that it is secret."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    # An address with a password: http://user:password@host
    text = re.sub(r"(\w+://)[^\s/@]+@", r"\1***@", text)
    text = one_line(" ".join(text.split()))
    return text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 3] + "..."


def size(number: float) -> str:
    """Bytes in words: ``1.5 GB``."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= scale:
            return f"{number / scale:.4g} {unit}"
    return f"{number / 1e3:.4g} KB"
