"""What the README says that the code can tell."""

import re

from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.combinations import table
from tests.command import ROOT

README = (ROOT / "README.md").read_text()


def test_the_table_of_structures_is_the_code_s() -> None:
    between = re.search(r"<!-- structures: .*? -->\n(.*?)<!-- end of structures -->", README, re.DOTALL)
    assert between is not None
    assert between[1].strip() == table(), "python -m dist_sparse.sparsity.methods prints the table as it is now"


def test_every_method_is_in_the_table_of_methods() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", README, re.MULTILINE)
    assert set(METHODS) <= {name for row in rows for name in re.findall(r"\w+", row)}
