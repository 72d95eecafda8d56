"""What a run will still take, by a clock that is moved by hand."""

import contextlib

import pytest

from dist_sparse.tracking.time_left import TimeLeft


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def time_left(clock: Clock, *, start_step: int = 0, total_steps: int = 100, validate_every: int = 20) -> TimeLeft:
    return TimeLeft(
        total_steps=total_steps, start_step=start_step, validate_every=validate_every, steps_like_validation=6, now=clock
    )


def test_steps_and_validations_count_each_by_its_own_time() -> None:
    clock = Clock()
    left = time_left(clock)
    assert left.seconds(0) is None
    clock.seconds += 10
    left.read(10)
    assert left.seconds(10) == 90 + 5 * 2, "a forward is a third of a step, until a validation has been timed"
    clock.seconds += 10
    left.read(20)
    with left.validating():
        clock.seconds += 7
    assert left.seconds(20) == 80 + 4 * 7
    clock.seconds += 20
    left.read(40)  # the validation has not slowed the steps
    assert left.seconds(40) == 60 + 3 * 7
    with left.validating():
        clock.seconds += 9
    assert left.seconds(40) == 60 + 3 * 8
    assert left.seconds(100) == 0


def test_the_last_step_is_validated_too() -> None:
    clock = Clock()
    left = time_left(clock, total_steps=50)
    clock.seconds += 20
    left.read(20)
    assert [left.seconds(step) for step in (20, 40, 50)] == [30 + 2 * 2, 10 + 2, 0]


def test_what_was_before_a_resume_does_not_count() -> None:
    clock = Clock()
    left = time_left(clock, start_step=80)
    with left.validating():  # that the stopped run had left
        clock.seconds += 5
    assert left.seconds(80) is None
    clock.seconds += 5
    left.read(90)
    assert left.seconds(90) == 5 + 1 * 5


def test_the_first_reading_which_compiles_is_soon_outweighed() -> None:
    clock = Clock()
    left = time_left(clock, total_steps=1000, validate_every=1000)
    for step in range(10, 110, 10):
        clock.seconds += 310 if step == 10 else 10
        left.read(step)
    assert left.seconds(100) == pytest.approx(900 + 2, rel=0.1)


def test_a_validation_that_is_cut_short_is_no_measure() -> None:
    clock = Clock()
    left = time_left(clock)
    clock.seconds += 20
    left.read(20)
    with contextlib.suppress(KeyboardInterrupt), left.validating():
        clock.seconds += 500
        raise KeyboardInterrupt
    assert left.seconds(20) == 80 + 4 * 2
    clock.seconds += 20
    left.read(40)
    assert left.seconds(40) == 60 + 3 * 2
