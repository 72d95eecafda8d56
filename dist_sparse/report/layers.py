"""The layers of a run's newest checkpoint: what they hold, what was ever active, and where the FLOPs are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_sparse.config import Config
from dist_sparse.report import words
from dist_sparse.report.drawing import COLOURS, WIDTH, Picture, new_figure, plain
from dist_sparse.report.page import Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dist_sparse.cost import Cost

_BARS = 60
"""The figure shows so many layers, those with the most FLOPs of the dense network."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The layers of a checkpoint's network; of several, of the sparsest."""

    cost: "Cost"
    explored: Mapping[str, int]
    """Weights of each masked layer that were ever active."""
    step: int
    network: str


def read_layers(config: Config, checkpoint: Path) -> Layers:
    """The layers in the checkpoint.

    Raises:
        UserError: it cannot be read, or the model of ``config`` is another one.
    """
    from dist_sparse.checkpoint_content import check_networks
    from dist_sparse.cost import measure
    from dist_sparse.models import build_meta_model
    from dist_sparse.networks import networks_of
    from dist_sparse.stored import misfits_of, read_checkpoint, step_of

    state = read_checkpoint(checkpoint, mapped=True)
    check_networks(state, checkpoint)
    facts = {name: state["data"].get(name) for name in ("classes", "channels", "image_size")}
    if not all(type(fact) is int and fact > 0 for fact in facts.values()):
        from dist_sparse.errors import UserError

        raise UserError(f"{checkpoint}: entry 'data' does not say how many classes, channels and pixels there are")
    model = build_meta_model(config.model, **facts)
    network = networks_of(state)[-1]
    if misfits := misfits_of(network.weights, model.state_dict()):
        from dist_sparse.errors import UserError

        raise UserError(f"{checkpoint} does not fit the run's model: {'; '.join(misfits)}")
    image = (facts["channels"], facts["image_size"], facts["image_size"])
    cost = measure(model, image, network.active, config.sparsity.structure)
    explored = _explored(state["method"])
    return Layers(cost=cost, explored=explored, step=step_of(state, checkpoint), network=network.label)


def _explored(method: Mapping[str, Any]) -> dict[str, int]:
    from dist_sparse.sparsity import bits

    masks = method["masks"][-1] if isinstance(method["masks"], list) else method
    return {name: bits.popcount(packed) for name, packed in masks["explored"].items()}


def layers_sections(layers: Layers, checkpoint: Path) -> list[Section]:
    """The table of layers, and the FLOPs."""
    which = f"{layers.network} in " if layers.network else ""
    text = f"{which}{checkpoint.name}, step {layers.step:,}. MACs are multiply-accumulates of an image's forward pass."
    cost = layers.cost
    share = cost.flops / cost.dense_flops if cost.dense_flops else 1.0
    told = (
        f"A forward pass of one image takes {cost.flops:,.0f} FLOPs, {share:.2%} of the dense network's {cost.dense_flops:,}."
    )
    rows = sorted(cost.rows, key=lambda row: -row.macs)
    if len(rows) > _BARS:
        told += f" The figure shows the {_BARS} layers that take the most, of {len(rows)}."
    picture = Picture(
        name="flops", alt="FLOPs of each layer, sparse and dense", make=lambda: _bars(cost), dense=len(rows) > _FEW
    )
    return [
        Section(title="Layers", parts=[text, _table(layers)]),
        Section(title="Where the FLOPs are", parts=[told, picture]),
    ]


_FEW = 12


def _table(layers: Layers) -> Table:
    cost, rows = layers.cost, []
    scale, unit = (1e6, "MMACs") if cost.dense_flops > 1e9 else (1e3, "kMACs")
    for row in cost.rows:
        ever = layers.explored.get(row.name)
        macs = row.macs * row.density
        rows.append(
            [
                row.name,
                "x".join(map(str, row.shape)),
                row.structure,
                f"{row.density:.4f}",
                f"{row.active:,}",
                f"{row.weights:,}",
                words.percent(None if ever is None else ever / row.weights),
                f"{macs / scale:,.1f}",
                words.percent(2 * macs / cost.flops if cost.flops else None),
            ]
        )
    share = cost.active_parameters / cost.parameters
    total = ["all parameters", "", "", f"{share:.4f}", f"{cost.active_parameters:,}", f"{cost.parameters:,}", ""]
    return Table(
        head=["layer", "shape", "structure", "density", "active", "weights", "ever active", unit, f"of all {unit}"],
        rows=rows,
        texts=3,
        total=[*total, f"{cost.flops / 2 / scale:,.1f}", words.percent(1.0)],
    )


def _bars(cost: "Cost") -> "Figure":
    from dist_sparse.flops import shortened

    most = {row.name for row in sorted(cost.rows, key=lambda row: -row.macs)[:_BARS]}
    rows = [row for row in cost.rows if row.name in most]
    scale, unit = (1e9, "GFLOPs") if cost.dense_flops > 1e10 else (1e6, "MFLOPs")
    figure = new_figure(width=1.2 * WIDTH, height=0.9 + 0.19 * len(rows))
    axes = figure.add_subplot(title=f"{unit} of an image's forward pass")
    places = range(len(rows))
    axes.barh(places, [2 * row.macs / scale for row in rows], color="#d8dee4", label="dense")
    axes.barh(places, [2 * row.macs * row.density / scale for row in rows], color=COLOURS[0], label="this network")
    axes.set_yticks(places, [plain(shortened(row.name.removesuffix(".weight"), 32)) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure
