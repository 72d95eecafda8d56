"""The report of one run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dist_sparse.config import Config, load_config
from dist_sparse.errors import UserError
from dist_sparse.inputs import read_json
from dist_sparse.report import words
from dist_sparse.report.classes import classes_section
from dist_sparse.report.curves import mask_pictures, speed_pictures, training_pictures
from dist_sparse.report.history import History, read_history
from dist_sparse.report.layers import layers_sections, read_layers
from dist_sparse.report.page import Facts, Page, Section, Table
from dist_sparse.report.settings import environment_section, settings_section
from dist_sparse.report.status import status_of
from dist_sparse.results.runs import Run
from dist_sparse.run_folder import RunFolder

_LATER = "known at the end"


def page_of_run(run: Run, overrides: Sequence[str] = (), *, evaluate: bool = True) -> Page:
    """The report of a run as its folder is now.

    Args:
        overrides: keys of its configuration to evaluate the network with, such as ``--data.root=DIR``.
        evaluate: send the validation set through the best network.

    Raises:
        UserError: a file of the run cannot be read.
    """
    config, history = load_config(str(run.path / "config.yaml")), read_history(run.path)
    environment = _environment(run.path)
    data, model, sparsity = config.data.name, config.model.name, config.sparsity
    density = "" if sparsity.density is None else f", density {sparsity.density:g}"
    what = f"{sparsity.method}{density}, {sparsity.structure}" if sparsity.method != "dense" else "dense"
    return Page(
        title=config.name,
        lines=[status_of(run).text, f"{model} on {data}: {what}; seed {config.seed}", f"folder {run.path}"],
        sections=[
            Section(title="", parts=[_facts(run, config, history)]),
            Section(title="Training", parts=_or_none(training_pictures(history), "Nothing has been logged yet.")),
            _masks(config, history),
            *_layers(run, config),
            _speed(run, history),
            *([_classes(run, overrides)] if evaluate else []),
            settings_section(config, environment),
            environment_section(environment),
        ],
    )


def _or_none(parts: list[Any], otherwise: str) -> list[Any]:
    return parts or [otherwise]


def _environment(folder: Path) -> dict[str, Any]:
    try:
        environment = read_json(folder / "environment.json")
    except UserError:
        return {}
    return environment if isinstance(environment, dict) else {}


def _facts(run: Run, config: Config, history: History) -> Facts:
    """Figures of the summary; of a run that has none yet, the newest that it has logged, and the best that it has saved."""
    column = "val/ema_top1" if config.train.ema is not None else "val/top1"
    best, best_step, last = run.figure("best_top1"), run.summary.get("best_step"), run.figure("last_top1")
    if not run.summary:
        (best, best_step), last = _best_so_far(run), history.last(column)
    density = run.figure("density") if run.summary else history.last("sparsity/density")
    seconds, steps = run.figure("wall_seconds"), run.figure("steps")
    note = run.no_best or (f"at step {best_step:,}" if isinstance(best_step, int) else "")
    return Facts(
        rows=[
            ("best top-1", words.percent(best), note),
            ("last top-1", words.percent(last), f"at step {history.series(column)[-1][0]:,}" if history.series(column) else ""),
            ("density", words.percent(density), _note("mean", history.last("sparsity/mean_density"))),
            ("ever active", words.percent(history.last("sparsity/exploration")), "of the masked layers' weights"),
            (
                "inference FLOPs",
                words.percent(run.figure("inference_flops_relative")),
                "of the dense network's" if run.summary else _LATER,
            ),
            (
                "training FLOPs",
                words.percent(run.figure("train_flops_relative")),
                "of dense training's" if run.summary else _LATER,
            ),
            ("steps", words.count(steps if run.summary else history.step), _progress(config, history)),
            ("wall time", words.duration(seconds), "" if run.summary else _LATER),
        ]
    )


def _best_so_far(run: Run) -> tuple[float | None, int | None]:
    """Accuracy and step of the best checkpoint; None without one: what was logged may be of no network at its final density."""
    from dist_sparse.stored import check_whole, read_checkpoint

    try:
        state = read_checkpoint(path := RunFolder(path=run.path).checkpoint("best"), mapped=True, packed=True)
        check_whole(state, path)
    except UserError:
        return None, None
    top1, step = (state["progress"].get(name) for name in ("best_top1", "best_step"))
    return (top1, step) if isinstance(top1, float) and isinstance(step, int) else (None, None)


def _note(name: str, share: float | None) -> str:
    return "" if share is None else f"{name} {share:.2%}"


def _progress(config: Config, history: History) -> str:
    epoch = history.last("epoch")
    return "" if epoch is None else f"epoch {epoch:.3g} of {config.train.epochs}"


def _masks(config: Config, history: History) -> Section:
    if config.sparsity.method == "dense":
        return Section(title="Masks", parts=["The network is dense: it has no masks."])
    parts: list[Any] = list(mask_pictures(history))
    if history.layer_map("density") is None:
        parts.append(
            "No mask update has been logged, so there are no figures by layer over time; the table below has the last."
        )
    return Section(title="Masks", parts=parts)


def _layers(run: Run, config: Config) -> list[Section]:
    try:
        checkpoint = _checkpoint(RunFolder(path=run.path), "last", "best")
        return layers_sections(read_layers(config, checkpoint), checkpoint)
    except UserError as error:
        return [Section(title="Layers", parts=[f"Left out, as are FLOPs by layer: {error}."])]


def _checkpoint(folder: RunFolder, which: str, otherwise: str) -> Path:
    """One of the two; early in a run there may be only the other."""
    try:
        return folder.checkpoint(which)
    except UserError:
        return folder.checkpoint(otherwise)


def _classes(run: Run, overrides: Sequence[str]) -> Section:
    folder = RunFolder(path=run.path)
    try:
        config, checkpoint = folder.config(overrides), _checkpoint(folder, "best", "last")
    except UserError as error:
        return Section(title="Classes", parts=[f"Left out: {error}."])
    return classes_section(config, checkpoint)


def _speed(run: Run, history: History) -> Section:
    speeds = sorted(value for _, value in history.series("time/images_per_second"))
    seconds = run.figure("seconds_per_step") or history.last("time/seconds_per_step")
    rows = [
        ["images a second, median of the logged", words.count(speeds[len(speeds) // 2] if speeds else None)],
        ["seconds a step", words.NONE if seconds is None else f"{seconds:.4g}"],
        ["wall time", words.duration(run.figure("wall_seconds"))],
        ["peak memory of the first rank", words.size(max((v for _, v in history.series("memory/peak_bytes")), default=None))],
        ["FLOPs of training that sparse layers saved", words.percent(history.last("execution/flops_saved"))],
    ]
    kinds = run.summary.get("state_bytes")
    for kind, number in kinds.items() if isinstance(kinds, dict) else ():
        if isinstance(number, int) and number:
            rows.append([f"state in memory: {kind}", words.size(number)])
    table = Table(head=["", "measured"], rows=rows)
    return Section(title="Throughput, memory and time", parts=[*speed_pictures(history), table])
