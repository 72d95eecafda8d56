"""What public implementations do to the same network: their operations, read from their code and written anew.

GraNet (Shiweiliuiiiiiii/GraNet, ``core.py``), rigl-torch (nollied/rigl-torch, ``RigL.py``) and sparsimony (mklasby/sparsimony,
``fake_sparsity.py`` and ``dst/base.py``). Masks come by layer; momentum is in the optimizer's state.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Weights = Mapping[str, nn.Parameter]


class GraNet:
    """Float masks; after the optimizer's step, weights and momentum become new products with them. No gradient is masked."""

    def __init__(self, weights: Weights, optimizer: torch.optim.Optimizer, masks: Mapping[str, Tensor]) -> None:
        self.weights, self.state = weights, optimizer.state
        self.masks = {name: mask.float() for name, mask in masks.items()}

    def after_step(self) -> None:
        """A new tensor for every weight and every momentum."""
        for name, weight in self.weights.items():
            mask, state = self.masks[name], self.state[weight]
            weight.data = torch.mul(weight.data, mask)
            if (momentum := state.get("momentum_buffer")) is not None:
                state["momentum_buffer"] = torch.mul(momentum, mask)

    @torch.no_grad()
    def update(self, fraction: float) -> None:
        """RigL's update with two whole sorts a layer: |w| for a threshold, |g| for positions."""
        active = {name: int(mask.sum().item()) for name, mask in self.masks.items()}
        removed = {name: self._drop(name, fraction, active[name]) for name in self.weights}
        for name in self.weights:
            self._grow(name, removed[name])
        self.after_step()

    def _drop(self, name: str, fraction: float, active: int) -> int:
        mask, magnitude = self.masks[name], self.weights[name].data.abs()
        ordered, _ = torch.sort(magnitude.view(-1))
        threshold = ordered[mask.numel() - active + math.ceil(fraction * active) - 1].item()
        mask.copy_(magnitude > threshold)
        return active - int(mask.sum().item())

    def _grow(self, name: str, count: int) -> None:
        grad, mask = self.weights[name].grad, self.masks[name].byte()
        assert grad is not None
        _, order = torch.sort((grad.clone() * (mask == 0).float()).abs().flatten(), descending=True)
        mask.view(-1)[order[:count]] = 1
        self.masks[name] = mask.float()


class RiglTorch:
    """Bool masks; a hook a weight multiplies its gradient out of place, and after the step momentum and weights are masked."""

    def __init__(self, weights: Weights, optimizer: torch.optim.Optimizer, masks: Mapping[str, Tensor]) -> None:
        self.weights, self.state = weights, optimizer.state
        self.masks = {name: mask.clone() for name, mask in masks.items()}
        for name, weight in weights.items():
            weight.register_hook(lambda grad, name=name: grad * self.masks[name])

    @torch.no_grad()
    def after_step(self) -> None:
        """Two loops over the layers."""
        self._mask(self.state[weight].get("momentum_buffer") for weight in self.weights.values())
        self._mask(self.weights.values())

    @torch.no_grad()
    def update(self, fraction: float, grads: Mapping[str, Tensor]) -> None:
        """Two sorts a layer by ``topk`` over all entries, and all layers masked anew after each one layer."""
        for name in self.weights:
            self._update_layer(name, fraction, grads[name])
            self.after_step()
            self._mask(weight.grad for weight in self.weights.values())

    def _mask(self, tensors: Iterable[Tensor | None]) -> None:
        for tensor, mask in zip(tensors, self.masks.values(), strict=True):
            if tensor is not None:
                tensor *= mask

    def _update_layer(self, name: str, fraction: float, grad: Tensor) -> None:
        weight, before = self.weights[name], self.masks[name]
        active = int(before.sum().item())
        drop = int(active * fraction)
        kept = self._best(weight.abs().view(-1), active - drop)
        grow_score = grad.abs().view(-1)
        grown = self._best(torch.where(kept == 1, grow_score.min() - 1, grow_score), drop)
        fresh = (grown.view_as(before) == 1) & ~before
        weight.data = torch.where(fresh, 0.0, weight)
        self.masks[name] = (kept + grown).view_as(before).bool()

    @staticmethod
    def _best(score: Tensor, count: int) -> Tensor:
        """0/1 in int64, scattered by the order of all entries."""
        order = score.topk(score.numel()).indices
        flags = (torch.arange(score.numel(), device=score.device) < count).long()
        return flags.scatter(0, order, flags)


class _Product(nn.Module):
    """The mask in the weight's dtype, a buffer, times the weight."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return self.mask * weight


class Sparsimony:
    """Every masked weight is a parametrization that multiplies in each forward; momentum is masked after the step."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = {name: mask.float() for name, mask in masks.items()}
        self.weights: dict[str, nn.Parameter] = {}

    def attach(self, model: nn.Module) -> None:
        """Parametrize the model; before anything else holds its parameters."""
        for name, mask in self.masks.items():
            module = model.get_submodule(name.removesuffix(".weight"))
            parametrize.register_parametrization(module, "weight", _Product(mask), unsafe=True)
            self.weights[name] = module.get_parameter("parametrizations.weight.original")

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in self.weights.items():
            state = optimizer.state[weight]
            if "momentum_buffer" in state:
                state["momentum_buffer"] *= self.masks[name]
