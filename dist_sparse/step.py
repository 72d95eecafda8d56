"""The order in which engine and method make an optimizer step; the trainer, the tests and the benchmarks all step by it."""

from dataclasses import dataclass

from torch import Tensor

from dist_sparse.engines.base import Engine
from dist_sparse.execution.execution import Execution
from dist_sparse.finite import Undoing
from dist_sparse.sparsity.methods.base import Decision, Method


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an optimizer step."""

    decision: Decision
    undone: bool
    """The step must not count: the optimizer has moved no weight, and the model's buffers are as before it."""


class TrainStep:
    """Makes one optimizer step after another.

    Every micro-batch of a step goes through :meth:`forward_backward`. At the engine's step boundary, where the gradients are
    averaged over ranks, :meth:`optimizer_step` ends the step.
    """

    def __init__(self, engine: Engine, method: Method, execution: Execution | None = None) -> None:
        """``execution``: of the engine's model; by default it is dense."""
        self._engine, self._method, self._execution = engine, method, execution or Execution()
        self._begun = False
        self.undoing = Undoing(engine, method)

    def forward_backward(self, step: int, images: Tensor, targets: Tensor) -> Tensor:
        """Run one micro-batch of step ``step`` (1 is the first); returns its loss as :meth:`.Engine.forward_backward` does."""
        self._method.before_forward(step)
        if not self._begun:
            self.undoing.begin(step)
            self._begun = True
        gradient_masks = self._method.gradient_masks(step)
        self._execution.use(self._method.masks, gradient_masks)
        wanted = self._method.wanted_gradients(step) if gradient_masks is None else None
        return self._engine.forward_backward(images, targets, gradient_masks, wanted)

    def optimizer_step(self, step: int) -> Outcome:
        """End step ``step`` once its last micro-batch has run. Collective."""
        assert self._begun and self._engine.at_step_boundary, "further micro-batches belong to this step"
        self._begun = False
        if undone := self.undoing.needed(step):  # it must not count: gradients that choose masks are not finite
            self._engine.step(skip=True)
            decision = self._method.after_overflow(step)
        else:
            decision = self._method.after_backward(step)  # masks may move; then the gradients are masked
            self._engine.step(skip=decision.skip_optimizer)
            undone = self.undoing.held_back(step)
            self._method.after_step(step)  # inactive weights and their optimizer state are 0 again
        return Outcome(decision=decision, undone=undone)
