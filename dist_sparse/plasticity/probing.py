"""Probes of one checkpoint, one after another from the same state: prune, validate, train on with fixed masks, validate."""

import contextlib
import copy
import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from dist_sparse import distributed
from dist_sparse.build import build_parts, build_trainer
from dist_sparse.checkpoint_content import check_networks
from dist_sparse.config import Config
from dist_sparse.data.identity import check_classes, check_same_on_all_ranks
from dist_sparse.distributed import Ranks
from dist_sparse.errors import UserError
from dist_sparse.finite import finite_everywhere
from dist_sparse.plasticity.conditions import Request, network_of, recovery_config
from dist_sparse.plasticity.report import Facts, Row
from dist_sparse.run_folder import RunFolder
from dist_sparse.seeding import seed_torch
from dist_sparse.sparsity import bits
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.layers import sparse_layers
from dist_sparse.sparsity.plasticity import Probe
from dist_sparse.stored import load_weights, read_checkpoint, step_of
from dist_sparse.tracking import Tracker
from dist_sparse.trainer import Diverged
from dist_sparse.validation import validate

_log = logging.getLogger(__name__)


class Probing:
    """A checkpoint of a run, ready to be probed."""

    def __init__(self, config: Config, request: Request, ranks: Ranks, scratch: Path) -> None:
        """Build and load; ``scratch`` is an empty folder for what training leaves on the disk. Collective.

        Raises:
            UserError: the checkpoint cannot be read, or is not of this configuration.
        """
        self._request = request
        with distributed.agreeing_on_errors():
            state = read_checkpoint(request.checkpoint)
            check_networks(state, request.checkpoint)
            parts = build_parts(recovery_config(config, request, state), ranks)
            check_classes(state["data"], dataclasses.asdict(parts.data.info))
            request.check_batches(parts.data.train.steps_per_epoch)
            network = network_of(state, request)
            load_weights(parts.model, network.weights, request.checkpoint)
            try:
                layers = list(sparse_layers(parts.model, config.sparsity.keep_dense))
            except ValueError as error:
                raise UserError(str(error)) from error
        check_same_on_all_ranks(dataclasses.asdict(parts.data.info))
        self._trainer = build_trainer(parts, RunFolder(path=scratch), None)
        self._trainer.tracker.close()
        self._trainer.tracker = Tracker()
        self._masks, self._engine = self._trainer.method.masks, self._trainer.engine
        self._trainer.method.take_masks(
            {
                name: bits.unpack(packed.to(ranks.device), self._engine.weight(name).shape)
                for name, packed in network.masks.items()
            }
        )
        self._state = copy.deepcopy(self._trainer.state_dict())
        self._weights = {name: self._engine.weight(name) for name in layers}
        shapes = {name: weight.shape for name, weight in self._weights.items()}
        self._agreement = Agreement(shapes, rank=ranks.rank, world_size=ranks.world_size, device=ranks.device)
        self.facts = Facts(
            checkpoint=str(request.checkpoint),
            subnet=network.label,
            step=step_of(state, request.checkpoint),
            layers=layers,
            density=self._density(),
            top1=self._top1(),
            recovery_epochs=request.recovery_epochs,
            learning_rate=parts.config.optim.lr,
            gradient_batches=request.gradient_batches,
            seed=config.seed,
        )

    def rows(self) -> Iterator[Row]:
        """A row for each probe and rate. Collective."""
        growing = any(probe.grows for probe in self._request.probes)
        gradients = self._gradients() if growing else {}
        for probe in self._request.probes:
            for rate in self._request.rates:
                yield self._probe(probe, rate, gradients)

    def close(self) -> None:
        """End what reads the images."""
        self._trainer.data.close()
        self._trainer.engine.close()

    def _probe(self, probe: Probe, rate: Fraction, gradients: dict[str, Tensor]) -> Row:
        self._trainer.load_state_dict(self._state)
        before = {name: self._masks[name].clone() for name in self._weights}
        kept = probe.prune(rate, self._weights, before, self._agreement)
        self._trainer.method.take_masks(kept)
        pruned = self._density()
        self._trainer.method.take_masks(probe.grow(before, kept, gradients, self._agreement))
        return Row(
            probe=probe.name,
            rate=float(rate),
            density_pruned=pruned,
            density=self._density(),
            mask_digest=self._masks.digest(),
            top1_before=self.facts.top1,
            top1_after=self._top1(),
            top1_recovered=self._recovered() if self._request.recovery_epochs else None,
        )

    def _recovered(self) -> float | None:
        """Accuracy after the recovery epochs, or None if they diverged."""
        try:
            return self._trainer.fit().last_top1
        except Diverged as error:
            _log.warning("%s", error)
            return None

    def _density(self) -> float:
        active = self._masks.active()
        return sum(active[name] for name in self._weights) / sum(weight.numel() for weight in self._weights.values())

    def _top1(self) -> float:
        return validate(self._engine.model, self._trainer.data.val, self._engine.precision)["top1"]

    def _gradients(self) -> dict[str, Tensor]:
        """Dense gradients of the checkpoint, the mean over batches and ranks."""
        wanted, seed = self._request.gradient_batches, self._trainer.config.seed
        sums = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        count = 0
        for number, batch in enumerate(self._trainer.data.train.epoch(0)):
            seed_torch("forward", seed, "plasticity", number, self._trainer.ranks.rank)
            self._engine.forward_backward(batch.images, batch.labels)
            if not self._engine.at_step_boundary:
                continue
            if not self._engine.overflowed and finite_everywhere(self._engine, "gradients"):
                count += 1
                for name, total in sums.items():
                    total += self._engine.grad(name)
            self._engine.step(skip=True)
            if count == wanted:
                break
        if not count:
            raise UserError("no batch of an epoch has a finite gradient to score growth by")
        return {name: total / count for name, total in sums.items()}


@contextlib.contextmanager
def probing(config: Config, request: Request, folder: Path) -> Iterator[tuple[Probing, bool]]:
    """A checkpoint ready to be probed, and whether this is the first rank. Collective.

    What training leaves lies in ``folder`` until the end.
    """
    ranks = distributed.start(config.engine)
    try:
        with contextlib.ExitStack() as stack:
            scratch = None
            with distributed.agreeing_on_errors():
                if ranks.is_first:
                    scratch = Path(stack.enter_context(_scratch(folder)))
            prober = stack.enter_context(
                contextlib.closing(Probing(config, request, ranks, distributed.from_first_rank(scratch)))
            )
            yield prober, ranks.is_first
    except BaseException:
        distributed.stop(failed=True)
        raise
    distributed.stop()


def _scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        folder.mkdir(exist_ok=True)
        return tempfile.TemporaryDirectory(dir=folder, prefix=".recovery-")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
