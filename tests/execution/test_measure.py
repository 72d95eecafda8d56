"""Measuring a network leaves it as it was."""

import torch
from torch import nn

from dist_sparse.execution.measure import network_seconds


def test_statistics_gradients_and_draws_are_as_before() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    model[0].weight.grad = kept = torch.ones(4, 3, 3, 3)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert network_seconds(model, lambda: model(torch.rand(2, 3, 8, 8)).square().mean().backward()) > 0
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert model[0].weight.grad is kept and model[0].bias.grad is None
    assert torch.equal(kept, torch.ones(4, 3, 3, 3))
