"""Scores of weights and gradients."""

import torch

from dist_sparse.sparsity import scores


def test_magnitude_is_absolute_and_leaves_its_input_alone() -> None:
    tensor = torch.tensor([-2.0, 0.5, torch.nan, -torch.inf], requires_grad=True)
    score = scores.magnitude(tensor)
    assert score.tolist() == [2.0, 0.5, 0.0, torch.inf]
    assert not score.requires_grad
    assert tensor[0].item() == -2.0 and tensor[2].isnan()


def test_random_draws_from_its_generator_alone() -> None:
    shape = torch.Size((3, 7))
    first = scores.random(shape, torch.Generator().manual_seed(1))
    torch.rand(5)
    assert torch.equal(first, scores.random(shape, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, scores.random(shape, torch.Generator().manual_seed(2)))
    assert first.shape == shape and (first >= 0).all()
