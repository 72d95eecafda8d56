"""What MEST does in a run: which weights go and grow, when, and that overflow and checkpoints do not disturb it."""

import copy

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import MestConfig
from dist_sparse.errors import UserError
from dist_sparse.seeding import generator
from dist_sparse.sparsity import scores
from tests.sparsity.methods.mest_runs import EM, EMS, config, linear_run, step


def test_gradient_of_the_last_good_step_is_kept_only_when_it_counts(small_run) -> None:
    run = linear_run(small_run, EM)
    step(run)
    assert run.method.state_dict()["gradients"] == {}
    run = linear_run(small_run, MestConfig(keep=EM.keep, grow_to=EM.grow_to, removal_gradient=1.0))
    seen: list[Tensor] = []
    draws = torch.Generator().manual_seed(1)
    run.step(
        torch.randn(8, 40, generator=draws),
        torch.randint(25, (8,), generator=draws),
        on_gradients=lambda: seen.append(run.engine.grad("weight").clone()),
    )
    cached = run.method.state_dict()["gradients"]["weight"]
    assert cached.equal(seen[0]) and cached.count_nonzero()


def test_gradient_term_changes_what_is_removed(small_run) -> None:
    digests = []
    for weight in (0.0, 100.0):
        run = linear_run(small_run, MestConfig(keep=EM.keep, grow_to=EM.grow_to, removal_gradient=weight))
        for _ in range(3):
            step(run)
        digests.append(run.method.masks.digest())
    assert digests[0] != digests[1]


def test_growth_is_uniform_over_all_that_is_not_kept(small_run) -> None:
    """What was removed a moment ago grows as often as the rest: each of 16 slots, 4 of them taken a time."""
    torch.manual_seed(0)
    model = nn.Linear(20, 1, bias=False)
    bounds = MestConfig(keep=[0.2], grow_to=[0.4])
    method = small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), config(bounds, density=0.2)).method
    kept = method.masks["weight"]
    counts = torch.stack([method._grown("weight", 8, number) & ~kept for number in range(2000)]).sum(0)[~kept]
    assert int(counts.sum()) == 8000
    assert ((counts - 500) ** 2 / 500).sum() < 40  # chi-square of 15 degrees of freedom: 1 in 1000 above 37.7


def test_removed_and_grown_at_once_starts_from_zero(small_run) -> None:
    run = linear_run(small_run, MestConfig(keep=[0.5], grow_to=[1.0]), density=1.0)
    step(run), step(run)
    weight = run.engine.weight("weight")
    kept = run.method._kept("weight", 500)
    run.method.before_forward(3)
    assert run.method.masks["weight"].all()
    assert run.method.changed == {"weight": 0}
    momentum = run.per_weight_state("weight")["momentum_buffer"]
    assert kept.sum() == 500 and not weight[~kept].count_nonzero() and not momentum[~kept].count_nonzero()
    assert weight[kept].count_nonzero() == momentum[kept].count_nonzero() == 500


def test_em_never_exceeds_its_density_and_ems_reaches_it(small_run) -> None:
    for mest, expected in ((EM, [100] * 16), (EMS, [150] * 10 + [125] * 2 + [100] * 4)):
        run = linear_run(small_run, mest)
        held, updates = [], []
        for _ in range(16):
            before = run.method.masks.digest()
            decision = step(run)
            assert decision.updates_masks == (run.method.masks.digest() != before)
            held.append(run.method.masks.active()["weight"])
            updates.append(decision.updates_masks)
        assert held == expected
        last = 12 if mest is EMS else 10  # EM&S is cut back at the second decay, EM has nothing to do then
        assert [number for number, moved in enumerate(updates) if moved] == list(range(0, last + 1, 2))


def test_static_if_nothing_is_to_mutate(small_run) -> None:
    run = linear_run(small_run, MestConfig(keep=[0.1], grow_to=[0.1]))
    digest = run.method.masks.digest()
    assert not any(step(run).updates_masks for _ in range(6))
    assert run.method.masks.digest() == digest


def test_initial_mask_is_the_largest_weights(small_run) -> None:
    torch.manual_seed(0)
    weight = nn.Linear(40, 25, bias=False).weight.detach()
    mask = linear_run(small_run, EM).method.masks["weight"]
    assert int(mask.sum()) == 100
    assert weight[mask].abs().min() > weight[~mask].abs().max()


def test_micro_batches_and_overflow_do_not_move_masks_again(small_run) -> None:
    run = linear_run(small_run, EM)
    run.method.before_forward(1)
    digest = run.method.masks.digest()
    run.method.before_forward(1)
    assert run.method.masks.digest() == digest
    assert run.method.after_overflow(1).updates_masks, "the move that came before is told of, for the averaged weights"
    run.method.before_forward(2)
    assert run.method.masks.digest() == digest
    assert not run.method.after_overflow(2).updates_masks


def test_overflow_leaves_everything_alone(small_run) -> None:
    """A mutation that fell before a step which overflows has happened, once; the gradient of the good step before stays."""
    torch.manual_seed(0)
    model = nn.Linear(12, 20, bias=False)
    good, labels = torch.randn(8, 12), torch.arange(8) % 4
    mest = MestConfig(keep=[0.2], grow_to=[0.4], removal_gradient=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = small_run(model, optimizer, config(mest, density=0.3), precision="fp16")
    run.step(good, labels)
    run.step(good, labels)
    gradient = run.method.state_dict()["gradients"]["weight"].clone()
    digest = run.method.masks.digest()
    assert run.step(good * 1e30, labels).updates_masks
    after = copy.deepcopy((run.engine.model.state_dict(), run.method.state_dict()))
    assert run.method.masks.digest() != digest
    assert not run.step(good * 1e30, labels).updates_masks
    assert after[0]["weight"].equal(run.engine.weight("weight"))
    assert after[1]["masks"]["weight"].equal(run.method.state_dict()["masks"]["weight"])
    assert after[1]["mutated_at"] == run.method.state_dict()["mutated_at"] == 2
    assert run.method.state_dict()["gradients"]["weight"].equal(gradient)


def test_state_decides_the_future(small_run) -> None:
    mest = MestConfig(keep=EM.keep, grow_to=EM.grow_to, removal_gradient=0.5)
    for stop in (1, 2, 3):
        first = linear_run(small_run, mest)
        for _ in range(stop):
            step(first)
        second = linear_run(small_run, mest)
        second.engine.load_state_dict(copy.deepcopy(first.engine.state_dict()))
        second.method.load_state_dict(copy.deepcopy(first.method.state_dict()))
        second.method.start()
        second.number = first.number
        for _ in range(6):
            assert step(first) == step(second)
            assert first.method.masks.digest() == second.method.masks.digest()
            assert first.engine.weight("weight").equal(second.engine.weight("weight"))


@given(
    density=st.floats(0.05, 1.0),
    below=st.floats(0.3, 1.0),
    above=st.floats(1.0, 3.0),
    distribution=st.sampled_from(["uniform", "erk", "er"]),
    distinct=st.sampled_from([1, 3, 1000]),
    gradient=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=20)
def test_counts_are_exact_whatever_ties(
    small_run, density: float, below: float, above: float, distribution: str, distinct: int, gradient: float
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 12), nn.Linear(12, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    mest = MestConfig(
        keep=[density * below, density],
        grow_to=[min(1.0, density * above), density],
        decay=[Length(6, "steps")],
        removal_gradient=gradient,
    )
    try:
        run = small_run(model, optimizer, config(mest, density=density, distribution=distribution))
    except UserError:  # a layer without a unit
        return
    method = run.method
    for number in range(9):
        before = {name: method.masks[name] for name in method.masks.names}
        with torch.no_grad():
            for name in before:
                parameter = model.get_parameter(name)
                parameter.copy_((parameter * distinct).round() / distinct)
        method.before_forward(number + 1)
        phase = method._bounds.phase(number)
        for name in method.masks.names:
            assert method.masks.active()[name] == int(method.masks[name].sum())
            if number % 2 == 0:
                assert method.masks.active()[name] == phase.grow_to[name]
            else:
                assert before[name].equal(method.masks[name])
            grown = method.masks[name] & ~before[name]
            assert not model.get_parameter(name).detach()[grown].count_nonzero()
        run.step(torch.randn(4, 2, 4, 4), torch.randint(5, (4,)))
        for name in method.masks.names:
            off = ~method.masks[name]
            for tensor in (model.get_parameter(name).detach(), *run.per_weight_state(name).values()):
                assert not tensor[off].count_nonzero()


def test_growth_depends_on_seed_step_and_layer_alone(small_run) -> None:
    run = linear_run(small_run, EM)
    kept = run.method.masks["weight"]
    first = run.method._grown("weight", 200, 4)
    torch.rand(9)
    assert first.equal(run.method._grown("weight", 200, 4))
    assert not first.equal(run.method._grown("weight", 200, 6))
    draw = scores.random((1, 1000), generator("mutate", 0, 4, "weight")).view(25, 40)
    assert draw[first & ~kept].min() > draw[~first].max()


def test_biases_train_though_they_begin_at_zero(small_run) -> None:
    """The reference infers masks from zeros, and so holds every bias that starts at 0 there for good."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 5))
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.05), config(MestConfig(), density=0.5))
    run.step(torch.randn(4, 2, 4, 4), torch.randint(5, (4,)))
    assert model[1].bias.detach().count_nonzero()
