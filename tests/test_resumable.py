"""A resumed run may change only what does not decide its results, and is told of what moves them by rounding."""

import pytest

from dist_sparse.checkpoint import MAY_CHANGE, check_data, check_resumable, check_world
from dist_sparse.config import Config, to_flat, with_values
from dist_sparse.config.tree import leaves
from dist_sparse.engines.capabilities import Capabilities
from dist_sparse.errors import UserError


def test_what_may_change_on_resume() -> None:
    saved = Config()
    changed = with_values(saved, {"output": "elsewhere", "resume": "auto", "data.workers": 0, "checkpoint.keep": 5})
    assert check_resumable(to_flat(saved), to_flat(changed)) == []
    (warning,) = check_resumable(to_flat(saved), to_flat(with_values(saved, {"engine.device": "cpu", "train.compile": True})))
    assert "train.compile, engine.device" in warning
    assert "rounding" in warning


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("execution.compute", "sparse"),
        ("execution.storage", "packed"),
        ("execution.shrink", True),
        ("execution.width_multiple", 4),
    ],
)
def test_another_execution_is_told(key: str, value: object) -> None:
    saved = Config()
    assert check_resumable(to_flat(saved), to_flat(with_values(saved, {key: value}))) == [
        f"resuming with another {key}: results agree with the run so far up to rounding only"
    ]


def test_what_may_not_change_on_resume() -> None:
    saved = Config()
    current = with_values(saved, {"sparsity.density": 0.2, "optim.lr": 0.5, "name": "other"})
    with pytest.raises(UserError) as caught:
        check_resumable(to_flat(saved), to_flat(current))
    message = str(caught.value)
    assert "optim.lr (was 0.1, now 0.5), sparsity.density (was None, now 0.2)" in message
    assert "name (was" not in message
    assert ", ".join(MAY_CHANGE) in message
    assert "\n" not in message


def test_every_key_that_may_change_exists() -> None:
    for pattern in MAY_CHANGE:
        assert any(key == pattern or (pattern.endswith("*") and key.startswith(pattern[:-1])) for key in leaves()), pattern


def test_a_key_that_one_version_lacks_is_a_warning() -> None:
    current = to_flat(Config())
    saved = {key: value for key, value in current.items() if key not in ("optim.momentum", "tracking.project")} | {"old.key": 1}
    (warning,) = check_resumable(saved, current)
    assert "old.key, optim.momentum not known to both" in warning


def test_another_number_of_ranks_is_a_warning() -> None:
    cut = Capabilities(cause="engine.zero.stage=2", fixed_world=True)
    assert check_world(4, 4, cut) == []
    with pytest.raises(UserError, match=r"^cannot resume on 2 ranks a run of 4: engine\.zero\.stage=2 has cut"):
        check_world(4, 2, cut)
    (warning,) = check_world(4, 2, Capabilities(cause="engine.name=ddp"))
    assert "2 ranks" in warning
    assert "rounding" in warning


def test_another_data_set_is_refused() -> None:
    facts = {"name": "image_folder", "classes": 10, "train_size": 1000}
    check_data(facts, dict(facts))
    with pytest.raises(UserError, match=r"another data set: the checkpoint's has train_size 1000 \(now 999\)$"):
        check_data(facts, {**facts, "train_size": 999})
