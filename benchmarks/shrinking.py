"""How much of the FLOPs that shrinking saves is saved in time: a shrunk network against the original, both dense.

Masks are random, of structure ``channel`` or ``filter``; the classifier has none. In a network of random units, residual sums
keep nearly all of their channels, since each is read by one of the blocks.
"""

import argparse
import copy
from collections.abc import Callable
from statistics import median

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import dist_sparse.models  # noqa: F401 (registers its families with timm)
from benchmarks import timing
from dist_sparse.shrinking import shrink
from dist_sparse.sparsity.layers import weight_layers
from dist_sparse.sparsity.structures import Channel, Filter, Structure

NETWORKS = {"cifar_vgg_d": (64, 32), "resnet50": (8, 160)}
"""By name: images a batch, and their side in pixels."""


def main() -> None:
    args = _arguments()
    torch.manual_seed(0)
    timing.pin(torch.device("cpu"))
    structure = Filter() if args.structure == "filter" else Channel()
    print("| network, passes | FLOPs saved | ms, original | ms, shrunk | time saved | of the FLOPs saved |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in args.only or NETWORKS:
        _compare(name, structure, args)
    print(f"\n{timing.setting(torch.device('cpu'))}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="times each pass is measured")
    parser.add_argument("--density", type=float, default=0.25, help="units that stay over all units of a layer")
    parser.add_argument("--structure", choices=("channel", "filter"), default="channel")
    parser.add_argument("--multiple", type=int, default=8, help="widths stay multiples of this number")
    parser.add_argument("--channels-last", action="store_true", help="NHWC memory format")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, help="these networks alone")
    return parser.parse_args()


def _compare(name: str, structure: Structure, args: argparse.Namespace) -> None:
    batch, side = NETWORKS[name]
    original = timm.create_model(name, num_classes=10)
    images = torch.randn(batch, 3, side, side)
    if args.channels_last:
        original, images = original.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)
    shrunk = shrink(original, _masks(original, structure, args.density), images, multiple=args.multiple)
    saved = 1 - shrunk.report.flops_after / shrunk.report.flops_before
    labels = torch.randint(10, (batch,))
    networks = {"original": original, "shrunk": shrunk.model}
    passes = {"inference": _inference, "training step": _training}
    for told, make in passes.items():
        timings = timing.interleaved(
            {key: make(copy.deepcopy(network), images, labels) for key, network in networks.items()},
            args.rounds,
            clock=timing.clock_for(images.device),
        )
        before, after = (1e3 * median(timings.seconds[key]) for key in networks)
        in_time = 1 - median(timings.ratios("shrunk", "original"))
        cells = f"{name}, {told}", f"{saved:.3f}", f"{before:.1f}", f"{after:.1f}", f"{in_time:.3f}", f"{in_time / saved:.3f}"
        print(f"| {' | '.join(cells)} |", flush=True)


def _masks(network: nn.Module, structure: Structure, density: float) -> dict[str, Tensor]:
    """Masks that keep this share of the units at random, for every layer but the last whose input is wide enough."""
    masks = {}
    for name, weight in list(weight_layers(network).items())[:-1]:
        if structure.misfit(weight.shape) is None and weight.shape[1] > 3:
            sets, units, size = structure.split(weight.detach()).shape
            kept = torch.rand(sets, units).argsort(1) < round(density * units)
            masks[name] = structure.merge(kept[..., None].expand(-1, -1, size), weight.shape).contiguous()
    return masks


def _inference(network: nn.Module, images: Tensor, _: Tensor) -> Callable[[], object]:
    network.eval()

    def run() -> Tensor:
        with torch.inference_mode():
            return network(images)

    return run


def _training(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def run() -> None:
        cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


if __name__ == "__main__":
    main()
