"""How a layer's weight is stored, for those who compute by its active weights: whole, with zeros where it is masked."""

from typing import Protocol

from torch import Size, Tensor

from dist_sparse.execution.products import Products


class Stored(Protocol):
    """Between a parameter and the values that products read; and back, between gradients of these and the parameter's."""

    def values(self, parameter: Tensor, products: Products) -> Tensor:
        """The values of products, of the shape of their positions; 0 for a weight that is inactive."""
        ...

    def gradient(self, parameter: Size, products: Products, of_values: Tensor) -> Tensor:
        """The parameter's gradient, of its shape, from that of the values."""
        ...

    def gradient_of_all(self, parameter: Size, of_weight: Tensor) -> Tensor:
        """The same from the gradient of the whole weight [out, in, height, width]."""
        ...


class Whole:
    """The parameter is the weight."""

    def values(self, parameter: Tensor, products: Products) -> Tensor:
        positions = products.positions
        return parameter.reshape(-1).index_select(0, positions.view(-1)).view(positions.shape)

    def gradient(self, parameter: Size, products: Products, of_values: Tensor) -> Tensor:
        of_weight = of_values.new_zeros(parameter)
        of_weight.view(-1).index_add_(0, products.positions.view(-1), of_values.view(-1))
        return of_weight

    def gradient_of_all(self, parameter: Size, of_weight: Tensor) -> Tensor:
        return of_weight.reshape(parameter)


WHOLE = Whole()
