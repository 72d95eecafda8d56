"""What a reference is: where its code lies in a clone, which of our recipes it is compared to, and how it masks a run."""

import contextlib
import importlib
import io
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.study.cases import Case

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dist_sparse.trainer import Moment, Trainer

INTERVAL = 100
"""Steps between two updates in all recipes of the study."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One of our recipes, and the settings in which the reference trains beside it."""

    recipe: str
    settings: tuple[str, ...] = ("literal",)
    """literal: as the repository's training loop has it; corrected: with the mistakes mended that its module here names."""
    changed: tuple[tuple[str, object], ...] = ()
    """Keys of our recipe that give it the reference's choices."""
    network: str = "lenet_300_100"
    densities: tuple[float, ...] = (0.02, 0.005)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A public repository."""

    option: str
    """The command-line option that gives the folder of a clone."""
    repository: str
    folder: str
    """Below the clone: where its modules are imported from."""
    module: str
    comparisons: tuple[Comparison, ...]
    driver: "Callable[[Any, Job], Driver]"
    """Makes what masks a run, from the imported module and what is to be run."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a reference, beside a run of ours."""

    reference: Reference
    comparison: Comparison
    setting: str
    density: float
    seed: int
    epochs: int
    images: int | None

    @cached_property
    def ours(self) -> Case:
        """Our run."""
        of = self.comparison
        given = {"density": self.density, "seed": self.seed, "epochs": self.epochs, "images": self.images}
        return Case(recipe=of.recipe, network=of.network, changed=of.changed, **given)

    @cached_property
    def dense(self) -> Case:
        """The run whose data, initial weights, optimizer and schedule the reference gets: ours without masks."""
        return replace(self.ours, recipe="dense", density=1.0, changed=())

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.epochs * ((self.images or 60_000) // self.dense.config.train.batch_size)


class Driver(ABC):
    """A hook of a dense run, by which a reference's code masks it.

    Its code runs on the CPU with a generator of its own, so that the order of our data is that of our run; it prints nothing.
    """

    def __call__(self, moment: "Moment", trainer: "Trainer") -> None:
        import torch

        from dist_sparse.trainer import Moment

        with contextlib.redirect_stdout(io.StringIO()):
            if moment is Moment.STARTED:
                with torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(trainer.config.seed)
                    self.begin(trainer)
            elif moment is Moment.GRADIENTS_READY:
                self.gradients_ready(trainer)
            elif moment is Moment.STEPPED:
                self.stepped(trainer)

    @abstractmethod
    def begin(self, trainer: "Trainer") -> None:
        """Mask the initial weights."""

    def gradients_ready(self, trainer: "Trainer") -> None:  # noqa: B027 -- most need only one of the two
        """Do what comes between the backward pass and the optimizer's step."""

    def stepped(self, trainer: "Trainer") -> None:  # noqa: B027 -- see above
        """Do what comes after the optimizer's step, when the gradients are gone."""

    @abstractmethod
    def density(self) -> float:
        """The active share of all masked weights now."""


class Gradients:
    """Keeps the gradients of a step for a reference that reads them after the optimizer's step."""

    def __init__(self) -> None:
        self._kept: Mapping[Tensor, Tensor | None] = {}

    def keep(self, model: "nn.Module") -> None:
        """Remember them, before the step."""
        self._kept = {parameter: parameter.grad for parameter in model.parameters()}

    @contextlib.contextmanager
    def given_back(self) -> Iterator[None]:
        """The parameters have their gradients meanwhile."""
        for parameter, gradient in self._kept.items():
            parameter.grad = gradient
        yield
        for parameter in self._kept:
            parameter.grad = None


def active_share(masks: "Mapping[str, Tensor]") -> float:
    """The density of masks together."""
    return sum(float(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def put_in_place(model: "nn.Module", name: str, layer: "Any") -> None:
    """Let a reference's layer take the place of one of the model, with its parameters."""
    parent, _, child = name.rpartition(".")
    old = model.get_submodule(name)
    layer.weight, layer.bias = old.weight, old.bias
    setattr(model.get_submodule(parent), child, layer)


def check_clone(reference: Reference, clone: Path) -> None:
    """Say so in one line, and end, where a folder is not a clone of the repository."""
    module = clone / reference.folder / reference.module.replace(".", os.sep)
    if not (module.is_dir() or module.with_suffix(".py").is_file()):
        text = f"no {module.relative_to(clone)} there; it should be a clone of {reference.repository}"
        raise SystemExit(f"--{reference.option} {clone}: {text}")


@contextlib.contextmanager
def imported(reference: Reference, clone: Path) -> Iterator[ModuleType]:
    """The reference's module from a clone; ``.cuda()`` does nothing meanwhile. Libraries of its reports may be missing."""
    import torch

    absent = [name for name in ("pandas", "tabulate") if find_spec(name) is None]
    with (
        mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor),
        mock.patch.object(sys, "path", [str(clone / reference.folder), *sys.path]),
    ):
        sys.modules.update({name: module_from_spec(ModuleSpec(name, None)) for name in absent})
        try:
            with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
                module = importlib.import_module(reference.module)
        finally:
            for name in absent:
                del sys.modules[name]
        try:
            yield module
        finally:
            inside = str((clone / reference.folder).resolve())
            for name, each in list(sys.modules.items()):
                if str(getattr(each, "__file__", None) or "").startswith(inside):
                    del sys.modules[name]
