"""Docstrings are sentences with a subject."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_no_docstring_begins_with_a_word_that_leaves_its_subject_out() -> None:
    """``Of a layer: ...`` under a name makes the reader put the sentence together."""
    files = [path for folder in ("dist_sparse", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 500
    without = re.compile(r'^\s*"""Of\b.*', flags=re.MULTILINE)
    assert [(path.name, *found) for path in files if (found := without.findall(path.read_text(encoding="utf-8")))] == []
