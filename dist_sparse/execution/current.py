"""What a network's sparse layers compute by at the moment, and the products that were made for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dist_sparse.execution.backends import Backend
from dist_sparse.execution.convolution import StepProducts
from dist_sparse.execution.geometry import Geometry
from dist_sparse.execution.products import Products
from dist_sparse.execution.ways import LayerMask
from dist_sparse.sparsity.masks import Masks

_MOST_GEOMETRIES = 4
"""That many of a layer's are kept: those of training, of validation and of its last batch, and one more."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How a layer is computed, and what of it: ``load`` are the products computed, as a share of the dense layer's."""

    way: str
    load: float


Choose = Callable[[Mapping[str, LayerMask]], Mapping[str, Chosen]]
"""Chooses how to compute layers with these masks; those that it leaves out are computed densely."""


class Current:
    """The masks of a forward pass, and those of the weights whose gradients its backward pass gives.

    A network and its copies share one. Whoever runs the network calls :meth:`use` before.
    """

    def __init__(self, backend: Backend, masks: Masks, choose: Choose) -> None:
        self.backend, self._choose = backend, choose
        self.masks: Masks = masks
        self.gradients: Masks | None = masks
        self._chosen: WeakKeyDictionary[Masks, tuple[int, Mapping[str, Chosen]]] = WeakKeyDictionary()

    def __deepcopy__(self, memo: object) -> "Current":
        return self

    def use(self, masks: Masks, gradients: Masks | None) -> None:
        """From now on inactive weights of ``masks`` are 0, and gradients outside of ``gradients`` are not needed.

        ``gradients`` hold the ``masks``; None are all weights.
        """
        self.masks, self.gradients = masks, gradients

    def chosen(self, masks: Masks | None = None) -> Mapping[str, Chosen]:
        """How the layers that are not dense are computed with masks, by default those in use."""
        masks = masks or self.masks
        version, chosen = self._chosen.get(masks, (None, {}))
        if version != masks.version:
            chosen = self._choose(self.layer_masks(masks))
            self._chosen[masks] = masks.version, chosen
        return chosen

    def layer_masks(self, masks: Masks) -> dict[str, LayerMask]:
        """Each layer's mask."""
        packed, active = masks.packed(), masks.active()
        return {name: LayerMask(packed=packed[name], active=active[name], shape=masks.shape(name)) for name in masks.names}


class _Made(NamedTuple):
    """The products of one mask of a layer."""

    version: int
    """The version of the masks that have been looked at last."""
    packed: Tensor
    """The layer's mask in bits."""
    products: dict[tuple[Geometry, str], Products]
    """By geometry and the name of the way, those used last at the end."""


class LayerProducts:
    """A layer's products by geometry, of the few used last, made anew once its mask has changed."""

    def __init__(self, current: Current, name: str, element_size: int) -> None:
        """``name`` is that of its weight, whose numbers have so many bytes."""
        self._current, self._name, self._element_size = current, name, element_size
        self._made: WeakKeyDictionary[Masks, _Made] = WeakKeyDictionary()

    def __deepcopy__(self, memo: object) -> "LayerProducts":
        """A copy of the network has the same masks."""
        return LayerProducts(self._current, self._name, self._element_size)

    @property
    def index_bytes(self) -> int:
        """What the products that were made hold."""
        return sum(products.index_bytes for made in self._made.values() for products in made.products.values())

    def __call__(self, geometry: Geometry) -> StepProducts | None:
        """The products for the masks in use; None if the layer is computed densely."""
        current = self._current
        if (forward := self._of(current.masks, geometry)) is None:
            return None
        if current.gradients is current.masks or not torch.is_grad_enabled():
            return StepProducts(forward, forward)
        return StepProducts(forward, None if current.gradients is None else self._of(current.gradients, geometry))

    def _of(self, masks: Masks, geometry: Geometry) -> Products | None:
        if (chosen := self._current.chosen(masks).get(self._name)) is None:
            return None
        made, key = self._made_of(masks), (geometry, chosen.way)
        if (products := made.pop(key, None)) is None:
            way, mask = self._current.backend.ways[chosen.way], self._current.layer_masks(masks)[self._name]
            products = way.products(mask, geometry, self._element_size)
        made[key] = products  # behind those that were used before
        for oldest in list(made)[:-_MOST_GEOMETRIES]:
            made.pop(oldest, None)  # a thread that runs the network as well may have done so
        return products

    def _made_of(self, masks: Masks) -> dict[tuple[Geometry, str], Products]:
        """What was made of the layer's mask of now. Other layers' masks may have changed without this one's."""
        before = self._made.get(masks)
        if before is not None and before.version == masks.version:
            return before.products
        packed = masks.packed()[self._name]
        products = before.products if before is not None and before.packed.equal(packed) else {}
        self._made[masks] = _Made(masks.version, packed, products)
        return products
