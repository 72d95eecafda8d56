"""A tensor held as its entries."""

import torch

from dist_sparse.sparsity.entries import Entries


def test_entries_are_those_of_the_tensor_and_all_others_are_0() -> None:
    tensor = torch.tensor([[0.0, -1.0, 2.0], [torch.nan, 3.0, -0.0]])
    where = torch.tensor([[True, True, False], [True, False, True]])
    held = Entries.of(tensor, where)
    assert held.positions.tolist() == [1, 3]  # no zeros
    expected = torch.tensor([[0.0, -1.0, 0.0], [torch.nan, 0.0, 0.0]])
    torch.testing.assert_close(held.whole(), expected, rtol=0, atol=0, equal_nan=True)


def test_a_transposed_tensor_lies_where_it_should() -> None:
    tensor = torch.arange(6.0).view(2, 3).t()
    assert torch.equal(Entries.of(tensor, tensor > 2).whole(), tensor * (tensor > 2))
