"""What the ranks of a world are asked to do under DeepSpeed."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_sparse.engines.deepspeed import DeepSpeedEngine
from dist_sparse.sparsity.masks import Masks
from dist_sparse.state_bytes import state_bytes
from dist_sparse.trainer import Trainer
from tests.distributed.cases import Trained, trainer_for
from tests.full_disk import file_size_limit


@dataclass(frozen=True)
class Sharded:
    """One rank's view of a run, and what its inactive weights were found to hold at the end, through DeepSpeed's own access."""

    trained: Trained
    inactive: dict[str, int]
    """How many inactive entries are not zero, in: model, master, and each of the optimizer's states."""


def train(values: dict[str, Any], folder: str) -> Sharded:
    """Train to the end, and look at every copy of every inactive weight."""
    trainer, recorder = trainer_for(values, folder)
    with engine_of(trainer) as engine:
        masks = trainer.method.masks
        initial = masks.digests()
        trainer.fit()
        return Sharded(Trained(initial, masks.digests(), recorder.rows), leftovers(engine, masks))


def counted_state(values: dict[str, Any], folder: str) -> dict[str, int]:
    """The bytes of this rank's state at the end of a run, by kind."""
    trainer, _ = trainer_for(values, folder)
    with contextlib.closing(trainer.engine):
        trainer.fit()
        return state_bytes(trainer.engine, trainer.method, trainer.execution)


@contextlib.contextmanager
def engine_of(trainer: Trainer) -> Iterator[DeepSpeedEngine]:
    """The engine, which is closed after the context."""
    engine = trainer.engine
    assert isinstance(engine, DeepSpeedEngine)
    with contextlib.closing(engine):
        yield engine


def leftovers(engine: DeepSpeedEngine, masks: Masks) -> dict[str, int]:
    """How many inactive entries are not zero, by copy."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    found: dict[str, int] = {}
    stage = engine._deepspeed.zero_optimization_stage()
    if stage in (1, 2):
        # DeepSpeed has linked the states when the first group was stepped, and so those of that group alone.
        engine._deepspeed.optimizer._hp_optimizer_states_linked = False
        engine._deepspeed.optimizer._lazy_init_hp_params_optimizer_state()
    for name in masks.names:
        parameter: Any = engine._parameters[name]
        copies: dict[str, Tensor] = {}
        with engine.full_parameters():
            copies["model"] = parameter.detach().clone()
        keys = [key for key, value in state_of(engine).items() if isinstance(value, Tensor) and value.numel() > 1]
        for key in keys:
            if stage:
                copies["master"] = safe_get_full_fp32_param(parameter)
                copies[key] = safe_get_full_optimizer_state(parameter, key)
            else:
                copies[key] = engine._optimizer.state[parameter][key]
        for copy, values in copies.items():
            wrong = values.reshape(masks[name].shape)[~masks[name]].count_nonzero()
            found[copy] = found.get(copy, 0) + int(wrong)
    return found


def state_of(engine: DeepSpeedEngine) -> dict[str, Any]:
    return next(iter(engine._optimizer.state.values()))


def pieces(values: dict[str, Any], folder: str) -> dict[str, float]:
    """Mask half of a layer after two steps: what is inactive and not zero before, after, and after another step."""
    trainer, _ = trainer_for(values, folder)
    with engine_of(trainer) as engine:
        batches = iter(trainer.data.train.epoch(0))
        for _ in range(2):
            step(engine, next(batches))
        masks = trainer.method.masks
        name = masks.names[0]
        half = torch.arange(masks[name].numel()).view(masks[name].shape) % 2 == 0
        masks.replace({name: half})
        before = leftovers(engine, masks)
        engine.mask_weights(masks)
        engine.mask_optimizer_state(masks)
        after = leftovers(engine, masks)
        batch = next(batches)
        engine.forward_backward(batch.images, batch.labels)
        engine.mask_gradients(masks)
        engine.step(skip=False)
        return {
            "before": min(before.values()),
            "after": max(after.values()),
            "after the next step": max(leftovers(engine, masks).values()),
            "copies": len(after),
        }


def follow(values: dict[str, Any], folder: str) -> list[str]:
    """Give a layer another mask of as many weights between a backward and its step: what of it is then in a wrong place."""
    trainer, _ = trainer_for(values, folder)
    with engine_of(trainer) as engine:
        batches = iter(trainer.data.train.epoch(0))
        step(engine, next(batches))
        batch, masks = next(batches), trainer.method.masks
        engine.forward_backward(batch.images, batch.labels, masks)
        name = masks.names[0]
        draws = torch.Generator().manual_seed(1)
        moved = masks[name].view(-1)[torch.randperm(masks[name].numel(), generator=draws)].view(masks[name].shape)

        def held() -> dict[str, Tensor]:
            found = {"weight": engine.weight(name), "gradient": engine.grad(name), **engine.optimizer_state(name)}
            return {what: tensor.clone() for what, tensor in found.items() if tensor.shape == moved.shape}

        with engine.gathered(weights=[name], gradients=[name]):
            before = held()
            assert len(before) >= 3 and all(each.any() for each in before.values())
            masks.replace({name: moved})
            engine.mask_weights(masks)
            found = [what for what, tensor in held().items() if not torch.equal(tensor, before[what] * moved)]
        with engine.gathered(weights=[name], gradients=[name]):
            found += [f"{what}, later" for what, tensor in held().items() if not torch.equal(tensor, before[what] * moved)]
        return found


def step(engine: DeepSpeedEngine, batch: Any) -> None:
    engine.forward_backward(batch.images, batch.labels)
    engine.step(skip=False)


def overflow(values: dict[str, Any], folder: str) -> dict[str, Any]:
    """A good step, one whose gradients overflow on the last rank alone, and a good one again."""
    trainer, _ = trainer_for(values, folder)
    with engine_of(trainer) as engine:
        batches = iter(trainer.data.train.epoch(0))
        told, scales = [], []
        weights = [snapshot(engine)]
        for number in range(3):
            batch = next(batches)
            worst = number == 1 and trainer.ranks.rank == trainer.ranks.world_size - 1
            engine.forward_backward(batch.images * (1e30 if worst else 1.0), batch.labels)
            told.append(engine.overflowed)
            engine.step(skip=engine.overflowed)
            scales.append(engine.loss_scale)
            weights.append(snapshot(engine))
        moved = [not torch.equal(a, b) for a, b in itertools.pairwise(weights)]
        return {"told": told, "scales": scales, "moved": moved}


def snapshot(engine: DeepSpeedEngine) -> Tensor:
    with engine.full_parameters():
        return torch.cat([parameter.detach().reshape(-1) for parameter in engine.model.parameters()])


def save_where_one_rank_cannot(values: dict[str, Any], folder: str, full: int) -> tuple[str, dict[str, int]]:
    """Save shards twice to one place, the second time with a limit to one rank's files: the error, and the first sizes."""
    trainer, _ = trainer_for(values, folder)
    with engine_of(trainer) as engine:
        place = Path(folder) / "step.shards"
        sizes = engine.save_shards(place)
        assert sizes is not None
        try:
            with file_size_limit(1000) if trainer.ranks.rank == full else contextlib.nullcontext():
                engine.save_shards(place)
        except OSError as error:
            return str(error), sizes
    raise AssertionError("there was room")


def damage(folder: Path) -> None:
    """Cut off the end of a file."""
    file = max(folder.rglob("*.pt"), key=lambda path: path.stat().st_size)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)
