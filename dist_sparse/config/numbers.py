"""Kinds of numbers that keys take, and how strictly sections are read."""

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)

Fraction = Annotated[float, Field(ge=0, le=1)]
Density = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]


def _for_float32(rate: float) -> float:
    if rate > 1e30:
        raise ValueError("should be at most 1e30")
    return rate


Rate = Annotated[Positive, AfterValidator(_for_float32)]
LeastRate = Annotated[NonNegative, AfterValidator(_for_float32)]
"""A learning rate. Steps are made in float32, which has no room for more than 3e38."""
