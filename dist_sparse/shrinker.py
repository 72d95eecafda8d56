"""Shrinking while training: when a network loses its dead units, and that all ranks lose the same.

PruneTrain (S. Lym, E. Choukse, S. Zangeneh, W. Wen, S. Sanghavi, M. Erez, SC 2019, arXiv 1901.09290) reconfigures a network
every few epochs; here it is done after a mask update by which enough has become dead, once nothing comes back any more.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from dist_sparse import distributed
from dist_sparse.config import Config
from dist_sparse.data.batch import DataInfo
from dist_sparse.engines.base import Engine
from dist_sparse.engines.narrowing import NarrowingDDPEngine
from dist_sparse.errors import UserError
from dist_sparse.execution.execution import Execution
from dist_sparse.flops import layer_macs
from dist_sparse.shrinking.in_training import Narrowing, find_narrowing
from dist_sparse.shrinking.plan import original_units
from dist_sparse.sparsity.layers import weight_layers
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.tracking import say

_log = logging.getLogger(__name__)

_WORTHWHILE = 0.9
"""While the density still moves, another attempt is made once at most this share is left of the last attempt's FLOPs."""


@dataclass(kw_only=True)
class Shrinker:
    """Takes dead units out of an engine's model, of its moving average and of its optimizer's state."""

    engine: NarrowingDDPEngine
    method: Method
    execution: Execution
    average: nn.Module | None
    image: tuple[int, int, int]
    """[channels, height, width]"""
    macs: Mapping[str, int]
    """Multiply-accumulates of the whole network by layer."""
    multiple: int = 1
    """What widths stay multiples of."""
    _left: float = field(default=1.0, init=False)
    """The share of the FLOPs that live units needed when shrinking was tried last."""

    _seen: tuple[int, bool, bool] | None = field(default=None, init=False)
    """What the last decision was made by."""

    def __post_init__(self) -> None:
        self._shapes = {name: weight.shape for name, weight in weight_layers(self.engine.model).items()}

    def check(self) -> None:
        """Refuse with a UserError a network that cannot be followed. Not collective: the first rank calls it."""
        find_narrowing([self.engine.whole(self.engine.model)], {}, self._example())

    def shrink_if_worthwhile(self, step: int) -> bool:
        """Between two steps, after ``step``: remove what can go, if that is enough; tells whether anything was. Collective."""
        seen = self.method.masks.version, self.method.settled(step), self.method.at_final_density()
        if seen == self._seen:
            return False
        self._seen = seen
        _, settled, is_final = seen
        left = self._share_left()
        if not settled or left >= (1.0 if is_final else _WORTHWHILE) * self._left:
            return False
        self._left = left
        started, found = time.perf_counter(), None
        self._synchronise()
        if distributed.is_first():
            found = self._find(step)
        found = distributed.from_first_rank(found)
        if found is None or found.plan == self.engine.plan:
            if is_final and distributed.is_first():
                why = "python -m dist_sparse.export --format=shrunk says why"
                say(f"after step {step} no dead unit can leave the network; {why}")
            return False
        copies = {} if self.average is None else {self.average: found.changed[1]}
        self.engine.narrow(found.plan, found.changed[0], copies)
        self.tell_execution()
        if distributed.is_first():
            say(f"after step {step} {self.describe()} (it took {time.perf_counter() - started:.1f} s)")
        return True

    def _synchronise(self) -> None:
        """Constants are those of running statistics, which every rank has its own of."""
        self.engine.synchronise_buffers()
        if self.average is not None:
            distributed.copy_first_rank(self.average.buffers())

    def _find(self, step: int) -> Narrowing | None:
        networks = [self.engine.model] if self.average is None else [self.engine.model, self.average]
        try:
            whole = [self.engine.whole(each) for each in networks]
            return find_narrowing(whole, self._existing(), self._example(), multiple=self.multiple)
        except UserError as error:
            _log.warning("after step %d the network stays as wide as it is: %s", step, error)
            return None

    def _existing(self) -> dict[str, Tensor]:
        """The weights that are active and were not removed, of every layer that lacks some."""
        plan, masks = self.engine.plan, self.method.masks
        active = {name: masks[name].cpu() for name in masks.names}
        for name, shape in self._shapes.items():
            if name in plan.kept or name in plan.columns:
                there = original_units(plan, name, shape).mask(shape)
                active[name] = active[name] & there if name in active else there
        return active

    def _share_left(self) -> float:
        """The share of the network's FLOPs that layers between live units need."""
        total, left = 0, 0.0
        for name, macs in self.macs.items():
            share = 1.0
            if name in self.method.masks.names:
                pairs = self.method.masks[name].flatten(2).any(2) if len(self._shapes[name]) > 2 else self.method.masks[name]
                share = float(pairs.any(1).float().mean() * pairs.any(0).float().mean())
            total, left = total + macs, left + macs * share
        return left / max(total, 1)

    def _example(self) -> Tensor:
        return torch.zeros(1, *self.image)

    def tell_execution(self) -> None:
        """Tell how much of each layer is still computed."""
        parameters = dict(self.engine.model.named_parameters())
        sizes = {name: parameters[name].numel() / shape.numel() for name, shape in self._shapes.items()}
        self.execution.remaining = {name: size for name, size in sizes.items() if size < 1}

    def describe(self) -> str:
        """What is left, for the user."""
        parameters = sum(parameter.numel() for parameter in self.engine.model.parameters())
        flops = sum(macs * self.execution.remaining.get(name, 1.0) for name, macs in self.macs.items())
        share = flops / max(sum(self.macs.values()), 1)
        return f"the network without its dead units has {parameters:,} parameters and {share:.1%} of the dense FLOPs"

    def state_dict(self) -> dict[str, Any]:
        return {"left": self._left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken; the engine has its checkpoint already."""
        self._left = state["left"]
        self.tell_execution()


def build_shrinker(
    config: Config, engine: Engine, method: Method, execution: Execution, ema: ModelEmaV3 | None, info: DataInfo
) -> Shrinker | None:
    """What takes dead units out of a run's model, which is still whole; None if that is not asked for. Collective.

    Raises:
        UserError: the network cannot be followed; on all ranks alike.
    """
    if not config.execution.shrink or not len(method.masks):
        return None
    assert isinstance(engine, NarrowingDDPEngine), "as the configuration asks for"
    image = (info.channels, info.image_size, info.image_size)
    shrinker = Shrinker(
        engine=engine,
        method=method,
        execution=execution,
        average=None if ema is None else ema.module,
        image=image,
        macs=layer_macs(engine.model, image),
        multiple=config.execution.width_multiple,
    )
    with distributed.agreeing_on_errors():
        if distributed.is_first():
            shrinker.check()
    return shrinker
