"""What a sparse network holds and costs, layer by layer and in all."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from torch import nn

from dist_sparse.flops import LayerRow, layer_macs, layer_table, sparse_macs
from dist_sparse.sparsity.layers import weight_layers


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters of the network and FLOPs of one image's forward pass (two to a multiply-accumulate), sparse and dense."""

    rows: list[LayerRow]
    parameters: int

    @property
    def active_parameters(self) -> int:
        return self.parameters - sum(row.weights - row.active for row in self.rows)

    @property
    def flops(self) -> float:
        return 2 * sparse_macs({row.name: row.macs for row in self.rows}, {row.name: row.density for row in self.rows})

    @property
    def dense_flops(self) -> int:
        return 2 * sum(row.macs for row in self.rows)

    def with_active(self, active: Mapping[str, int]) -> "Cost":
        """The cost of the same network with other masks on the same layers."""
        counts = {row.name: active.get(row.name, row.active) for row in self.rows}
        rows = [replace(row, active=counts[row.name], density=counts[row.name] / row.weights) for row in self.rows]
        return replace(self, rows=rows)

    def with_execution(self, ways: Mapping[str, str], gains: Mapping[str, float]) -> "Cost":
        """The same with how masked layers are computed, and what each gains by it where that was measured."""
        rows = [replace(row, computed=ways.get(row.name, ""), gain=gains.get(row.name)) for row in self.rows]
        return replace(self, rows=rows)

    def table(self) -> str:
        """The table of layers with its totals."""
        return layer_table(self.rows, self.parameters)

    def forward_share(self, densities: Mapping[str, float]) -> float:
        """Cost of a forward pass relative to the dense one with the layers at ``densities``; the others are dense."""
        return 2 * sparse_macs({row.name: row.macs for row in self.rows}, densities) / self.dense_flops

    def summary(self) -> dict[str, float]:
        """The totals, for a run's summary."""
        return {
            "active_parameters": self.active_parameters,
            "parameters": self.parameters,
            "flops": self.flops,
            "dense_flops": self.dense_flops,
        }


def dense_flops_by_side(model: nn.Module, channels: int, sides: Collection[int]) -> dict[int, int]:
    """FLOPs of the dense forward of one image of each of these sides, in pixels."""
    return {side: 2 * sum(layer_macs(model, (channels, side, side)).values()) for side in sides}


def measure(model: nn.Module, image: tuple[int, int, int], active: Mapping[str, int], structure: str) -> Cost:
    """The cost of a network whose masked layers have ``active`` weights; ``image`` is [channels, height, width]."""
    macs = layer_macs(model, image)
    rows = []
    for name, weight in weight_layers(model).items():
        count = active.get(name, weight.numel())
        kind = structure if name in active else "-"
        rows.append(LayerRow(name, tuple(weight.shape), count / weight.numel(), kind, count, macs.get(name, 0)))
    return Cost(rows=rows, parameters=sum(parameter.numel() for parameter in model.parameters()))
