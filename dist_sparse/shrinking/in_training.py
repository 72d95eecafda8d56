"""Dead units of a network in training: which can go from it, and from the average of its weights, at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dist_sparse.shrinking.examine import Examination, check_equal, examine
from dist_sparse.shrinking.narrow import make_plan, taken_over
from dist_sparse.shrinking.plan import Plan
from dist_sparse.shrinking.removal import Removal
from dist_sparse.shrinking.trace import masked_copy


@dataclass(frozen=True, kw_only=True)
class Narrowing:
    """What networks of one shape keep."""

    plan: Plan
    changed: Sequence[dict[str, Tensor]]
    """For each network, what layers become that have read constant units, in shapes of the original."""


def find_narrowing(
    models: Sequence[nn.Module], masks: Mapping[str, Tensor], example: Tensor, *, multiple: int = 1
) -> Narrowing | None:
    """What can go from each of some networks, such as a model and its moving average, without a change of any one's outputs.

    Unlike :func:`.shrink` it adds no bias to a layer without one, so that the original's network can hold what is left.

    Args:
        models: of the original's shapes; their inactive weights need not be 0.
        masks: bool masks by parameter name. A layer that is not named is dense.
        example: images [B, channels, height, width] such as the networks will see.
        multiple: as of :func:`.shrink`.

    Returns:
        None if nothing can go.

    Raises:
        UserError: a network cannot be followed, or holds values that are not finite.
    """
    examined = [examine(masked_copy(model, masks), masks, example) for model in models]
    removals = _common(examined, multiple)
    plan = make_plan(examined[0].coupling, removals[0], examined[0].traced)
    if not plan.kept:
        return None
    for each, removal in zip(examined, removals, strict=True):
        check_equal(each, plan, removal, example)
    return Narrowing(
        plan=plan,
        changed=[taken_over(removal, each.traced) for each, removal in zip(examined, removals, strict=True)],
    )


def _common(examined: Sequence[Examination], multiple: int) -> list[Removal]:
    """Removals of the same units from all networks: their constants differ, and with these what can go.

    Units have the same numbers in all, which their common code gives them.
    """
    among = None
    while True:
        removals = [each.search(among, multiple=multiple, new_biases=False) for each in examined]
        among = set.intersection(*(removal.removed for removal in removals))
        if all(removal.removed == among for removal in removals):
            return removals
