"""``python -m dist_sparse.models``: a table of the families that are registered with timm here."""

import timm
import torch

from dist_sparse.leaving import leave
from dist_sparse.models import FAMILIES

_ROW = "{:<16} {:>11}  {:<8}  {}"


def table() -> str:
    """Name, parameters (10 classes), default input and source of every network of :data:`~dist_sparse.models.FAMILIES`."""
    rows = [_ROW.format("name", "parameters", "input", "papers")]
    for name in (name for family in FAMILIES for name in family.default_cfgs):
        entrypoint = timm.model_entrypoint(name)
        with torch.device("meta"):  # counting needs no weights
            parameters = sum(parameter.numel() for parameter in entrypoint().parameters())
        default = timm.get_pretrained_cfg(name)
        assert default is not None, name
        shape = "x".join(map(str, default.input_size))
        rows.append(_ROW.format(name, f"{parameters:,}", shape, entrypoint.__doc__))
    rows.append("\nBeside these, every model of timm can be named (`timm.list_models()`).")
    return "\n".join(rows)


def main() -> int:
    """Print the table."""
    print(table())
    return 0


if __name__ == "__main__":
    leave(main)
