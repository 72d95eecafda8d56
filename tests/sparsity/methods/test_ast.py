"""AST in training: what must hold of sub-nets in turn."""

import copy
import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import AstConfig, RampConfig, SparsityConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.ast.norms import _placed as placed
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.sparsity.schedules import CubicRamp, share_of
from dist_sparse.sparsity.structures import NM

LADDER = [0.5, 0.3, 0.1]
GROUPS = ["nm:2:4", "nm:1:4", "nm:1:8"]


def steps(value: int) -> Length:
    return Length(value, "steps")


def config(*, interval: int = 6, offset: int = 2, end: int = 24, initial: float | None = None, **ast: Any) -> SparsityConfig:
    """Ramps of four updates."""
    if "structures" not in ast:
        ast.setdefault("densities", LADDER)
    return SparsityConfig(
        method="ast",
        ast=AstConfig(offset=steps(offset), **ast),
        update=UpdateConfig(interval=steps(interval)),
        ramp=RampConfig(initial_density=initial, end=steps(end)),
    )


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


def batch(number: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(number)
    return torch.randn(8, 1, 4, 4, generator=draws), torch.randint(4, (8,), generator=draws)


def ast_run(small_run, settings: SparsityConfig, model: nn.Module | None = None, *, lr: float = 0.1, **keys: Any):
    settings = dataclasses.replace(settings, keep_dense=["first"]) if model is None else settings
    model = net() if model is None else model
    return small_run(model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3), settings, **keys)


@pytest.mark.parametrize("structures", [None, GROUPS], ids=["densities", "groups"])
def test_counts_follow_each_ramp(small_run, structures: list[str] | None) -> None:
    """Every sub-net comes down by itself, arrives, and stays where it is while layers regenerate."""
    run = ast_run(small_run, config(**({"structures": structures} if structures else {})), total_steps=48)
    networks = run.method.networks()
    assert [network.label for network in networks] == ["subnet1", "subnet2", "subnet3"]
    total = sum(run.engine.weight(name).numel() for name in run.method.masks.names)
    updates = [0, 0, 0]
    for step in range(1, 49):
        before = run.method.digests()
        number = (step - 1) % 3
        decision = run.step(*batch(step))
        assert run.method.masks is networks[number].masks
        changed = {name.split()[0] for name, digest in run.method.digests().items() if digest != before[name]}
        assert changed <= ({f"subnet{number + 1}"} if decision.updates_masks else set())
        if decision.updates_masks:
            updates[number] += 1
            if structures is None:
                ramp = CubicRamp(initial=1.0, final=LADDER[number], first=0, last=4)
                assert sum(networks[number].masks.active().values()) == share_of(ramp(updates[number]), total)
    finals = [0.5, 0.25, 0.125] if structures else LADDER
    assert [network.masks.density() for network in networks] == pytest.approx(finals, abs=1 / total)
    assert min(updates) >= 6
    for network, final in zip(networks, structures or (), strict=False):
        structure = NM.parse(final.removeprefix("nm:"))
        assert all((structure.active(network.masks[name]).sum(1) == structure.n).all() for name in network.masks.names)


def test_batch_norms_of_other_subnets_rest(vectors, small_run) -> None:
    """Statistics, affine parameters and momentum; the norm before the first sparse layer is shared."""
    run = ast_run(small_run, config(offset=50, interval=100, end=100))

    def snapshot() -> tuple[list[dict[str, Tensor]], list[Any], Tensor]:
        state = copy.deepcopy(run.method.state_dict()["norms"])
        return state["sets"], state["optimizer"], run.engine.model[1].running_mean.clone()

    for row in vectors("ast_09_alternation_bn")["rows"]:
        sets, optimizer, stem = snapshot()
        run.step(*batch(row["t"]))
        after, optimizer_after, stem_after = snapshot()
        for key in ("4.running_mean", "4.running_var", "4.weight", "4.bias"):
            changed = [not torch.equal(one[key], other[key]) for one, other in zip(sets, after, strict=True)]
            assert changed == [bool(each) for each in row["bn_running_mean_changed"]]
        for number, (one, other) in enumerate(zip(optimizer, optimizer_after, strict=True)):
            if number != row["subnet"]:
                assert one.keys() == other.keys()
                assert all(torch.equal(one[n]["momentum_buffer"], other[n]["momentum_buffer"]) for n in one)
        assert bool(row["shared_bn0_changes"]) == (not torch.equal(stem, stem_after))
        assert not any(key.startswith("1.") for key in after[0])


@pytest.mark.parametrize(("key", "device"), [("moment", "meta"), ("step", "cpu")])
def test_state_of_batch_norms_that_rest_comes_back_beside_them(key: str, device: str) -> None:
    """Whatever its shape, and in lists too (Kron's factors); only counters stay on the host."""
    parameter = torch.empty(4, device="meta")
    assert placed(torch.ones(4, 4), key, None, parameter).device.type == device
    assert placed([torch.ones(4, 4)], key, None, parameter)[0].device.type == device
    assert placed(torch.ones(()), key, torch.ones((), device="cpu"), parameter).device.type == "cpu"


def test_looking_at_subnets_changes_nothing(small_run) -> None:
    looked, plain = (ast_run(small_run, config(), total_steps=48) for _ in range(2))
    for step in range(1, 31):
        for run in (looked, plain):
            run.step(*batch(step))
        outputs = []
        for network in looked.method.networks():
            with network.applied(), torch.no_grad():
                for name in network.masks.names:
                    assert not looked.engine.weight(name)[~network.masks[name]].any()
                looked.engine.model.eval()
                outputs.append(looked.engine.model(batch(0)[0]))
                looked.engine.model.train()
        assert step < 6 or all(not torch.equal(a, b) for a, b in pairwise(outputs))
        one, other = looked.engine.state_dict(), plain.engine.state_dict()
        assert same(one, other) and same(looked.method.state_dict(), plain.method.state_dict())


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def union_of(run, name: str) -> Tensor:
    """The weights of a layer that are active in some sub-net."""
    return torch.stack([network.masks[name] for network in run.method.networks()]).any(0)


def gradients_of(run, count: int) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """By step and layer: the gradient, as the optimizer gets it, and the mask."""
    seen, method = [], run.method

    def look() -> None:
        seen.append({name: (run.engine.grad(name).clone(), method.masks[name]) for name in method.masks.names})

    for step in range(1, count + 1):
        run.step(*batch(step), on_gradients=look)
    return seen


@pytest.mark.parametrize("kind", ["within_mask", "whole"])
def test_correction_acts_within_groups(small_run, kind: str) -> None:
    """At rest weights (lr 0), so that steps with and without it compare."""
    options = {"interval": 3, "offset": 0, "end": 9}
    masked = ast_run(small_run, config(correction="none", **options), lr=0.0)
    raw = gradients_of(masked, 30)
    corrected = gradients_of(ast_run(small_run, config(correction=kind, **options), lr=0.0), 30)
    conflicts = outside = 0
    for step in range(30):
        for name in raw[0]:
            (plain, mask), (found, _) = raw[step][name], corrected[step][name]
            assert not plain[~mask].any()
            if step % 3 == 0:
                assert torch.equal(found, plain), "the first of a group"
                continue
            along = raw[step - 1][name][0] * (mask if kind == "within_mask" else 1)
            if (plain * along).sum() >= 0:
                assert torch.equal(found, plain)
                continue
            conflicts += 1
            outside += int(found[~mask].count_nonzero())
            assert float((found * along).sum() / along.norm() / found.norm().clamp(min=1e-12)) >= -1e-5
    assert conflicts > 10
    assert (outside > 0) == (kind == "whole")


@pytest.mark.parametrize("unused", ["keep", "zero"])
def test_unused_weights(small_run, unused: str) -> None:
    run = ast_run(small_run, config(unused=unused, interval=3, offset=0, end=12))
    returned = 0
    for step in range(1, 31):
        before = {name: run.engine.weight(name).clone() for name in run.method.masks.names}
        previous = {name: union_of(run, name) for name in run.method.masks.names}
        run.step(*batch(step))
        for name in run.method.masks.names:
            union = union_of(run, name)
            weight, state = run.engine.weight(name), run.per_weight_state(name)["momentum_buffer"]
            if unused == "zero":
                assert not weight[~union].any() and not state[~union].any()
                assert not weight[union & ~previous[name]].any(), "starts from 0"
            else:
                assert weight[~union].all()
                moved = weight[~union & ~previous[name]].abs() < before[name][~union & ~previous[name]].abs()
                returned += int(moved.sum())
    assert unused == "zero" or returned, "decay acts on them"


def test_a_whole_correction_revives_nothing_unused(small_run) -> None:
    """What the sub-net before has dropped after its step is part of its gradient, which this step goes by."""
    run = ast_run(small_run, config(unused="zero", correction="whole"))
    for step in range(1, 31):
        run.step(*batch(step))
        for name in run.method.masks.names:
            union = union_of(run, name)
            assert not run.engine.weight(name)[~union].any()


GOOD = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))


def test_overflow_moves_nothing_and_repeats_the_subnet(small_run) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    run = ast_run(small_run, config(interval=3, offset=0, end=12), model, precision="fp16", total_steps=40)
    labels = torch.arange(8) % 4

    def snapshot() -> Any:
        method = copy.deepcopy(run.method.state_dict())
        del method["norms"]["present"]  # whose turn has come
        return [*copy.deepcopy([run.engine.model.state_dict(), run.engine.state_dict()["optimizer"]]), method]

    subnets = []
    for step in range(1, 13):
        bad = step in (2, 5, 6)
        before = snapshot()
        decision = run.step(GOOD * 1e30 if bad else GOOD, labels)
        subnets.append([network.masks for network in run.method.networks()].index(run.method.masks))
        assert same(snapshot(), before) == bad
        assert not (bad and decision.updates_masks)
    assert subnets == [0, 1, 1, 2, 0, 0, 0, 1, 2, 0, 1, 2]
    assert all(value.isfinite().all() for value in run.engine.model.state_dict().values())


@pytest.mark.parametrize("structures", [None, GROUPS], ids=["densities", "groups"])
@pytest.mark.parametrize("saved_at", [3, 7, 8, 13])
def test_it_goes_on_within_a_group(small_run, structures: list[str] | None, saved_at: int) -> None:
    settings = config(**({"structures": structures} if structures else {}))
    whole, saved, resumed = (ast_run(small_run, settings, total_steps=48) for _ in range(3))

    def advance(run, upto: int) -> None:
        for step in range(run.number + 1, upto + 1):
            run.step(*batch(step))

    advance(whole, 30)
    advance(saved, saved_at)
    assert bool(saved.method.state_dict()["previous"]) == bool(saved_at % 3)
    resumed.engine.load_state_dict(copy.deepcopy(saved.engine.state_dict()))
    resumed.method.load_state_dict(copy.deepcopy(saved.method.state_dict()))
    resumed.method.start()
    resumed.number = saved_at
    advance(resumed, 30)
    assert same(resumed.engine.state_dict(), whole.engine.state_dict())
    assert same(resumed.method.state_dict(), whole.method.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SparsityConfig(method="ast"), r"sparsity\.ast needs its sub-nets: sparsity\.ast\.densities, falling, such as"),
        (config(densities=[0.5], structures=["nm:2:4"]), r"sparsity\.ast needs only one of the two"),
        (config(densities=[0.1, 0.3]), r"sparsity\.ast\.densities=\[0\.1, 0\.3\] is out of order"),
        (config(densities=[0.1, 0.1]), "out of order"),
        (config(structures=["nm:1:4", "nm:2:4"]), r"sparsity\.ast\.structures=\[nm:1:4, nm:2:4\] is out of order"),
        (config(structures=["nm:1:4", "block:4x1"]), r"sparsity\.ast\.structures='block:4x1': sub-nets are nm:N:M"),
        (config(structures=["nm:1:4", "nm:4"]), r"sparsity\.ast\.structures='nm:4': N and M are"),
        (config(structures=["nm:1:3"]), r"sparsity\.structure=nm:1:3 fits none of the sparse layers"),
        (config(structures=["nm:1:4"], initial=0.5), r"sparsity\.ramp\.initial_density is always 1"),
        (config(initial=0.4), r"initial_density=0\.4 is below sparsity\.ast\.densities="),
        (config(end=46), r"ramp\.end is at step 42, and with sparsity\.ast\.offset at step 48 for the last sub-net, when"),
        (
            dataclasses.replace(config(end=46), update=UpdateConfig(interval=steps(6), end=steps(1000))),
            r"at step 48 for the last sub-net, when the run is over at step 48: the density would not be reached",
        ),
        (config(densities=[0.0005]), "less than one weight for each of the 3 layers; the lowest density of this model is"),
        (
            SparsityConfig(method="ast", density=0.3, ast=AstConfig(densities=[0.2])),
            r"sparsity\.density=0\.3 contradicts sparsity\.ast\.densities, which ends at 0\.2",
        ),
        (
            SparsityConfig(method="ast", structure="channel", ast=AstConfig(densities=[0.2])),
            r"sparsity\.structure=channel cannot go with method ast",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(small_run, settings: SparsityConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ast_run(small_run, settings, total_steps=48)
    assert "\n" not in str(caught.value)


def test_a_resolved_configuration_resolves_to_itself() -> None:
    for settings in (config(), config(structures=GROUPS)):
        resolved = resolve(settings)
        assert resolve(resolved) == resolved
    assert resolved.density == 0.125 and resolved.structure == "nm:1:8"
