"""MEST against the reference's vectors: exact counts where it has percentiles, stored masks, a gradient that is there."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.schema import MestConfig, ModelConfig, SparsityConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.models import build_model
from dist_sparse.seeding import generator
from dist_sparse.sparsity import scores
from dist_sparse.sparsity.layers import sparse_layers
from dist_sparse.sparsity.methods.build import plan_method
from dist_sparse.sparsity.methods.mest import largest_weights
from dist_sparse.sparsity.methods.mest_bounds import Bounds, Phase, scaled
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.sparsity.methods.setting import RunFacts
from dist_sparse.sparsity.structures import Unstructured

CPU = torch.device("cpu")
EM = MestConfig(keep=[0.08, 0.09, 0.1], grow_to=[0.1, 0.1, 0.1])
EMS = MestConfig(keep=[0.1, 0.1, 0.1], grow_to=[0.15, 0.125, 0.1])


def config(mest: MestConfig = EM, *, density: float = 0.1, interval: int = 2, **keys) -> SparsityConfig:
    update = UpdateConfig(interval=Length(interval, "steps"))
    return SparsityConfig(
        **{"method": "mest", "density": density, "distribution": "uniform", "update": update, "mest": mest, **keys}
    )


def linear_run(small_run, mest: MestConfig, *, seed: int = 0, **keys):
    torch.manual_seed(0)
    model = nn.Linear(40, 25, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    return small_run(model, optimizer, config(mest, **keys), total_steps=16, seed=seed)


def step(run):
    draws = torch.Generator().manual_seed(run.number)
    return run.step(torch.randn(8, 40, generator=draws), torch.randint(25, (8,), generator=draws))


def test_removal_keeps_exact_counts_where_percentiles_lose_ties(vectors) -> None:
    vector = vectors("mest_01_irregular_prune")
    weight = torch.tensor(vector["input"])
    for case in vector["cases"]:
        keep = round((1 - case["ratio"]) * 8)
        mask = largest_weights(weight, keep, Unstructured())
        assert int(mask.sum()) == keep
        if case["nnz"] == keep:
            assert mask.int().tolist() == torch.tensor(case["mask"]).int().tolist()
    for case in vector["ties"]:
        keep = round((1 - case["ratio"]) * 8)
        assert case["nnz"] < keep, "the reference loses what ties"
        assert int(largest_weights(torch.tensor(vector["ties_input"]), keep, Unstructured()).sum()) == keep


@pytest.mark.parametrize("number", [0, 1])
def test_removal_score_with_a_gradient_that_is_there(small_run, vectors, number: int) -> None:
    vector = vectors("mest_01_irregular_prune")
    case, given_ = vector["lambda_cases"][number], vector["lambda_input"]
    model = nn.Linear(4, 2, bias=False)
    model.weight.data.copy_(torch.tensor(given_["w"]))
    bounds = MestConfig(keep=[0.5], grow_to=[1.0], removal_gradient=case["lmd"])
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.0), config(bounds, density=1.0))
    model.weight.data.copy_(torch.tensor(given_["w"]))
    run.method.masks.replace({"weight": torch.ones(2, 4, dtype=torch.bool)})
    run.method._gradients = {"weight": torch.tensor(given_["grad"])}
    kept = run.method._kept("weight", 4)
    assert kept.int().tolist() == torch.tensor(case["mask"]).int().tolist()


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


def test_prune_counts_are_rounded_shares(vectors) -> None:
    for row in vectors("mest_02_prune_counts")["table"]:
        weight = torch.randn(1, row["N"], generator=torch.Generator().manual_seed(0))
        keep = round((1 - row["ratio"]) * row["N"])
        assert int(largest_weights(weight, keep, Unstructured()).sum()) == keep
        assert abs(keep - row["kept"]) <= 1, "the percentile rule is at most one off"


def test_growth_counts(small_run, vectors) -> None:
    for row in vectors("mest_07_growth_irregular")["counts"]:
        keep, grow_to = 1 - row["lower"], 1 - row["upper"]
        model = nn.Linear(row["N"], 1, bias=False)
        bounds = MestConfig(keep=[keep], grow_to=[grow_to])
        run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), config(bounds, density=keep, keep_dense=[]))
        run.method.before_forward(1)
        nnz = int(run.method.masks["weight"].sum())
        assert nnz == run.method.masks.active()["weight"] == int(grow_to * row["N"] + 0.5)
        assert abs(nnz - row["nnz_after"]) <= 1


def test_an_active_weight_that_is_exactly_zero_stays(small_run, vectors) -> None:
    """The reference infers masks from weights, and drops it."""
    example = vectors("mest_07_growth_irregular")["exact_zero_drop"]
    assert example["mask"] == [[1, 0, 1, 1]]
    model = nn.Linear(4, 1, bias=False)
    run = small_run(
        model, torch.optim.SGD(model.parameters(), lr=0.1), config(MestConfig(keep=[1.0], grow_to=[1.0]), density=1.0)
    )
    model.weight.data.copy_(torch.tensor(example["weights"]))
    run.method.before_forward(1)
    assert run.method.masks["weight"].all()


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


@pytest.mark.parametrize("name", ["EM_0p9", "EMS_0p9"])
def test_schedule(vectors, name: str) -> None:
    mest = EM if name == "EM_0p9" else EMS
    run = RunFacts(seed=0, steps_per_epoch=10, total_steps=1600, rank=0, world_size=1, device=CPU)
    made = resolve(config(mest, update=UpdateConfig()))
    bounds = plan_method(made, {"w": torch.empty(100, 10)}, run).options["bounds"]
    assert bounds is not None and bounds.interval == 50
    for epoch, lower, upper in vectors("mest_10_schedule")[name]:
        assert bounds.latest_mutation(10 * epoch) == 10 * epoch
        assert bounds.latest_mutation(10 * epoch + 9) == 10 * epoch
        keep, grow_to = round(1000 * (1 - lower)), round(1000 * (1 - upper))
        assert bounds.phase(10 * epoch) == Phase({"w": keep}, {"w": grow_to})


def test_sgd_trace_restarts_what_grows_and_forgets_what_goes(small_run, vectors) -> None:
    """As the reference until the masks move; then momentum of what was removed is 0 and stays so."""
    vector = vectors("mest_11_sgd_trace")
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    bounds = MestConfig(keep=[0.75], grow_to=[0.75])
    run = small_run(model, optimizer, config(bounds, density=0.75), loss=lambda out, grad: (out * grad).sum(), total_steps=10)
    model.weight.data.copy_(torch.tensor([vector["w0"]]))
    run.method.replace_masks({"weight": torch.tensor([vector["mask_before"]]).bool()})
    for row in vector["rows"]:
        if row["step"] == vector["update_at_step"]:
            run.method.replace_masks({"weight": torch.tensor([vector["mask_after"]]).bool()})
        run.step(torch.tensor([row["grad_raw"]]), torch.ones(1, 1))
        assert model.weight.detach().view(-1).tolist() == pytest.approx(row["w"])
        momentum = list(row["momentum"])
        if row["step"] >= vector["update_at_step"]:
            momentum[0] = 0.0  # the reference lets it decay
        assert optimizer.state[model.weight]["momentum_buffer"].view(-1).tolist() == pytest.approx(momentum)


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


@pytest.mark.parametrize(("name", "mest"), [("irregular EM", EM), ("irregular EM&S", EMS)])
def test_whole_resnet32(small_run, vectors, name: str, mest: MestConfig) -> None:
    """30 convolutions with exactly round(density * weights) each; the reference's percentiles lose a few."""
    reference = vectors("mest_14_resnet32_nnz")
    model = build_model(ModelConfig(name="cifar_resnet32", kwargs={"width": 2}), classes=10, channels=3, image_size=32, seed=0)
    keep_dense = ["first", "last", "*downsample*"]
    layers = sparse_layers(model, keep_dense)
    assert len(layers) == 30 and sum(weight.numel() for weight in layers.values()) == reference["total"]
    run = small_run(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        config(mest, interval=5, keep_dense=keep_dense),
        total_steps=160,
    )
    method, counts = run.method, {"init": sum(run.method.masks.active().values())}
    for epoch in (0, 5, 90, 120):
        method.before_forward(epoch + 1)
        counts[str(epoch)] = sum(method.masks.active().values())
        density = {0: 0, 5: 0, 90: 1, 120: 2}[epoch]
        shares = {layer: int(mest.grow_to[density] * weight.numel() + 0.5) for layer, weight in layers.items()}
        assert method.masks.active() == shares
    for when, count in reference["table"][name].items():
        assert abs(counts[when] - count) <= 30, when


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


def test_profiles_stay_as_they_are() -> None:
    shapes = {"a": torch.Size((10, 10)), "b": torch.Size((30, 10))}
    table = {"a": 0.4, "b": 0.2}  # 0.25 in all
    made = scaled(shapes, table, 0.2)
    assert made == pytest.approx({"a": 0.32, "b": 0.16})
    assert scaled(shapes, {"a": 0.9, "b": 0.1}, 0.6)["a"] == 1.0
    run = RunFacts(seed=0, steps_per_epoch=10, total_steps=1600, rank=0, world_size=1, device=CPU)
    weights = {name: torch.empty(shape) for name, shape in shapes.items()}
    mest = MestConfig(keep=[0.2, 0.25], grow_to=[0.25, 0.25], decay=[Length(0.5, "run")])
    plan = plan_method(resolve(config(mest, density=None, distribution="table", table=table)), weights, run)
    assert plan.setting.units() == {"a": 40, "b": 60}
    assert plan.options["bounds"].phases == (
        Phase({"a": 32, "b": 48}, {"a": 40, "b": 60}),
        Phase({"a": 40, "b": 60}, {"a": 40, "b": 60}),
    )


def test_defaults() -> None:
    em = resolve(config(MestConfig(), update=UpdateConfig()))
    assert (em.mest.keep, em.mest.grow_to) == ([0.08, 0.09, 0.1], [0.1] * 3)
    assert em.mest.decay == [Length(0.5625, "run"), Length(0.75, "run")] and em.update.interval == Length(5, "epochs")
    assert resolve(config(MestConfig(), density=0.05)).mest.keep == [0.04, 0.045, 0.05], "the reference's at 95 %"
    assert resolve(config(MestConfig(grow_to=[0.15, 0.125, 0.1]))).mest.keep == [0.1] * 3


@pytest.mark.parametrize(
    ("mest", "message"),
    [
        (MestConfig(keep=[0.08, 0.1], grow_to=[0.1]), "keep has 2 densities, grow_to 1 and decay 0 lengths"),
        (MestConfig(keep=[0.08, 0.1], grow_to=[0.1, 0.1]), "decay 0 lengths"),
        (MestConfig(keep=[0.1], grow_to=[0.08]), "keep=0.1 is above grow_to=0.08"),
        (MestConfig(keep=[0.1, 0.09, 0.1], grow_to=[0.1] * 3), "bounds are out of order"),
        (MestConfig(keep=[0.1] * 3, grow_to=[0.1, 0.12, 0.1]), "bounds are out of order"),
        (MestConfig(keep=[0.12] * 3, grow_to=[0.15] * 3), "density=0.1 must lie between"),
    ],
)
def test_bounds_that_do_not_fit_are_refused_in_one_line(mest: MestConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(config(mest))
    assert "\n" not in str(caught.value)


def test_lengths_and_counts_that_do_not_fit_are_refused() -> None:
    run = RunFacts(seed=0, steps_per_epoch=10, total_steps=100, rank=0, world_size=1, device=CPU)
    weights = {"w": torch.empty(5, 2)}
    backwards = MestConfig(keep=EM.keep, grow_to=EM.grow_to, decay=[Length(6, "epochs"), Length(50, "steps")])
    with pytest.raises(UserError, match="decay=6 epochs, 50 steps must grow"):
        plan_method(resolve(config(backwards)), {"w": torch.empty(50, 20)}, run)
    with pytest.raises(UserError, match=r"keep=0\.04 cannot be reached"):
        plan_method(resolve(config(MestConfig(keep=[0.04], grow_to=[0.1]))), weights, run)


@given(
    density=st.floats(0.05, 1.0),
    below=st.floats(0.3, 1.0),
    above=st.floats(1.0, 3.0),
    distribution=st.sampled_from(["uniform", "erk", "er"]),
    distinct=st.sampled_from([1, 3, 1000]),
    gradient=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
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


def test_bounds_hold_their_phase_from_the_decay_on() -> None:
    phases = tuple(Phase({}, {str(number): number}) for number in range(3))
    bounds = Bounds(interval=4, decay=(8, 12), phases=phases)
    assert [phases.index(bounds.phase(done)) for done in (0, 7, 8, 11, 12, 99)] == [0, 0, 1, 1, 2, 2]


def test_biases_train_though_they_begin_at_zero(small_run) -> None:
    """The reference infers masks from zeros, and so holds every bias that starts at 0 there for good."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 5))
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.05), config(MestConfig(), density=0.5))
    run.step(torch.randn(4, 2, 4, 4), torch.randint(5, (4,)))
    assert model[1].bias.detach().count_nonzero()
