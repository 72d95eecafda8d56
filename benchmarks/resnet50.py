"""The network under test: timm's ResNet-50 with this package's own engine, optimizer and method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dist_sparse import distributed
from dist_sparse.config.duration import Length
from dist_sparse.config.engine import EngineConfig
from dist_sparse.config.schema import OptimConfig
from dist_sparse.config.sparsity import SparsityConfig, UpdateConfig
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.exchange import Choice
from dist_sparse.engines.packed import PackedDDPEngine
from dist_sparse.engines.precision import Precision
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.optim import build_optimizer, check_zero_preservation
from dist_sparse.sparsity.layers import sparse_layers
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.build import begin, plan_method
from dist_sparse.sparsity.methods.context import RunFacts
from dist_sparse.sparsity.methods.resolve import resolve

OPTIMIZER = OptimConfig(name="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4)
DROP_FRACTION = 0.3
# A new step is an update step each time, so that a benchmark can ask for one at will.
ALWAYS = UpdateConfig(interval=Length(1, "steps"), drop_fraction=DROP_FRACTION, drop_schedule="constant")


@dataclass(frozen=True)
class Trainee:
    """A network with what trains it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    engine: DDPEngine
    method: Method
    weights: dict[str, nn.Parameter]
    """The layers that have masks."""

    def masks(self) -> dict[str, Tensor]:
        """Bool masks by layer."""
        return {name: self.method.masks[name] for name in self.method.masks.names}


def build(
    method: str,
    density: float,
    precision: Precision,
    adapt: Callable[[nn.Module], None] = lambda _: None,
    *,
    keep_dense: Sequence[str] = (),
    exchange: Choice = "auto",
    structure: str = "unstructured",
    distribution: str = "erk",
    create: Callable[[], nn.Module] = lambda: timm.create_model("resnet50", zero_init_last=False),
    execute: Callable[[nn.Module, Masks], PackedWeights | None] = lambda _model, _masks: None,
    update: UpdateConfig | None = None,
) -> Trainee:
    """A ResNet-50, or another network, with masks over all convolutions and linear layers but those of ``keep_dense``.

    ``adapt`` may change the model before optimizer and engine take hold of it, and ``execute`` how it computes with its masks,
    and pack its weights, before the engine does. Methods that drop and grow do so at every step unless ``update`` says when.
    """
    torch.manual_seed(0)
    # With the usual zero-initialised last norms of the residual branches a third of the layers would have zero gradients.
    model = precision.place_model(create())
    weights = sparse_layers(model, keep_dense)
    adapt(model)
    optimizer = build_optimizer(OPTIMIZER, model, batch_size=1)
    keeps = check_zero_preservation(OPTIMIZER, precision.device)
    update = update or (ALWAYS if method in ("rigl", "shuffled_block") else UpdateConfig())
    masked = {} if method == "dense" else {"density": density, "structure": structure, "distribution": distribution}
    config = resolve(SparsityConfig(method=method, update=update, **masked))
    rank, size = dist.get_rank(), dist.get_world_size()
    run = RunFacts(seed=0, steps_per_epoch=1, total_steps=10**9, rank=rank, world_size=size, device=precision.device)
    begun = begin(plan_method(config, weights, run))
    packed = execute(model, begun.masks)
    kind = DDPEngine if packed is None else partial(PackedDDPEngine, weights=packed)
    engine = kind(model, optimizer, cross_entropy, precision=precision, exchange=exchange)
    built = begun.bind(engine, remask=not (keeps.weights and keeps.state))
    built.start()
    return Trainee(model, optimizer, engine, built, weights)


def start(device: str) -> torch.device:
    """A process group on ``cpu`` or ``cuda``: that of torchrun's variables, or of one."""
    return distributed.start(EngineConfig(device=device)).device  # type: ignore[arg-type]
