"""Triton's kernels in its interpreter, which an environment variable has to ask for before Triton is imported: on their own."""

import dataclasses
from typing import Any

from hypothesis import given, settings

from dist_sparse.execution import self_test
from dist_sparse.execution.backends import triton_backend
from dist_sparse.execution.triton_groups import TritonGroups
from tests.execution.ordinary import CONVOLUTION, LINEAR, check_convolution, check_linear, check_network


@settings(max_examples=50)
@given(**CONVOLUTION)
def test_convolutions(**case: Any) -> None:
    check_convolution(TritonGroups, **case)


@settings(max_examples=25)
@given(**LINEAR)
def test_linear_layers(**case: Any) -> None:
    check_linear(TritonGroups, **case)


def test_a_network_whose_masks_move() -> None:
    backend = dataclasses.replace(triton_backend(), device="cpu")
    self_test.check(backend)
    check_network(backend)
