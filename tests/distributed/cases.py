"""What the ranks of a world are asked to do. Results are plain numbers, text and lists, the same type on every rank."""

import contextlib
import copy
import os
import random
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from dist_sparse import distributed, errors
from dist_sparse.build import build_parts, build_trainer, resolved
from dist_sparse.config import Config, with_values
from dist_sparse.execution import available
from dist_sparse.execution.kernels import kernels
from dist_sparse.run_folder import RunFolder
from dist_sparse.sparsity import bits
from dist_sparse.sparsity.agreement import Agreement, MaskDisagreement
from dist_sparse.sparsity.global_selection import global_top_k
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.drop_grow.gradients import DenseGradients
from dist_sparse.sparsity.methods.shuffled_block.method import ShuffledBlock
from dist_sparse.tracking import Tracker
from dist_sparse.trainer import Hook, Trainer
from tests.asking import asked
from tests.command import Outcome, here, train_here
from tests.shrinking.networks import randomised
from tests.values import LOGGED


class Recorder(Tracker):
    """Keeps what is logged on its rank: every rank logs, although only the first one's values reach the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, Any]] = {}

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self.rows.setdefault(step, {}).update(values)


def trainer_for(values: dict[str, Any], folder: str) -> tuple[Trainer, Recorder]:
    """A trainer of this rank in the world's group, for a run of its own folder that logs into memory."""
    config = resolved(with_values(Config(), {**LOGGED, **values}))
    run_folder = RunFolder(path=Path(folder))
    run_folder.checkpoints.mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(build_parts(config, distributed.start(config.engine)), run_folder, None)
    trainer.tracker.close()
    trainer.tracker = recorder = Recorder()
    return trainer, recorder


@dataclass(frozen=True)
class Trained:
    """One rank's view of a run."""

    initial: dict[str, int]
    """Digest of each layer's first mask."""
    final: dict[str, int]
    rows: dict[int, dict[str, Any]]
    """What was logged, by step."""

    @property
    def digests(self) -> dict[int, str]:
        """Digest of all masks by step, at updates and validations."""
        return self.column("sparsity/mask_digest")

    @property
    def losses(self) -> dict[int, float]:
        return self.column("train/loss")

    def column(self, name: str) -> dict[int, Any]:
        return {step: row[name] for step, row in self.rows.items() if name in row}

    @property
    def updates(self) -> int:
        """How many updates moved a mask."""
        return sum(changed > 0 for changed in self.column("sparsity/changed").values())


def train(values: dict[str, Any], folder: str) -> Trained:
    """Train to the end."""
    trainer, recorder = trainer_for(values, folder)
    masks = trainer.method.masks
    initial = masks.digests()
    trainer.fit()
    trainer.engine.close()  # DeepSpeed changes the process
    assert masks.digests() == masks.digests(in_memory=True), "the bits beside a mask are its own"
    return Trained(initial, masks.digests(), recorder.rows)


def train_seeded_apart(values: dict[str, Any], folder: str) -> Trained:
    """Train on ranks whose global generators differ, as where a script seeds each with its rank."""
    torch.manual_seed(17 + dist.get_rank())
    random.seed(17 + dist.get_rank())
    return train(values, folder)


def train_without_compiler(values: dict[str, Any], folder: str) -> Trained:
    """Train as a process does that finds no C++ compiler."""
    without = mock.patch.object(available, "kernels", kernels.__wrapped__)  # as in a new process
    with without, mock.patch.dict(os.environ, CXX="no-such-compiler"):
        return train(values, folder)


def train_in_blocks(values: dict[str, Any], folder: str) -> tuple[dict[str, list[int]], bool]:
    """Train with shuffled blocks; returns all blocks in numbers, and whether the masks are their union."""
    trainer, _ = trainer_for(values, folder)
    method = trainer.method
    assert isinstance(method, ShuffledBlock)
    trainer.fit()
    masks = {name: method.masks[name] for name in method.blocks}
    unions = all(torch.equal(method.blocks[name].mask(mask.shape), mask) for name, mask in masks.items())
    return {name: blocks.pack().tolist() for name, blocks in method.blocks.items()}, unions


def train_with_flipped_bit(
    values: dict[str, Any], folder: str, *, rank: int, layer: str, after_step: int
) -> tuple[int, str] | None:
    """Train, and after so many steps change one entry of one mask behind the back of everything on one rank.

    Returns the steps that were made and the message of the MaskDisagreement that ended the run, or None if nothing did.
    """
    trainer, _ = trainer_for(values, folder)
    trainer.tracker = Saboteur(trainer.method.masks, layer if dist.get_rank() == rank else None, after_step)
    try:
        trainer.fit()
    except MaskDisagreement as error:
        return trainer.progress.step, str(error)
    return None


class Saboteur(Tracker):
    """Flips the first entry of a layer's mask, if it has been given one."""

    def __init__(self, masks: Masks, layer: str | None, after_step: int) -> None:
        super().__init__()
        self._masks, self._layer, self._after_step = masks, layer, after_step

    def advance(self, step: int) -> None:
        if step == self._after_step and self._layer is not None:
            multiplier = self._masks._multiplier(self._layer).view(-1)
            multiplier[0] = 1 - multiplier[0]


def decide(sizes: dict[str, tuple[int, ...]]) -> tuple[list[str], dict[str, list], dict[str, list]]:
    """One decision: the layers that this rank owns, the masks that it has in the end, and those that it selected itself.

    Each rank selects at random, and differently, so that ranks can agree only if one of them speaks for each layer.
    """
    shapes = {name: torch.Size(shape) for name, shape in sizes.items()}
    agreement = Agreement(shapes, rank=dist.get_rank(), world_size=dist.get_world_size(), device=torch.device("cpu"))
    draws = torch.Generator().manual_seed(dist.get_rank())
    chosen = {}

    def select(name: str) -> torch.Tensor:
        assert name not in chosen
        mask = torch.rand(shapes[name], generator=draws) < 0.5
        chosen[name] = mask.tolist()
        return mask

    masks = agreement.decide(select)
    agreement.verify(lambda: {name: bits.digest(bits.pack(mask)) for name, mask in masks.items()})
    return agreement.owned(), {name: mask.tolist() for name, mask in masks.items()}, chosen


class _Gradients:
    """What an engine gives :class:`DenseGradients`: gradients that are one number each, the same on all ranks."""

    def __init__(self, shapes: dict[str, torch.Size]) -> None:
        self.shapes, self.values = shapes, dict.fromkeys(shapes, 0.0)

    def gathered(self, *, gradients: Iterable[str]) -> contextlib.AbstractContextManager[None]:
        self.asked = list(gradients)
        return contextlib.nullcontext()

    def grad(self, name: str) -> torch.Tensor:
        assert name in self.asked
        return torch.full(self.shapes[name], self.values[name])

    kept_grad = grad

    def weight(self, name: str) -> torch.Tensor:
        return torch.empty(()).expand(self.shapes[name])


def keep_gradients(sizes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Sums and averages of three steps' gradients, of which the second is not finite in one layer, and again from a checkpoint.

    Returns:
        The layers that this rank owns and that it holds, and the state after each step, as lists.
    """
    shapes = {name: torch.Size(shape) for name, shape in sizes.items()}
    agreement = Agreement(shapes, rank=dist.get_rank(), world_size=dist.get_world_size(), device=torch.device("cpu"))
    access: Any = _Gradients(shapes)
    kept, states = DenseGradients(access, agreement), []
    for step in range(3):
        access.values = {name: 1.0 + step + number for number, name in enumerate(sizes)}
        kept.add()
        if step == 1:
            access.values[next(iter(sizes))] = torch.inf
        kept.average()
        states.append(kept.state_dict())
        kept = DenseGradients(access, agreement)
        kept.load_state_dict(states[-1])
    values = [
        {what: {name: sorted(set(tensor.view(-1).tolist())) for name, tensor in held.items()} for what, held in state.items()}
        for state in states
    ]
    return {"owned": agreement.owned(), "held": [list(kept.averages), list(kept._sums)], "states": values}


def select_globally(scores: dict[str, list[float]], among: dict[str, list[bool]], k: int) -> dict[str, list[bool]]:
    """The best k over all layers: the choice of the layers that this rank owns."""
    agreement = Agreement(
        {name: torch.Size([len(values)]) for name, values in scores.items()},
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        device=torch.device("cpu"),
    )
    chosen = global_top_k(
        {name: torch.tensor(scores[name]) for name in agreement.owned()},
        {name: torch.tensor(among[name]) for name in agreement.owned()},
        k,
        layers=list(scores),
        sizes=dict.fromkeys(scores, 1),
        dtype=torch.float32,
        device=torch.device("cpu"),
        total=agreement.total,
    )
    return {name: mask.tolist() for name, mask in chosen.items()}


def fail_on(rank: int) -> int:
    """Raise on one rank while the others wait for it."""
    if dist.get_rank() == rank:
        raise RuntimeError(f"rank {rank} had enough")
    dist.barrier()
    return dist.get_rank()


def ranks() -> tuple[int, int, int]:
    """Rank, size of the world, and threads."""
    return dist.get_rank(), dist.get_world_size(), torch.get_num_threads()


def command(values: dict[str, Any], interrupt_after: int | None = None, hooks: Sequence[Hook] = ()) -> Outcome:
    """The whole training command on the ranks of the world, whose group it leaves as it is."""
    os.environ["RANK"] = str(dist.get_rank())
    with mock.patch.object(distributed, "stop"), mock.patch.object(errors, "SECONDS_TO_SPEAK", 0):
        return train_here(values, interrupt_after=interrupt_after, hooks=hooks)


def command_asked(values: dict[str, Any], *, place: str, nth: int, rank: int) -> Outcome:
    """The whole training command, which one rank is asked to stop by SIGTERM at the end of the so many-th call of a place."""
    with asked(place, nth, signal.SIGTERM, here=dist.get_rank() == rank) as hooks:
        return command(values, hooks=hooks)


def call(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> Outcome:
    """Another command on the ranks of the world, likewise."""
    os.environ["RANK"] = str(dist.get_rank())
    with mock.patch.object(distributed, "stop"), mock.patch.object(errors, "SECONDS_TO_SPEAK", 0):
        return here(main, argv)


def each_its_own(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Any:
    """Call a function on every rank with the rank's own argument."""
    return function(arguments[dist.get_rank()])


def slow_imports(values: dict[str, Any]) -> int:
    """Train, and print which packages that take long to import a process of its own has imported for it."""
    code = train_here(values).code
    print(sorted({"scipy", "sklearn", "matplotlib", "pandas", "deepspeed", "wandb"} & set(sys.modules)))
    return code


def smoke(argv: Sequence[str], data: str) -> Outcome:
    """``python -m dist_sparse.train --smoke`` on sets that :func:`tests.on_disk.write_all` has written below ``data``."""
    from dist_sparse.train import main
    from tests.on_disk import checksums_of

    with checksums_of(Path(data)):
        return call(main, [*argv, "--smoke"])


def outputs_around_shrinking(values: dict[str, Any], folder: str) -> tuple[list[int], list[float]]:
    """Let a network lose its dead units whose ranks have statistics of their own.

    Returns the number of parameters before and after, and by how much outputs of the model and of its average have changed.
    """
    trainer, _ = trainer_for(values, folder)
    assert trainer.shrinker is not None and trainer.ema is not None
    trainer.method.start()
    networks = [trainer.engine.model.eval(), trainer.ema.module.eval()]
    for number, network in enumerate(networks):
        randomised(network, torch.Generator().manual_seed(number))
    for buffer in trainer.engine.model.buffers():
        buffer.add_(dist.get_rank())
    trainer._mask_average()
    image = torch.Size([4, trainer.data.info.channels, *[trainer.data.info.image_size] * 2])
    images = torch.randn(image, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    expected = copy.deepcopy(networks[0])
    distributed.copy_first_rank(expected.buffers())
    with torch.no_grad():
        before = [expected(images), networks[1](images)]
    sizes = [sum(parameter.numel() for parameter in networks[0].parameters())]
    assert trainer.shrinker.shrink_if_worthwhile(0)
    sizes.append(sum(parameter.numel() for parameter in networks[0].parameters()))
    with torch.no_grad():
        after = [network(images) for network in networks]
    return sizes, [float((one - other).abs().max()) for one, other in zip(before, after, strict=True)]


def momentum_around_shrinking(values: dict[str, Any], folder: str) -> tuple[int, list[str]]:
    """Make a step, then let the network lose its dead units; how many layers became narrower, and whose momentum changed."""
    trainer, _ = trainer_for(values, folder)
    shrinker, trainer.shrinker, engine = trainer.shrinker, None, trainer.engine
    assert shrinker is not None
    trainer.method.start()
    for number, batch in zip(range(trainer.config.train.accumulation), trainer.data.train.epoch(0), strict=False):
        trainer.train_on(batch, number)
    before = {
        name: engine.optimizer_state(name)["momentum_buffer"].clone() for name in engine.model.state_dict() if "conv" in name
    }
    assert all(bool(each.any()) for each in before.values())
    assert shrinker.shrink_if_worthwhile(1)
    shapes = {name: parameter.shape for name, parameter in engine.model.named_parameters()}
    changed = []
    for name, whole in before.items():
        after = engine.optimizer_state(name)["momentum_buffer"]
        kept = after != 0
        if not torch.equal(after[kept], whole[kept]) or int(kept.sum()) == 0:
            changed.append(name)
    return sum(shapes[name] != whole.shape for name, whole in before.items()), changed
