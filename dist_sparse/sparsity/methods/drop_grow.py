"""Dynamic sparse training by dropping and growing: what SET, RigL, SNFS and GraNet share, in both published forms."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.seeding import generator
from dist_sparse.sparsity import scores
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.method import Method
from dist_sparse.sparsity.methods.course import Course, Line, Move, initial_densities, updates
from dist_sparse.sparsity.methods.defaults import fill
from dist_sparse.sparsity.methods.gradients import DenseGradients
from dist_sparse.sparsity.methods.redistribution import (
    Redistribution,
    drop_fraction,
    rooms,
    share_out,
    shares_of,
    worth,
)
from dist_sparse.sparsity.methods.removal import Removal, removal
from dist_sparse.sparsity.methods.setting import Plan, Setting
from dist_sparse.sparsity.methods.updating import Updating
from dist_sparse.sparsity.schedules import drop_count
from dist_sparse.sparsity.selection import drop_and_grow

_log = logging.getLogger(__name__)

Form = Literal["original", "itop"]
Growth = Literal["gradient", "random", "momentum", "random_unfired"]

DEFAULTS: dict[Form, dict[str, Any]] = {
    "original": {
        "interval": Length(100, "steps"),
        "drop_fraction": 0.3,
        "drop_schedule": "cosine",
        "drop_floor": 0.0,
        "end": Length(0.75, "run"),
    },
    "itop": {
        "interval": Length(1000, "steps"),
        "drop_fraction": 0.5,
        "drop_schedule": "cosine",
        "drop_floor": 0.005,
        "end": Length(1.0, "run"),
    },
}
"""What each form fills into the keys of ``sparsity.update`` that are not given; the sources are in the methods' docstrings."""

SHARED_OUT = "layers exchange weights as training goes; they are assumed at the densities that they begin with"


class DropAndGrow(Updating):
    """Every layer drops its smallest active weights and grows as many others; a subclass says which grow by default.

    The two forms differ in their place in the step and in rounding:

    ========  ==============================  ===================  =========================================
    form      update                          units dropped        published in
    ========  ==============================  ===================  =========================================
    original  replaces the optimizer step     floor(f * active)    Evci et al., RigL, ICML 2020, 1911.11134
    itop      after the optimizer step        ceil(f * active)     Liu et al., ITOP, ICML 2021, 2102.02887
    ========  ==============================  ===================  =========================================

    Under a structure "weight" reads "unit", and units of several weights are rounded down in both forms: rounded up, the itop
    form would exchange one filter of six to the end of the run. The fraction is of the layer's active units, and the layer's
    worst are dropped; where units compete within smaller sets, each set grows as many as it lost. Where a unit holds some of
    its weights only, a grown one takes the best of them by the score that grew it, or at random where growth is, and one that
    stays, or is dropped and grown again at once, has those that it had.

    A weight that is dropped and grown again in the same update keeps its value and momentum; a newly grown one starts with
    both at 0. What is dropped: :mod:`dist_sparse.sparsity.methods.removal`. What grows: the largest dense gradients; those of
    largest average gradient (``momentum``; the optimizer's own momentum is 0 where a weight is inactive, so an average over
    steps of the dense gradients, with factor 0.9, is kept beside it); any (``random``); or weights that were never active
    before any others (``random_unfired``).
    """

    uses = Method.uses | {
        f"update.{key}"
        for key in ("form", "gradient_steps", "growth", "removal", "removal_threshold", "redistribution", *DEFAULTS["original"])
    }
    default_growth: ClassVar[Growth]
    default_redistribution: ClassVar[Redistribution] = "none"

    def __init__(
        self,
        *,
        form: Form,
        gradient_steps: int,
        seed: int,
        growth: Growth | None = None,
        removal: Removal = "magnitude",
        removal_threshold: float | None = None,
        redistribution: Redistribution | None = None,
        **method: Any,
    ) -> None:
        super().__init__(**method)
        self._form, self._seed, self._gradient_steps = form, seed, gradient_steps
        self._growth: Growth = growth or self.default_growth
        self._removal: Removal = removal
        self._removal_threshold = removal_threshold
        self.needs_gradient = self._growth == "gradient" or removal == "taylor"
        self._redistribution: Redistribution = redistribution or self.default_redistribution
        self.needs_average = "momentum" in (self._growth, self._redistribution)
        self._gradients = DenseGradients(self.access)

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        return fill(config, update={**DEFAULTS[config.update.form], **cls.choices()})

    @classmethod
    def choices(cls) -> dict[str, Any]:
        """The method's own growth and redistribution."""
        return {"growth": cls.default_growth, "redistribution": cls.default_redistribution}

    @classmethod
    def plan(cls, setting: Setting) -> Plan:
        return cls.plan_from(setting, setting.config.density)

    @classmethod
    def plan_from(cls, setting: Setting, density: float | None) -> Plan:
        """The plan of a method that begins with random masks at ``density``."""
        units, update = setting.units(density), setting.config.update
        _check_units(setting)
        _warn_of_standstill(setting, units, itop=update.form == "itop" or "update.form" not in cls.uses)
        keys = ("form", "gradient_steps", "growth", "removal", "removal_threshold", "redistribution")
        options = {key: getattr(update, key) for key in keys}
        options |= {"structure": setting.structure, "schedule": setting.update_schedule(), "seed": setting.run.seed}
        return Plan(setting=setting, initial_mask=setting.random_masks(units), active=setting.active(units), options=options)

    @classmethod
    def foresee(cls, plan: Plan, made: Sequence[int]) -> Course:
        options, densities = plan.options, initial_densities(plan)
        places = updates(options["schedule"], made)
        growth, redistribution = options.get("growth") or cls.default_growth, options.get("redistribution")
        sums = places and (growth == "gradient" or options.get("removal") == "taylor")
        dense = sum(min(options["gradient_steps"], place + 1) for place in places) if growth == "gradient" else 0
        averages = "momentum" in (growth, redistribution)
        moves = [Move(place=place, from_place=place + 1, densities=densities) for place in places]
        estimate = SHARED_OUT if redistribution not in (None, "none") else ""
        return Course(
            lines=[Line(initial=densities, moves=moves)],
            dense_gradients=len(made) if averages else dense,
            weight_copies=averages + bool(sums and options["gradient_steps"] > 1),
            estimate=estimate,
        )

    @classmethod
    def replaced(cls, plan: Plan, made: Sequence[int]) -> Sequence[int]:
        if "update.form" not in cls.uses or plan.options["form"] != "original":
            return []
        return list(updates(plan.options["schedule"], made))

    @property
    def replaces_step(self) -> bool:
        return self._form == "original"

    def update(self, step: int, regular: int) -> None:
        fraction = self._schedule.drop(regular)
        if self._redistribution == "none":
            masks = self.agreement.decide(lambda name: self._select(name, step, self._kept(name, fraction)))
        else:
            kept, grown = self._shared_out(fraction)
            masks = self.agreement.decide(lambda name: self._select(name, step, kept[name], torch.tensor([grown[name]])))
        self.replace_masks(masks)
        self._gradients.sums.clear()

    def _shared_out(self, fraction: float) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Where layers share: what stays of this rank's layers, and how many weights each layer grows. Collective."""
        names, owned, active = self.masks.names, self.agreement.owned(), self.masks.active()
        worths = {
            name: worth(self._redistribution, self.masks[name], self.access.weight(name), self._gradients.averages.get(name))
            for name in owned
        }
        shares = shares_of(self._of_all_layers(worths))
        density = self.masks.densities()
        fractions = {name: drop_fraction(fraction, density[name], shares[name], len(names)) for name in names}
        kept = {name: self._kept(name, fractions[name]) for name in owned}
        dropped = self._of_all_layers({name: active[name] - int(kept[name].sum()) for name in owned})
        total = int(sum(dropped.values()))
        units = {name: self.access.weight(name).numel() for name in names}
        room = rooms(units, {name: active[name] - int(dropped[name]) for name in names}, total)
        return kept, share_out(total, shares, room)

    def _of_all_layers(self, values: Mapping[str, float]) -> dict[str, float]:
        """A number of each layer, of which this rank knows its own layers'. Collective."""
        names = self.masks.names
        known = [values.get(name, 0.0) for name in names]
        numbers = torch.tensor(known, dtype=torch.float64, device=self.access.weight(names[0]).device)
        return dict(zip(names, self.agreement.total(numbers).tolist(), strict=True))

    def grow_score(self, name: str, step: int) -> Tensor:
        """Non-negative score [S, U] of every unit of a layer; the inactive units that score most grow."""
        if self._growth in ("gradient", "momentum"):
            return self._structure.score(scores.magnitude(self._growth_gradients[name]))
        weight = self.access.weight(name)
        sets, units, _ = self._structure.counts(weight.shape)
        score = scores.random((sets, units), generator("grow", self._seed, step, name)).to(weight.device)
        if self._growth == "random_unfired":
            score = score + ~self._structure.active(self.masks.explored(name))
        return score

    @property
    def _growth_gradients(self) -> Mapping[str, Tensor]:
        return self._gradients.averages if self._growth == "momentum" else self._gradients.sums

    def _select(self, name: str, step: int, kept: Tensor, grow: Tensor | None = None) -> Tensor:
        """The new mask of one layer, which grows as many units as it drops or, where layers share, ``grow``."""
        active = self._structure.active(self.masks[name])
        units = drop_and_grow(active, kept, self.grow_score(name, step), grow)
        shape = self.access.weight(name).shape
        return self._structure.mask(units, shape, before=self.masks[name], choose_by=self._choice(name, step))

    def _choice(self, name: str, step: int) -> Tensor | None:
        """By what newly grown units choose their weights, where the structure leaves them a choice: as growth chooses units."""
        if not self._structure.chooses:
            return None
        if self._growth in ("gradient", "momentum"):
            return scores.magnitude(self._growth_gradients[name])
        return self._structure.random_choice(self.access.weight(name).shape, generator("choose", self._seed, step, name))

    def _kept(self, name: str, fraction: float) -> Tensor:
        """Which active units of one layer are not dropped."""
        single = self._structure.counts(self.access.weight(name).shape)[2] == 1
        return removal(
            self._removal,
            self._structure,
            self.access.weight(name),
            self._structure.active(self.masks[name]),
            fraction,
            round_up=self._form == "itop" and single,
            threshold=self._removal_threshold,
            gradient=self._gradients.sums.get(name),
        )

    def gradient_masks(self, step: int) -> Masks | None:
        grows_by_it = self._growth == "gradient" and self._counts(step)
        return None if grows_by_it or self.needs_average else self.masks

    def collect(self, step: int) -> None:
        if self.needs_gradient and self._counts(step):
            # One step is enough by default, and then only the owner keeps a copy, and only until the step ends. Over several
            # steps every rank keeps all layers, so that any rank's checkpoint holds them; so it is with averages.
            self._gradients.add(self.agreement.owned() if self._gradient_steps == 1 else self.masks.names)
        if self.needs_average:
            self._gradients.average(self.masks.names)

    def chooses(self, step: int) -> bool:
        return super().chooses(step) or (self.needs_gradient and self._counts(step))

    def goes_by(self, layers: Sequence[str]) -> list[Tensor]:
        gathered = (self._gradients.sums, self._gradients.averages)
        return [tensors[name] for tensors in gathered for name in layers if name in tensors]

    def put_off(self) -> None:
        super().put_off()
        self._gradients.sums.clear()

    def _counts(self, step: int) -> bool:
        """This step's gradient scores the update of this step or of the next."""
        distance = self._schedule.until_next(step)
        due = self._schedule.due_step(self._last_step, step) is not None
        return due or (distance is not None and 0 < distance < self._gradient_steps)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **self._gradients.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._gradients.load_state_dict(state)


def _warn_of_standstill(setting: Setting, units: Mapping[str, int], *, itop: bool) -> None:
    """Tell of a share to drop that is less than a unit of every layer, from the first update on."""
    update, structure = setting.config.update, setting.structure
    if update.removal == "threshold" or update.redistribution != "none" or not units:
        return
    assert update.drop_fraction is not None, "resolve() fills it in"
    for name, shape in setting.shapes.items():
        sets, _, size = structure.counts(shape)
        if drop_count(update.drop_fraction, sets * units[name], up=itop and size == 1):
            return
    _log.warning(
        "updates drop and grow nothing: sparsity.update.drop_fraction=%g is not a single unit of any layer",
        update.drop_fraction,
    )


def _check_units(setting: Setting) -> None:
    """Options that look at single weights need a structure of single weights."""
    config, structure, shapes = setting.config, setting.structure, setting.shapes
    if config.update.removal == "set" and any(structure.counts(shape)[2] > 1 for shape in shapes.values()):
        raise UserError(
            f"sparsity.update.removal=set looks at signs; structure {config.structure} drops several weights at once"
        )
    if config.update.redistribution != "none" and any(structure.counts(shape)[::2] != (1, 1) for shape in shapes.values()):
        raise UserError(
            f"sparsity.update.redistribution={config.update.redistribution} moves single weights between layers, "
            f"which structure {config.structure} does not allow; with redistribution none every layer grows its own again"
        )
