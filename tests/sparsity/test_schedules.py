"""How far and when the masks move."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dist_sparse.sparsity.schedules import Constant, Cosine, Linear, UpdateSchedule, drop_count


def test_cosine_of_granet_and_itop(vectors) -> None:
    for row in vectors("cosine_rates")["granet_reference"]:
        rate = Cosine(start=row["p0"], floor=0.005, end=row["Tmax"])(row["t"])
        assert rate == pytest.approx(row["closed_form"], rel=1e-14)
        assert rate == pytest.approx(row["reference"], rel=1e-12)


@pytest.mark.parametrize("part", ["rigl", "dsb"])
def test_cosine_of_rigl_and_dsb(vectors, part: str) -> None:
    for row in vectors("cosine_rates")[part]:
        assert Cosine(start=row["alpha"], floor=0.0, end=row["Tend"])(row["t"]) == pytest.approx(row["f"], rel=1e-10)


@pytest.mark.parametrize("shape", [Cosine, Linear])
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10**6))
def test_ends_and_middle(shape: type[Cosine] | type[Linear], start: float, floor: float, end: int) -> None:
    schedule = shape(start=start, floor=floor, end=end)
    assert schedule(0) == pytest.approx(start, abs=1e-15)
    assert schedule(end) == schedule(end + 5) == pytest.approx(floor, abs=1e-15)
    assert shape(start=start, floor=floor, end=2 * end)(end) == pytest.approx((start + floor) / 2, abs=1e-15)


def test_linear_and_constant() -> None:
    assert [Linear(start=0.5, floor=0.1, end=4)(step) for step in range(6)] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.1])
    assert {Constant(start=0.3)(step) for step in (0, 5, 10**9)} == {0.3}


def updates(schedule: UpdateSchedule, steps: int, overflows: set[int]) -> dict[int, float]:
    """Step -> drop fraction of every update, where the steps in ``overflows`` cannot update."""
    made, previous = {}, 0
    for step in range(1, steps + 1):
        if step not in overflows:
            if (fraction := schedule.due(previous, step)) is not None:
                made[step] = fraction
            previous = step
    return made


def numbered(interval: int, end: int) -> UpdateSchedule:
    """The drop fraction tells the regular step that an update stands for."""
    return UpdateSchedule(interval=interval, end=end, drop=float)


def test_updates_every_interval_before_the_end() -> None:
    assert updates(numbered(10, 40), 60, set()) == {10: 10, 20: 20, 30: 30}
    assert updates(numbered(10, 41), 60, set()) == {10: 10, 20: 20, 30: 30, 40: 40}
    assert updates(numbered(10, 10), 60, set()) == {}


@pytest.mark.parametrize(
    ("overflows", "made"),
    [
        ({20}, {10: 10, 21: 20, 30: 30}),  # made up for on the next good step, at the rate of its own
        ({20, 21, 22}, {10: 10, 23: 20, 30: 30}),
        ({11, 19, 21}, {10: 10, 20: 20, 30: 30}),  # overflows elsewhere change nothing
        (set(range(15, 35)), {10: 10, 35: 30}),  # two missed: one update
        ({30, *range(31, 45)}, {10: 10, 20: 20, 45: 30}),  # the last one, made up for after the end
    ],
)
def test_an_update_missed_by_an_overflow_is_made_up_for(overflows: set[int], made: dict[int, float]) -> None:
    assert updates(numbered(10, 40), 60, overflows) == made


@given(st.integers(1, 20), st.integers(0, 200), st.integers(0, 200))
def test_until_next_points_at_a_due_step(interval: int, end: int, step: int) -> None:
    schedule = numbered(interval, end)
    regular = [each for each in range(interval, end, interval) if each >= step]
    distance = schedule.until_next(step)
    if step > 0:
        assert distance == (regular[0] - step if regular else None)
    if distance is not None and step > 0:
        assert schedule.due(step + distance - 1, step + distance) is not None


@pytest.mark.parametrize(
    ("fraction", "active", "down", "up"),
    [
        (0.29, 100, 29, 29),  # 28.999999999999996
        (0.1, 30, 3, 3),  # 3.0000000000000004
        (0.3, 10, 3, 3),
        (0.04, 12, 0, 1),
        (0.0, 7, 0, 0),
        (1.0, 7, 7, 7),
        (0.3, 7, 2, 3),
        (0.5, 0, 0, 0),
    ],
)
def test_drop_count(fraction: float, active: int, down: int, up: int) -> None:
    assert drop_count(fraction, active, up=False) == down
    assert drop_count(fraction, active, up=True) == up


@given(st.integers(0, 1000), st.integers(0, 5_000))
def test_drop_count_of_decimal_fractions_is_exact(thousandths: int, active: int) -> None:
    exact = thousandths * active
    assert drop_count(thousandths / 1000, active, up=False) == exact // 1000
    assert drop_count(thousandths / 1000, active, up=True) == -(-exact // 1000)


@pytest.mark.parametrize("hundredths", [29, 57, 58])
def test_drop_count_is_exact_in_layers_of_many_millions(hundredths: int) -> None:
    assert drop_count(hundredths / 100, 10**8, up=False) == drop_count(hundredths / 100, 10**8, up=True) == hundredths * 10**6


@given(st.floats(0, 1), st.integers(0, 10**6))
def test_drop_count_stays_within_the_active_units(fraction: float, active: int) -> None:
    down, up = drop_count(fraction, active, up=False), drop_count(fraction, active, up=True)
    assert 0 <= down <= up <= active
    assert math.isclose(up, fraction * active, abs_tol=1.0)
