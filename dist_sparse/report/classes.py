"""What a run's best network confuses: accuracy by class and the most frequent wrong answers, on the run's validation set."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_sparse.config import Config
from dist_sparse.report import words
from dist_sparse.report.drawing import COLOURS, Picture, new_figure, plain
from dist_sparse.report.page import Section, Table

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from dist_sparse.evaluate import Opened

_DRAWN = 40
"""A figure has a dot for each of so many classes; of more it shows how they are spread."""
_MATRIX = 20
"""So many classes have a matrix of confusions."""
_PAIRS, _WORST = 10, 15


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Labels and predictions, int64 [N], of the network at ``step``."""

    names: Sequence[str]
    labels: "np.ndarray"
    predictions: "np.ndarray"
    step: int
    network: str

    @property
    def top1(self) -> float:
        return float((self.labels == self.predictions).mean())

    def by_class(self) -> "tuple[np.ndarray, np.ndarray]":
        """Images and accuracy of each class, int64 and float64 [classes]; NaN where it has no image."""
        import numpy as np

        images = np.bincount(self.labels, minlength=len(self.names))
        right = np.bincount(self.labels[self.labels == self.predictions], minlength=len(self.names))
        with np.errstate(invalid="ignore"):
            return images, right / images

    def pairs(self) -> list[tuple[int, int, int]]:
        """Label, prediction and count of the wrong answers, the most frequent first."""
        import numpy as np

        wrong = self.labels != self.predictions
        pairs, counts = np.unique(np.stack([self.labels[wrong], self.predictions[wrong]]), axis=1, return_counts=True)
        found = [(int(a), int(b), int(count)) for (a, b), count in zip(pairs.T, counts, strict=True)]
        return sorted(found, key=lambda pair: (-pair[2], pair[:2]))


def answers_of(config: Config, checkpoint: Path) -> Answers:
    """What the network that decides a run's accuracy says to each validation image: of several, the sparsest; or the average.

    Raises:
        UserError: the checkpoint or the data set cannot be used.
        Incomplete: a process that loads images has died.
    """
    from dist_sparse.evaluate import opened
    from dist_sparse.networks import networks_of
    from dist_sparse.stored import load_weights, step_of

    with opened(config, checkpoint) as it:
        averaged = it.state.get("state_dict_ema") is not None
        network = networks_of(it.state, averaged=averaged)[-1]
        load_weights(it.model, network.weights, checkpoint)
        it.execution.use_packed(network.masks)
        labels, predictions = _predict(it)
        return Answers(
            names=_names(it.state["data"], it.data.info.classes),
            labels=labels,
            predictions=predictions,
            step=step_of(it.state, checkpoint),
            network=network.label or ("averaged weights" if averaged else ""),
        )


def _predict(it: "Opened") -> "tuple[np.ndarray, np.ndarray]":
    import torch

    it.model.eval()
    labels, predictions = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    with torch.no_grad():
        for images, truth, _ in it.data.val:
            with it.precision.autocast():
                logits = it.model(it.precision.place_images(images))
            best = logits.float().topk(min(5, logits.shape[1]), dim=1).indices[:, 0]  # as validation decides
            labels.append(truth.cpu())
            predictions.append(best.cpu())
    return torch.cat(labels).numpy(), torch.cat(predictions).numpy()


def _names(data: Mapping[str, Any], classes: int) -> list[str]:
    names = [str(name) for name in data.get("class_names") or ()]
    return names if len(names) == classes else [str(number) for number in range(classes)]


def classes_section(config: Config, checkpoint: Path) -> Section:
    """The section; where the network cannot be evaluated it says why."""
    from dist_sparse.errors import Incomplete, UserError

    title = "Classes"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what a data set or a kernel has to say while it is made
            answers = answers_of(config, checkpoint)
    except (UserError, Incomplete) as error:
        return Section(title=title, parts=[f"Left out: {' '.join(str(error).split())}."])
    if not len(answers.labels):
        return Section(title=title, parts=["Left out: no validation image could be read."])
    which = f", {answers.network}" if answers.network else ""
    text = f"{checkpoint.name} (step {answers.step:,}{which}): top-1 {answers.top1:.2%} of {len(answers.labels):,} images."
    return Section(title=title, parts=[text, *_pictures(answers), *_tables(answers)])


def _pictures(answers: Answers) -> list[Picture]:
    few = len(answers.names) <= _DRAWN
    how = "Top-1 accuracy of each class" if few else "How many classes have which top-1 accuracy"
    pictures = [Picture(name="classes", alt=how, make=lambda: (_dots if few else _spread)(answers))]
    if len(answers.names) <= _MATRIX:
        alt = "Images by their class and the answer"
        pictures.append(Picture(name="confusions", alt=alt, make=lambda: _matrix(answers)))
    return pictures


def _tables(answers: Answers) -> list[Table]:
    images, accuracy = answers.by_class()
    pairs = [
        [answers.names[a], answers.names[b], f"{count:,}", words.percent(count / int(images[a]))]
        for a, b, count in answers.pairs()[:_PAIRS]
    ]
    order = sorted((number for number in range(len(images)) if images[number]), key=lambda number: accuracy[number])
    worst = [[answers.names[number], f"{int(images[number]):,}", words.percent(accuracy[number])] for number in order[:_WORST]]
    heading = "class" if len(order) <= _WORST else f"class (the {_WORST} worst)"
    tables = [Table(head=[heading, "images", "top-1"], rows=worst)]
    if pairs:
        tables.append(Table(head=["class", "taken for", "images", "of the class"], rows=pairs, texts=2))
    return tables


def _dots(answers: Answers) -> "Figure":
    _, accuracy = answers.by_class()
    figure = new_figure()
    axes = figure.add_subplot(title="top-1 by class, %")
    axes.axhline(100 * answers.top1, color="#59636e", linestyle=":", label="of all images")
    axes.plot(range(len(accuracy)), 100 * accuracy, "o", color=COLOURS[0])
    axes.legend(fontsize=9, framealpha=0.8)
    upright = max(map(len, answers.names)) > 2
    axes.set_xticks(range(len(accuracy)), _short(answers.names), rotation=90 if upright else 0, fontsize=8 if upright else 10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _spread(answers: Answers) -> "Figure":
    _, accuracy = answers.by_class()
    figure = new_figure()
    axes = figure.add_subplot(title="top-1 by class, %", ylabel="classes")
    axes.hist([100 * value for value in accuracy if value == value], bins=20, range=(0, 100), color=COLOURS[0])
    axes.grid(axis="y", alpha=0.3)
    return figure


def _matrix(answers: Answers) -> "Figure":
    import numpy as np

    classes = len(answers.names)
    counts = np.bincount(answers.labels * classes + answers.predictions, minlength=classes**2).reshape(classes, classes)
    wrong = np.where(np.eye(classes, dtype=bool), 0, counts)
    figure = new_figure(height=4.4)
    axes = figure.add_subplot(title="images by class (rows) and answer; wrong ones shaded")
    axes.imshow(wrong, cmap="Oranges", vmin=0, vmax=max(1.0, 1.6 * wrong.max()))
    for row, column in zip(*np.nonzero(counts), strict=True):
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8)
    axes.set_xticks(range(classes), _short(answers.names), rotation=90 if max(map(len, answers.names)) > 2 else 0, fontsize=8)
    axes.set_yticks(range(classes), _short(answers.names), fontsize=8)
    return figure


def _short(names: Sequence[str]) -> list[str]:
    from dist_sparse.flops import shortened

    return [plain(shortened(name, 14)) for name in names]
