"""The package's requirements and the constraints that pin them."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONSTRAINTS = (ROOT / "launchers/constraints.txt").read_text(encoding="utf-8")


def names(text: str) -> set[str]:
    """Normalised project names at the beginning of the lines."""
    found = re.findall(r"^\s*([A-Za-z0-9][\w.-]*)", text, flags=re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def required() -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"].values()
    return names("\n".join([setup["options"]["install_requires"], *extras]))


def test_every_requirement_is_pinned() -> None:
    pinned = names("\n".join(re.findall(r"^\S+(?===)", CONSTRAINTS, flags=re.MULTILINE)))
    assert {"torch", "pytest", "deepspeed"} <= required()
    assert required() <= pinned


def test_constraints_name_no_place_to_download_from() -> None:
    assert "://" not in CONSTRAINTS
    assert not re.search(r"^\s*-", CONSTRAINTS, flags=re.MULTILINE)
