"""Lengths of training, written with their unit: ``500 steps``, ``5 epochs`` or ``75%`` of the run."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

Unit = Literal["steps", "epochs", "run"]

_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(steps?|st|epochs?|ep|%)\s*")
_UNITS: dict[str, Unit] = {"st": "steps", "ep": "epochs", "%": "run"}
_MOST = 1e12
_ACCEPTED = "a whole number of steps, '500 steps', '5 epochs' or '75%' of the run"


@dataclass(frozen=True)
class Length:
    """A length of training. ``value`` counts optimizer steps or epochs, or is a fraction of the run (0 to 1)."""

    value: float
    unit: Unit

    def steps(self, steps_per_epoch: int, total_steps: int) -> int:
        """The length in optimizer steps, rounded to the nearest."""
        scale = {"steps": 1, "epochs": steps_per_epoch, "run": total_steps}[self.unit]
        return round(self.value * scale)

    def __str__(self) -> str:
        # Decimal, so that the text reads back as the very same value.
        value = Decimal(repr(self.value)) * (100 if self.unit == "run" else 1)
        number = f"{value.normalize():f}"
        return f"{number}%" if self.unit == "run" else f"{number} {self.unit}"


def parse_length(value: Any) -> Length:
    """Read a length from a YAML or command line value; a bare whole number counts steps."""
    if isinstance(value, Length):
        return value
    text = str(value)
    if text.strip().isdecimal() and not isinstance(value, bool):
        text += " steps"
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"should be {_ACCEPTED}")
    if float(match[1]) > _MOST:
        raise ValueError("should be at most 1e12")
    number = Decimal(match[1] if float(match[1]) else 0)  # which has room for 1e-999999, and no more
    unit = _UNITS.get(match[2], "epochs" if match[2].startswith("epoch") else "steps")
    if unit == "run":
        number /= 100
        if number > 1:
            raise ValueError("should be at most 100% of the run")
    if unit == "steps" and number % 1:
        raise ValueError("should be a whole number of steps")
    return Length(float(number), unit)


Duration = Annotated[
    Length,
    BeforeValidator(parse_length),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "format": "duration"}),
]
"""The field type of a :class:`Length` in the configuration."""


def _longer_than_nothing(length: Length) -> Length:
    if length.value <= 0:
        raise ValueError("should be longer than 0")
    return length


Interval = Annotated[Duration, AfterValidator(_longer_than_nothing)]
"""The field type of a :class:`Length` after which something happens again."""
