"""The table of what was removed, and measured times."""

from dist_sparse.flops import layer_macs
from dist_sparse.shrinking import shrink
from dist_sparse.sparsity.structures import Filter
from tests.shrinking.networks import images, network, random_masks


def test_the_table_counts_what_is_there() -> None:
    model = network("cifar_vgg_d")
    masks = random_masks(model, Filter(), density=0.25)
    shrunk = shrink(model, masks, images(32))
    report = shrunk.report
    assert report.parameters_before == sum(parameter.numel() for parameter in model.parameters())
    assert report.flops_after == 2 * sum(layer_macs(shrunk.model, (3, 32, 32)).values())
    inactive = sum(int((~mask).sum()) for mask in masks.values())
    assert report.parameters_active == report.parameters_before - inactive
    for row in report.layers:
        assert row.after == tuple(shrunk.model.get_parameter(row.name).shape)
        assert row.dead - row.dead_removed == sum(row.stayed.values())
    first, *_, last = report.layers
    assert (first.dead, first.dead_removed, first.after) == (48, 47, (17, 3, 3, 3)) and last.dead == 0

    header, *lines, parameters, flops = report.table().splitlines()
    assert header.split()[:5] == ["layer", "before", "after", "MMACs", "before"] and header.endswith("that stay, and why")
    assert len(lines) == len(report.layers) and lines[0].split()[:5] == [
        "features.0.weight",
        "64x3x3x3",
        "17x3x3x3",
        "1.77",
        "0.47",
    ]
    assert f"{report.parameters_after:,} of" in parameters and f"{report.flops_before:,}  (" in flops
