"""The two loops that :mod:`benchmarks.throughput` compares, each a round of some steps at a time."""

import argparse
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from torchvision import datasets
from torchvision.transforms import v2

from dist_sparse import distributed
from dist_sparse.build import build_parts, build_trainer, resolved
from dist_sparse.config import Config
from dist_sparse.data import Batch
from dist_sparse.engines.precision import Precision
from dist_sparse.run_folder import RunFolder
from dist_sparse.trainer import Trainer

Clock = Callable[[], float]


class Step(NamedTuple):
    """Seconds of one step."""

    total: float
    wait: float
    """For the loader."""
    moved: bool
    """The masks were updated."""


@dataclass
class Stopwatch:
    """Adds up seconds by part of the step."""

    clock: Clock
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def around(self, owner: Any, name: str, part: str) -> None:
        """Time every call of a bound method."""
        method = getattr(owner, name)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = self.clock()
            result = method(*arguments, **keywords)
            self.seconds[part] += self.clock() - start
            return result

        setattr(owner, name, timed)

    def around_forward(self, model: nn.Module) -> None:
        """Time a model's forward by its hooks."""
        begun: list[float] = []
        model.register_forward_pre_hook(lambda *_: begun.append(self.clock()))
        model.register_forward_hook(
            lambda *_: self.seconds.__setitem__("forward", self.seconds["forward"] + self.clock() - begun.pop())
        )


class Ours:
    """This program's trainer, step by step."""

    def __init__(
        self, config: Config, folder: Path, synthetic: Batch | None, steps: int, clock: Clock, *, detail: bool = False
    ) -> None:
        ranks = distributed.start(config.engine)
        run = RunFolder(path=folder / str(ranks.rank))
        run.checkpoints.mkdir(parents=True)
        self.trainer = build_trainer(build_parts(resolved(config), ranks), run, None)
        self.trainer.method.start()
        self.watch = Stopwatch(clock)
        self._synthetic, self._steps, self._epoch = synthetic, steps, 0
        if detail:
            self._attach(self.trainer)

    def _attach(self, trainer: Trainer) -> None:
        for name in ("before_forward", "after_backward", "after_step"):
            self.watch.around(trainer.method, name, "masks")
        self.watch.around(trainer.engine, "step", "optimizer")
        self.watch.around(trainer.engine, "forward_backward", "forward and backward")
        self.watch.around_forward(trainer.engine.model)

    def _batches(self) -> Iterator[Batch]:
        if self._synthetic is not None:
            return itertools.repeat(self._synthetic)
        self._epoch += 1
        return iter(self.trainer.data.train.epoch(self._epoch))

    def round(self) -> list[Step]:
        """Seconds of each step, the loader's share of them, and whether masks moved."""
        clock, batches, rows = self.watch.clock, self._batches(), []
        next(batches)
        for number in range(self._steps):
            start = clock()
            batch = next(batches)
            loaded = clock()
            decision = self.trainer.train_on(batch, number)
            assert decision is not None, "one micro-batch a step"
            rows.append(Step(clock() - start, loaded - start, decision.updates_masks))
        return rows


class Bare:
    """What one writes with timm and PyTorch alone: a dense network, DDP where there are ranks."""

    def __init__(
        self, args: argparse.Namespace, config: Config, synthetic: Batch | None, clock: Clock, *, classes: int
    ) -> None:
        ranks = distributed.start(config.engine)
        self._precision = Precision(name=args.precision, device=ranks.device, channels_last=args.channels_last)
        model = self._precision.place_model(timm.create_model("resnet50", num_classes=classes))
        self._optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
        self._scaler = torch.amp.GradScaler(ranks.device.type, enabled=self._precision.scaled)
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True) if ranks.world_size > 1 else model
        self._model = torch.compile(wrapped) if args.compile else wrapped
        self._loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        self._synthetic, self._steps, self._clock, self._device = synthetic, args.steps, clock, ranks.device
        self._loader = None if synthetic else self._folder_loader(args, ranks)

    def _folder_loader(self, args: argparse.Namespace, ranks: distributed.Ranks) -> DataLoader:
        transform = v2.Compose([
            v2.RandomResizedCrop(args.size), v2.RandomHorizontalFlip(), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])  # fmt: skip
        dataset = datasets.ImageFolder(Path(args.input) / "train", transform)
        sampler = DistributedSampler(dataset, ranks.world_size, ranks.rank, drop_last=True)
        return DataLoader(
            dataset,
            args.batch,
            sampler=sampler,
            num_workers=args.workers,
            persistent_workers=args.workers > 0,
            pin_memory=ranks.device.type == "cuda",
            drop_last=True,
        )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._synthetic is not None:
            return itertools.repeat((self._synthetic.images, self._synthetic.labels))
        return iter(self._loader or ())

    def round(self) -> list[float]:
        """Seconds of each step."""
        batches, rows = self._batches(), []
        next(batches)
        for _ in range(self._steps):
            start = self._clock()
            images, labels = (each.to(self._device, non_blocking=True) for each in next(batches))
            with self._precision.autocast():
                loss = self._loss(self._model(self._precision.place_images(images)), labels)
            self._optimizer.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            rows.append(self._clock() - start)
        return rows
