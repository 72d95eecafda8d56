"""Numbers that are none, planted in the training process: in activations, gradients, weights, statistics and states."""

import math
from collections.abc import Callable
from typing import Any

PLACES = ("images", "activation", "loss", "gradient", "weight", "statistics", "optimizer", "average")


def poison(place: str, first: int, times: int, value: float, which: int, whole: bool) -> None:
    """In ``times`` steps from ``first`` on ``value`` gets into a tensor of this process: all of it, or one number."""
    from dist_sparse.trainer import Trainer

    fit = Trainer.fit

    def spoil(tensor: Any) -> Any:
        import torch

        most = torch.finfo(tensor.dtype).max  # half precision holds less than other types
        bad = max(-most, value) if math.isfinite(value) else value
        return tensor.fill_(bad) if whole else tensor.view(-1)[:1].fill_(bad)

    def then_fit(trainer: Any) -> Any:
        _plant(trainer, place, which, lambda: first <= trainer.progress.step + 1 < first + times, spoil)
        return fit(trainer)

    setattr(Trainer, "fit", then_fit)  # noqa: B010


def _plant(trainer: Any, place: str, which: int, due: Callable[[], bool], spoil: Callable[[Any], Any]) -> None:
    import torch

    model, engine = trainer.engine.model, trainer.engine

    def when_due(function: Callable[[Any], Any]) -> Callable[..., Any]:
        def hook(*arguments: Any) -> Any:
            return function(arguments[-1]) if due() else None

        return hook

    def spoilt(tensor: Any) -> Any:
        copy = tensor.clone()
        with torch.no_grad():
            spoil(copy)
        return copy

    if place in ("activation", "images"):
        layers = [module for module in model.modules() if not list(module.children())]
        layer = layers[0] if place == "images" else layers[which % len(layers)]
        if place == "images":
            layer.register_forward_pre_hook(when_due(lambda inputs: (spoilt(inputs[0]), *inputs[1:])))
        else:
            layer.register_forward_hook(when_due(spoilt))
    elif place == "gradient":
        parameters = list(model.parameters())
        parameters[which % len(parameters)].register_hook(when_due(spoilt))
    elif place == "loss":
        loss = engine._loss
        engine._loss = lambda *arguments: spoilt(loss(*arguments)) if due() else loss(*arguments)
    else:
        _before_each_step(trainer, lambda: _spoil_state(trainer, place, which, spoil) if due() else None)


def _before_each_step(trainer: Any, act: Callable[[], object]) -> None:
    train_on = trainer.train_on

    def then(*arguments: Any) -> Any:
        act()
        return train_on(*arguments)

    trainer.train_on = then


def _spoil_state(trainer: Any, place: str, which: int, spoil: Callable[[Any], Any]) -> None:
    import torch

    model = trainer.engine.model
    if place == "weight":
        tensors = list(model.parameters())
    elif place == "statistics":
        tensors = [each for each in model.buffers() if each.is_floating_point()]
    elif place == "average":
        tensors = [] if trainer.ema is None else list(trainer.ema.module.parameters())
    else:
        states = trainer.engine._optimizer.state.values()
        tensors = [each for state in states for each in state.values() if isinstance(each, torch.Tensor) and each.numel() > 1]
    if tensors:
        with torch.no_grad():
            spoil(tensors[which % len(tensors)])
