"""CITATION.cff names the papers that the code names, in the Citation File Format 1.2.0."""

import re

import pytest
import yaml

import dist_sparse
from tests.command import ROOT

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
CITED = set(re.findall(r"\d{4}\.\d{5}", str([entry.get("url") for entry in CITATION["references"]])))
METHODS = sorted((ROOT / "dist_sparse/sparsity/methods").glob("**/*.py"))


def test_the_software_is_named_as_it_is() -> None:
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["version"] == dist_sparse.__version__
    assert CITATION["license"] == "MIT"
    assert "the dist_sparse authors" in (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("entry", CITATION["references"], ids=lambda entry: entry["notes"])
def test_a_paper_has_what_a_reference_needs(entry: dict) -> None:
    assert entry["type"] in ("article", "conference-paper")
    assert entry["title"] and isinstance(entry["year"], int)
    assert entry["authors"] and all(author.keys() == {"family-names", "given-names"} for author in entry["authors"])


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_the_papers_of_a_method_are_cited(path) -> None:
    assert set(re.findall(r"\b\d{4}\.\d{5}\b", path.read_text(encoding="utf-8"))) <= CITED
