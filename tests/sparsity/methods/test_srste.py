"""SR-STE: masks that follow the dense weights, and a gradient that reaches all of them."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.config.sparsity import SparsityConfig, SrsteConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.initial import best_units
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.sparsity.structures import NM

LABELS = torch.arange(6) % 4


def config(decay: float = 2e-4, structure: str = "nm:1:4", **keys: Any) -> SparsityConfig:
    return SparsityConfig(method="srste", structure=structure, srste=SrsteConfig(decay=decay), **keys)


def srste(small_run, decay: float = 2e-4, *, momentum: float = 0.0, **keys: Any):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=momentum)
    return small_run(model, optimizer, config(decay), **keys)


def images(number: int) -> Tensor:
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(number))


def test_a_step_is_the_papers(small_run) -> None:
    run = srste(small_run, decay=0.1)
    for step in range(6):
        weights = [run.engine.weight(name).clone() for name in ("0.weight", "2.weight")]
        biases = [run.engine.model[number].bias.detach().clone() for number in (0, 2)]
        masks = [best_units(weight.abs(), 1, NM(1, 4)) for weight in weights]
        assert all(torch.equal(run.method.masks[name], mask) for name, mask in zip(run.method.masks.names, masks, strict=True))
        masked = [(weight * mask).requires_grad_() for weight, mask in zip(weights, masks, strict=True)]
        hidden = torch.relu(images(step) @ masked[0].T + biases[0])
        nn.functional.cross_entropy(hidden @ masked[1].T + biases[1], LABELS).backward()
        run.step(images(step), LABELS)
        for name, weight, mask, through in zip(run.method.masks.names, weights, masks, masked, strict=True):
            expected = weight - 0.5 * (through.grad + 0.1 * ~mask * weight)
            assert torch.allclose(run.engine.weight(name), expected, atol=1e-6)
            assert through.grad[~mask].any()


def test_masks_move_and_every_group_keeps_n(small_run) -> None:
    run = srste(small_run)
    digests = {run.method.digest()}
    for step in range(20):
        decision = run.step(images(step), LABELS)
        assert not decision.updates_masks and run.method.gradient_masks(run.number) is None
        digests.add(run.method.digest())
        for name in run.method.masks.names:
            assert (NM(1, 4).active(run.method.masks[name]).sum(1) == 1).all()
    assert len(digests) > 3


def test_decay_holds_the_choice(small_run) -> None:
    """The paper's reason for it: fewer changes of the masks."""
    changes = {}
    for decay in (0.0, 0.5):
        run, changes[decay] = srste(small_run, decay), 0
        for step in range(40):
            before = run.method.masks["0.weight"]
            run.step(images(step), LABELS)
            changes[decay] += int((before ^ run.method.masks["0.weight"]).sum())
    assert changes[0.5] < changes[0.0]


def test_the_view_is_masked_and_leaves_the_weights(small_run) -> None:
    run = srste(small_run)
    run.step(images(0), LABELS)
    before = copy.deepcopy(run.engine.model.state_dict())
    (network,) = run.method.networks()
    with network.applied():
        assert all(not run.engine.weight(name)[~network.masks[name]].any() for name in network.masks.names)
    after = run.engine.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert after["0.weight"][~network.masks["0.weight"]].all()


def test_overflow_moves_nothing(small_run) -> None:
    run = srste(small_run, precision="fp16", momentum=0.9)
    run.step(images(0), LABELS)
    before, digest = copy.deepcopy(run.engine.model.state_dict()), run.method.digest()
    run.step(images(1) * 1e30, LABELS)
    assert all(torch.equal(value, before[name]) for name, value in run.engine.model.state_dict().items())
    assert run.method.digest() == digest
    run.step(images(2), LABELS)
    assert run.method.digest() != digest or not torch.equal(run.engine.weight("0.weight"), before["0.weight"])


def test_it_goes_on_from_its_own_state(small_run) -> None:
    whole, saved, resumed = (srste(small_run, momentum=0.9) for _ in range(3))
    for step in range(9):
        whole.step(images(step), LABELS)
    for step in range(4):
        saved.step(images(step), LABELS)
    resumed.engine.load_state_dict(copy.deepcopy(saved.engine.state_dict()))
    resumed.method.load_state_dict(copy.deepcopy(saved.method.state_dict()))
    resumed.method.start()
    for step in range(4, 9):
        resumed.step(images(step), LABELS)
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.engine.model.parameters(), whole.engine.model.parameters(), strict=True)
    )
    assert resumed.method.digests() == whole.method.digests()


@pytest.mark.parametrize("structure", ["unstructured", "fan_in"])
def test_only_n_of_m(structure: str) -> None:
    with pytest.raises(UserError, match=r"cannot go with sparsity\.method=srste: its masks keep N of M weights: structure nm"):
        resolve(config(structure=structure))
