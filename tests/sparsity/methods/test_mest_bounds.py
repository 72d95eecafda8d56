"""MEST's bounds: the reference's schedule, defaults, profiles, and lists that do not fit together."""

import pytest
import torch

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import MestConfig, SparsityConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.build import plan_method
from dist_sparse.sparsity.methods.context import RunFacts
from dist_sparse.sparsity.methods.mest.bounds import Bounds, Phase, scaled
from dist_sparse.sparsity.methods.resolve import resolve
from tests.sparsity.methods.mest_runs import EM, EMS, config

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["EM_0p9", "EMS_0p9"])
def test_schedule(vectors, name: str) -> None:
    mest = EM if name == "EM_0p9" else EMS
    run = RunFacts(seed=0, steps_per_epoch=10, total_steps=1600, rank=0, world_size=1, device=CPU)
    made = resolve(config(mest, update=UpdateConfig()))
    bounds = plan_method(made, {"w": torch.empty(100, 10)}, run).bounds
    assert bounds is not None and bounds.interval == 50
    for epoch, lower, upper in vectors("mest_10_schedule")[name]:
        assert bounds.latest_mutation(10 * epoch) == 10 * epoch
        assert bounds.latest_mutation(10 * epoch + 9) == 10 * epoch
        keep, grow_to = round(1000 * (1 - lower)), round(1000 * (1 - upper))
        assert bounds.phase(10 * epoch) == Phase({"w": keep}, {"w": grow_to})


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
    assert plan.context.units() == {"a": 40, "b": 60}
    assert plan.bounds.phases == (
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


def test_bounds_hold_their_phase_from_the_decay_on() -> None:
    phases = tuple(Phase({}, {str(number): number}) for number in range(3))
    bounds = Bounds(interval=4, decay=(8, 12), phases=phases)
    assert [phases.index(bounds.phase(done)) for done in (0, 7, 8, 11, 12, 99)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("steps", "refused"), [(100, True), (160, False)])
def test_a_last_phase_without_a_mutation_is_refused(steps: int, refused: bool) -> None:
    """EM&S ends at the density only if it mutates after the last decay: at 75 % of the run, and every 50 steps."""
    run = RunFacts(seed=0, steps_per_epoch=10, total_steps=steps, rank=0, world_size=1, device=CPU)
    interval = UpdateConfig(interval=Length(5, "epochs"))
    mest = MestConfig(grow_to=[0.3, 0.2, 0.1])
    made = resolve(SparsityConfig(method="mest", density=0.1, distribution="uniform", mest=mest, update=interval))
    if not refused:
        plan_method(made, {"w": torch.empty(50, 20)}, run)
        return
    with pytest.raises(UserError, match=r"sparsity.mest.decay ends at step 75 and the last mutation is at step 50"):
        plan_method(made, {"w": torch.empty(50, 20)}, run)
