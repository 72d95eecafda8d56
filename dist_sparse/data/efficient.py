"""From the keys of ``data.forgetting`` to what a run does, checked before it starts."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dist_sparse.config.data import ForgettingConfig
from dist_sparse.config.schema import TrainConfig
from dist_sparse.data.batch import DataInfo
from dist_sparse.data.clock import Clock
from dist_sparse.data.forgetting import Forgetting, Ranking
from dist_sparse.errors import UserError
from dist_sparse.inputs import expand

RANKING = "forgetting.pt"
"""The ranking's name in a run's folder."""


@dataclass(frozen=True, kw_only=True)
class EfficientPlan:
    """What a run counts and leaves out."""

    config: ForgettingConfig
    info: DataInfo
    ranking: Ranking | None

    def build(self, folder: Path, device: torch.device) -> Forgetting:
        """For a run whose folder is ``folder``."""
        return Forgetting(
            data=self.info.name,
            size=self.info.train_size,
            samples=self.info.train_samples.digest,
            epochs=self.config.epochs,
            remove=self.config.remove,
            ranking=self.ranking,
            path=folder / RANKING,
            device=device,
        )


def plan_efficient(config: ForgettingConfig, train: TrainConfig, info: DataInfo) -> EfficientPlan | None:
    """The plan, or None if nothing is counted and nothing left out.

    Raises:
        UserError: keys that do not fit together or the run, or a ranking of another data set.
    """
    if config == ForgettingConfig():
        return None
    key = "data.forgetting"
    if config.remove and not config.epochs and config.ranking is None:
        raise UserError(f"{key}.remove={config.remove} needs {key}.epochs to count over, or {key}.ranking of an earlier run")
    if config.ranking is not None and not config.remove:
        raise UserError(f"{key}.ranking does nothing without {key}.remove, the number of samples to leave out")
    last = train.epochs - 1 if config.remove else train.epochs
    if config.epochs > last:
        raise UserError(f"{key}.epochs={config.epochs} must be at most {last} in a run of train.epochs={train.epochs}")
    if config.remove > info.train_size - train.batch_size:
        raise UserError(
            f"{key}.remove={config.remove} leaves less than a batch of the {info.train_size} training samples of {info.name}; "
            f"at most {info.train_size - train.batch_size} can go"
        )
    if config.ranking is None:
        if train.mixup or train.cutmix:
            raise UserError(
                f"{key} counts right and wrong answers, which mixed samples do not have: train.mixup and cutmix must be 0"
            )
        return EfficientPlan(config=config, info=info, ranking=None)
    ranking = Ranking.load(expand(config.ranking), data=info.name, size=info.train_size, samples=info.train_samples.digest)
    return EfficientPlan(config=config, info=info, ranking=ranking)


def make_clock(config: ForgettingConfig, train: TrainConfig, info: DataInfo, steps_per_epoch: int) -> Clock:
    """The run's clock, with short epochs once samples are left out."""
    short = (info.train_size - config.remove) // train.batch_size if config.remove else None
    return Clock(whole=steps_per_epoch, epochs=train.epochs, short=short, short_from=config.epochs)
