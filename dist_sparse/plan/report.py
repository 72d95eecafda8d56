"""An outlook as text."""

import itertools
from collections.abc import Sequence

from dist_sparse.engines.build import capabilities_of
from dist_sparse.engines.traffic import WORTH_PACKING, bytes_per_step, elements_per_step
from dist_sparse.executing import impossible, pointless
from dist_sparse.plan.outlook import Outlook
from dist_sparse.sparsity.methods.forecast import NetworkForecast

_ROWS = 8
"""Most lines of the table of densities."""


def report(outlook: Outlook) -> str:
    """The whole text, without a newline at its end."""
    title = f"plan of {outlook.config.name} on {_count(outlook.world_size, 'rank')}; nothing is trained"
    parts = [_length(outlook), _masks(outlook), _densities(outlook), _flops(outlook), _memory(outlook), _traffic_lines(outlook)]
    return "\n".join([title, *(line for part in parts for line in part)])


def _length(outlook: Outlook) -> list[str]:
    info, train, clock = outlook.info, outlook.config.train, outlook.clock
    share = train.batch_size // (outlook.world_size * train.accumulation)
    steps = len(outlook.made)
    fewer = f" (numbered up to {clock.total:,})" if steps < clock.total else ""
    return [
        _line("network", f"{outlook.config.model.name}, {outlook.cost.parameters:,} parameters"),
        _line("data", f"{info.name}: {info.train_size:,} training and {info.val_size:,} validation images, {outlook.source}"),
        _line("", f"{info.classes:,} classes, {info.channels}x{info.image_size}x{info.image_size} pixels"),
        _line(
            "batch",
            f"{train.batch_size:,} images a step: {_count(outlook.world_size, 'rank')} x "
            f"{_count(train.accumulation, 'micro-batch', 'es')} x {share:,} images",
        ),
        _line("length", f"{steps:,} steps{fewer}, {_count(train.epochs, 'epoch')} of {clock.whole:,} steps"),
        _line("", f"{steps * train.batch_size:,} images"),
    ]


def _masks(outlook: Outlook) -> list[str]:
    method, steps = outlook.config.sparsity.method, outlook.update_steps
    if not outlook.shapes:
        return [_line("masks", f"none: {method}")]
    layers = f"{method} on {len(outlook.shapes)} layers of {sum(shape.numel() for shape in outlook.shapes.values()):,} weights"
    if not steps:
        none = "masks follow the weights at every step" if outlook.forecast.chosen_every_step else "none"
        return [_line("masks", layers), _line("updates", none), _line("execution", _execution(outlook))]
    return [
        _line("masks", layers),
        *(_updates(outlook, network) for network in outlook.forecast.networks),
        _line("execution", _execution(outlook)),
    ]


def _execution(outlook: Outlook) -> str:
    compute = outlook.config.execution.compute
    if outlook.config.execution.shrink:
        return "dense, of ever fewer units as they die (execution.shrink): below it is counted as if they stayed"
    if compute == "dense":
        return "dense"
    if reason := impossible(outlook.config, None) or (compute == "auto" and pointless(outlook.forecast, len(outlook.made))):
        return f"dense: {reason}"
    if compute == "sparse":
        return "sparse, the layers that can be"
    return "on a CPU, what is measured to be the fastest there; else dense"


def _updates(outlook: Outlook, network: NetworkForecast) -> str:
    steps = [outlook.made[update.index] for update in network.updates]
    label = f"{network.label}: " if network.label else ""
    if len(steps) < 2:
        return _line("updates", label + (f"one, at step {steps[0]:,}" if steps else "none"))
    gaps = {later - earlier for earlier, later in itertools.pairwise(steps)}
    every = f"every {gaps.pop():,} steps" if len(gaps) == 1 else f"{min(gaps):,} to {max(gaps):,} steps apart"
    return _line("updates", f"{label}{len(steps):,}, {every}, the first at step {steps[0]:,}, the last at step {steps[-1]:,}")


def _densities(outlook: Outlook) -> list[str]:
    networks = outlook.forecast.networks
    indices = sorted({0, len(outlook.made) - 1, *(update.from_index for network in networks for update in _changing(network))})
    indices = [index for index in _spread(indices) if index < len(outlook.made)]
    names = [network.label or "density" for network in networks]
    head = "".join(f"{name:>10}" for name in names)
    rows = [f"  {'step':>12}{'epoch':>8}{head}"]
    for index in indices:
        step = outlook.made[index]
        values = "".join(f"{outlook.density(outlook.densities_at(network, index)):>10.4f}" for network in networks)
        rows.append(f"  {step:>12,}{(step - 1) / outlook.clock.whole:>8.1f}{values}")
    return [
        *rows,
        _line("density", f"{outlook.mean_density:.4f} on average over the steps, {outlook.peak_density:.4f} at most"),
    ]


def _changing(network: NetworkForecast) -> list:
    """The updates after which some layer has another density."""
    before, changing = network.initial, []
    for update in network.updates:
        if update.densities != before:
            changing.append(update)
        before = update.densities
    return changing


def _spread(places: Sequence[int]) -> list[int]:
    """At most so many of them, the first and the last and some between."""
    if len(places) <= _ROWS:
        return list(places)
    return [places[round(number * (len(places) - 1) / (_ROWS - 1))] for number in range(_ROWS)]


def _flops(outlook: Outlook) -> list[str]:
    cost, about = outlook.cost, "about " if outlook.forecast.estimate else ""
    inference, training = outlook.inference_share, outlook.training_share
    dense = outlook.dense_training_flops
    lines = [
        _line("inference", f"{about}{inference:.4f} of dense: {cost.flops:.3e} of {cost.dense_flops:.3e} FLOPs an image"),
        _line("training", f"{about}{training:.4f} of dense: {training * dense:.3e} of {dense:.3e} FLOPs"),
    ]
    return [*lines, *([_line("", outlook.forecast.estimate)] if about else [])]


def _memory(outlook: Outlook) -> list[str]:
    memory = outlook.memory
    parts = {"weights": memory.weights, "gradients": memory.gradients, "optimizer": memory.optimizer}
    parts |= {"masks": memory.masks, "indices": memory.indices, "method": memory.method, "EMA": memory.ema}
    told = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts.items() if size)
    lines = [_line("memory", f"{in_bytes(memory.total)} a rank without activations: {told}")]
    if memory.masks:
        lines.append(_line("", f"(masks on the CPU: {in_bytes(memory.masks_on_cpu)})"))
    return lines


def _traffic_lines(outlook: Outlook) -> list[str]:
    if outlook.world_size == 1:
        return [_line("traffic", "nothing: one rank")]
    engine, dense = capabilities_of(outlook.config.engine), elements_per_step(outlook.parameters, {})
    told = _traffic(outlook, dense)
    lines = [_line("traffic", f"{told} a step that each rank sends for all gradients ({dense:,} elements)")]
    if "weights" in engine.sharded:
        weights = _traffic(outlook, dense + dense // 2)
        lines.append(_line("", f"{weights} with the weights, which are gathered for forward and backward"))
    if outlook.config.execution.storage == "packed":
        active = elements_per_step(outlook.parameters, outlook.active(outlook.final_gradients))
        lines.append(
            _line(
                "", f"{_traffic(outlook, active)} for those of weights active at the end, which are all that packed ones have"
            )
        )
    elif outlook.shapes and engine.packs_gradients and outlook.config.engine.exchange != "dense":
        lines += _packed(outlook, dense)
    return lines


def _packed(outlook: Outlook, dense: int) -> list[str]:
    """What ``engine.exchange`` makes of it."""
    if len(outlook.forecast.dense_gradient_steps) == len(outlook.made):
        return [_line("", "engine.exchange sends all of it, too: every step needs all gradients")]
    auto = outlook.config.engine.exchange == "auto"
    final = elements_per_step(outlook.parameters, outlook.active(outlook.final_gradients))
    share = f"{final / dense:.3f} of all"
    if auto and final > WORTH_PACKING * dense:
        return [_line("", f"engine.exchange=auto sends about all of it, too: {share} belong to weights active at the end")]
    masks = in_bytes(sum(shape.numel() for shape in outlook.shapes.values()) // 8)
    update = f"; an update sends masks of {masks}" if outlook.update_steps else ""
    return [
        _line("", f"{_traffic(outlook, final)} where engine.exchange sends only those of weights that are active at the end"),
        _line(
            "",
            f"({final:,} elements, {share}); {len(outlook.forecast.dense_gradient_steps):,} steps need all gradients{update}",
        ),
        *([_line("", "(auto does not between the GPUs of one machine: engine.exchange=masked does)")] if auto else []),
    ]


def _traffic(outlook: Outlook, elements: int) -> str:
    precision, compress = outlook.config.train.precision, outlook.config.engine.compress
    return in_bytes(bytes_per_step(elements, outlook.world_size, precision=precision, compress=compress))


def _line(key: str, text: str) -> str:
    return f"{key:<10}{text}"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def in_bytes(count: int) -> str:
    """Bytes in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.1f} kB"
