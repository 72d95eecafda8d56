"""Numbers as a reader wants them; a dash where there is none."""

import json
from typing import Any

NONE = "–"


def percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.2%}"


def count(number: float | None) -> str:
    if number is None:
        return NONE
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.2g}"


def duration(seconds: float | None) -> str:
    """Seconds as hours, minutes or seconds."""
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 120 else f"{minutes} min"


def size(number: float | None) -> str:
    """Bytes in decimal units."""
    if number is None:
        return NONE
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if number >= 0.9995 * factor:  # less is below 1,000 of the next unit when it is rounded, too
            return f"{number / factor:.3g} {unit}"
    return f"{number / 1e3:.1f} kB"


def value(setting: Any) -> str:
    """A value of the configuration."""
    if setting is None:
        return NONE
    return setting if isinstance(setting, str) else json.dumps(setting, ensure_ascii=False, default=str)
