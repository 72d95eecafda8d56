"""The masked layers of a network, packed: inactive weights do not exist, neither have they gradients nor optimizer state."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

from dist_sparse.distributed import AgreedError
from dist_sparse.execution.packed_layer import Move, PackedLayer
from dist_sparse.execution.packed_modules import pack_module
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.packed_tensor import PackedTensor, whole


class PackedWeights:
    """By layer name, which is that of the parameter, where active weights belong."""

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        """Pack the layers of ``masks``; other parameters stay as they are.

        Raises:
            UserError: a weight is that of several modules.
        """
        self.masks = masks
        _check_unshared(model, masks.names)
        self.replaced: dict[nn.Parameter, nn.Parameter] = {}
        """The parameters that were whole, and what holds their active entries in their place."""
        self.layers: dict[str, PackedLayer] = {}
        parameters, packed = dict(model.named_parameters()), masks.packed()
        for name in masks.names:
            layer = self.layers[name] = PackedLayer(name, parameters[name].shape, packed[name])
            self.replaced[parameters[name]] = pack_module(_module_of(model, name), layer)
        self._of_copy: dict[str, Tensor] | None = None
        """By layer the positions by which the network's copy is packed, if there is one."""
        self._version = masks.version

    def moves(self) -> Iterator[tuple[str, Move]]:
        """Follow the masks: what is to be done with what was packed of each layer whose mask is another one now.

        A layer at a time, so that what it takes to move one is gone before the next. All are to be taken.
        """
        if self._version == self.masks.version:
            return
        self._version, packed = self.masks.version, self.masks.packed()
        for name, layer in self.layers.items():
            if not layer.packed.equal(packed[name]):
                yield name, layer.move_to(packed[name].clone())

    def move(self, model: nn.Module, name: str, move: Move) -> nn.Parameter:
        """Move a layer's values in a network, or in its moving average: in place where it has as many as before.

        Returns:
            The parameter that has them now.
        """
        module = _module_of(model, name)
        held = module._parameters["weight"]
        assert held is not None
        moved = move(held.detach())
        if moved.shape == held.shape:
            held.detach().copy_(moved)
            return held
        replacing = module._parameters["weight"] = nn.Parameter(moved, requires_grad=held.requires_grad)
        return replacing

    def copied(self) -> None:
        """The network was copied, such as for its moving average: :meth:`move_copy` is to have what it takes."""
        self._of_copy = {name: layer.positions for name, layer in self.layers.items()}

    def move_copy(self, copy: nn.Module) -> None:
        """Give the copy the present masks. Its weights that were inactive within one update only keep their values."""
        assert self._of_copy is not None
        now = {name: layer.positions for name, layer in self.layers.items()}
        moved = {name: before for name, before in self._of_copy.items() if before is not now[name]}
        self._of_copy = now
        for name, before in moved.items():
            self.move(copy, name, Move.between(before, now[name], self.layers[name].shape.numel()))

    def hand_over(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor | PackedTensor]:
        """A network's tensors by name, to be kept outside of it: packed ones with the bits that tell where they belong."""
        return {name: self.layers[name].hand_over(each) if name in self.layers else each for name, each in tensors.items()}

    def take_over(self, tensors: Mapping[str, Tensor | PackedTensor]) -> dict[str, Tensor]:
        """The way back, from whole tensors too."""
        return {name: self.layers[name].pack(each) if name in self.layers else whole(each) for name, each in tensors.items()}


def _check_unshared(model: nn.Module, names: Iterable[str]) -> None:
    held = Counter(parameter for module in model.modules() for parameter in module._parameters.values())
    parameters = dict(model.named_parameters())
    if shared := [name for name in names if held[parameters[name]] > 1]:
        raise AgreedError(
            f"execution.storage=packed: several modules have the weight {shared[0]}; execution.storage=masked takes it"
        )


def _module_of(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])
