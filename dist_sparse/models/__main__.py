"""``python -m dist_sparse.models``: a table of the families that are registered with timm here."""

import sys
from types import ModuleType

import timm

from dist_sparse.models import FAMILIES

_ROW = "{:<16} {:>11}  {:<8}  {}"


def table() -> str:
    """Name, parameters (10 classes), default input and source of every network of :data:`~dist_sparse.models.FAMILIES`."""
    rows = [_ROW.format("name", "parameters", "input", "papers")]
    for name in (name for family in FAMILIES for name in names(family)):
        entrypoint = timm.model_entrypoint(name)
        model = timm.create_model(name)
        parameters = f"{sum(parameter.numel() for parameter in model.parameters()):,}"
        shape = "x".join(map(str, model.pretrained_cfg["input_size"]))
        rows.append(_ROW.format(name, parameters, shape, entrypoint.__doc__))
    rows.append("\nBeside these, every model of timm can be named (`timm.list_models()`).")
    return "\n".join(rows)


def names(family: ModuleType) -> list[str]:
    """The networks that one family's module registers."""
    return list(family.default_cfgs)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
