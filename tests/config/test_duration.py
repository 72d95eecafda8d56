import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_sparse.config.duration import Length, parse_length


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (500, Length(500, "steps")),
        ("500", Length(500, "steps")),
        ("500 steps", Length(500, "steps")),
        ("1 step", Length(1, "steps")),
        ("20st", Length(20, "steps")),
        ("1e3 steps", Length(1000, "steps")),
        ("5 epochs", Length(5, "epochs")),
        ("0.5ep", Length(0.5, "epochs")),
        ("75%", Length(0.75, "run")),
        ("33.3 %", Length(0.333, "run")),
    ],
)
def test_forms(written, expected):
    assert parse_length(written) == expected


@pytest.mark.parametrize("written", ["", "five", "-5", "1.5", "1.5 steps", "101%", True, None, 0.75, "5 weeks"])
def test_refused(written):
    with pytest.raises(ValueError, match="should be"):
        parse_length(written)


def test_steps_rounds_to_the_nearest():
    lengths = [Length(7, "steps"), Length(2.5, "epochs"), Length(0.75, "run")]
    assert [each.steps(steps_per_epoch=11, total_steps=101) for each in lengths] == [7, 28, 76]


@given(
    st.builds(Length, st.integers(0, 10**9).map(float), st.just("steps"))
    | st.builds(Length, st.floats(0, 1e6), st.just("epochs"))
    | st.builds(Length, st.floats(0, 1), st.just("run"))
)
def test_text_reads_back_as_the_same_length(length):
    assert parse_length(str(length)) == length
