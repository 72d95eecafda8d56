"""Groups of 16 rows in plain torch against torch's dense layers in double precision, over random layers and masks."""

from typing import Any

import torch
from hypothesis import given, settings

from dist_sparse.execution.backends import torch_backend
from dist_sparse.execution.gathered import Gathered
from dist_sparse.execution.wide_groups import WideGroups
from tests.execution.ordinary import CONVOLUTION, LINEAR, check_convolution, check_linear, check_network


@settings(max_examples=300)
@given(**CONVOLUTION)
def test_convolutions(**case: Any) -> None:
    check_convolution(Gathered, **case)


@settings(max_examples=200)
@given(**LINEAR)
def test_linear_layers(**case: Any) -> None:
    check_linear(Gathered, **case)


def test_a_network_whose_masks_move() -> None:
    check_network(torch_backend())


def test_groups_of_rows_keep_equal_rows_together() -> None:
    """Two kinds of rows that take turns, and two rows that are like no others."""
    mask = torch.zeros(48, 130, dtype=torch.bool)
    mask[0:32:2, [1, 129]] = mask[1:32:2, [0, 64]] = True
    mask[40, 5] = mask[47, 70] = True
    groups = WideGroups.of(mask)
    assert groups.rows.tolist() == [list(range(0, 32, 2)), list(range(1, 32, 2)), list(range(32, 48))]
    assert (groups.start.tolist(), groups.column.tolist()) == ([0, 2, 4, 6], [1, 129, 0, 64, 5, 70])
    assert groups.group.tolist() == [0, 0, 1, 1, 2, 2]
