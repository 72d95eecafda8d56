"""Top-KAST against a loop that is written out."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.build import resolved
from dist_sparse.checks import check_config
from dist_sparse.config import Config, with_values
from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig, TopKastConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.resolve import resolve

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01


def config() -> SparsityConfig:
    own, update = TopKastConfig(backward_density=0.5, decay=DECAY), UpdateConfig(interval=Length(2, "steps"))
    return SparsityConfig(method="top_kast", density=0.25, distribution="uniform", update=update, top_kast=own)


def largest(weight: Tensor, share: float) -> Tensor:
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[weight.abs().flatten().argsort(descending=True, stable=True)[: round(share * weight.numel())]] = True
    return mask.view_as(weight)


def test_it_is_the_loop_of_the_paper(small_run) -> None:
    torch.manual_seed(0)
    model = nn.Linear(12, 8, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    weight = model.weight.detach().clone()
    velocity, forward, backward = torch.zeros_like(weight), largest(weight, 0.25), largest(weight, 0.5)
    run = small_run(model, optimizer, config())
    moved = False
    for step in range(1, 9):
        images = torch.randn(16, 12, generator=torch.Generator().manual_seed(step))
        targets = torch.arange(16) % 8
        run.step(images, targets)

        masked = (weight * forward).requires_grad_()
        nn.functional.cross_entropy(images @ masked.T, targets).backward()
        assert masked.grad is not None
        gradient = masked.grad + DECAY * weight * torch.where(forward, 1.0, 1 / 0.25)
        velocity = MOMENTUM * velocity + gradient * backward
        weight = weight - LR * velocity * backward
        if step % 2 == 0:
            moved |= not torch.equal(forward, largest(weight, 0.25))
            forward, backward = largest(weight, 0.25), largest(weight, 0.5)
            velocity = velocity * backward
        assert torch.allclose(model.weight, weight, atol=1e-6)
        assert torch.equal(run.method.masks["weight"], forward)
        assert torch.equal(run.method.backward_masks["weight"], backward)
    assert moved


def test_a_backward_that_is_sparser_than_the_forward_is_refused() -> None:
    with pytest.raises(UserError, match=r"sparsity\.top_kast\.backward_density=0\.1 is below sparsity\.density=0\.2"):
        resolve(SparsityConfig(method="top_kast", density=0.2, top_kast=TopKastConfig(backward_density=0.1)))


@pytest.mark.parametrize(
    ("values", "cause", "cure"),
    [
        ({"optim.lookahead": True}, "lookahead=true", "lookahead=false"),
        ({"optim.lookahead": True, "optim.name": "muon"}, "name=muon", "name=sgd or adamw"),
    ],
)
def test_an_optimizer_that_moves_what_is_not_trained_is_refused(values: dict[str, Any], cause: str, cure: str) -> None:
    given = {"sparsity.method": "top_kast", "sparsity.density": 0.1, **values}
    with pytest.raises(UserError) as refused:
        check_config(resolved(with_values(Config(), given)), 1)
    moves = "cannot go with sparsity.method=top_kast: it moves weights that are not trained"
    assert str(refused.value) == f"optim.{cause} {moves}; optim.{cure} leaves them"
    check_config(resolved(with_values(Config(), {**given, "sparsity.method": "rigl"})), 1)
