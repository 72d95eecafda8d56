"""What is kept or dropped together: one class a structure, and how one is named in a configuration."""

from dist_sparse.errors import is_unknown
from dist_sparse.sparsity.structures.base import Structure
from dist_sparse.sparsity.structures.layer_wide import Block, Channel, Filter, Kernel, Unstructured
from dist_sparse.sparsity.structures.pattern import Pattern
from dist_sparse.sparsity.structures.per_set import NM, FanIn, KernelPerFilter

__all__ = [
    "NM",
    "STRUCTURES",
    "Block",
    "Channel",
    "FanIn",
    "Filter",
    "Kernel",
    "KernelPerFilter",
    "Pattern",
    "Structure",
    "Unstructured",
    "parse_structure",
]

STRUCTURES: dict[str, type[Structure]] = {
    cls.name: cls for cls in (Unstructured, Block, NM, FanIn, Kernel, KernelPerFilter, Pattern, Channel, Filter)
}


def parse_structure(text: str) -> Structure:
    """The structure that a configuration names: ``unstructured``, ``block:4x1``, ``nm:2:4`` ...

    Raises:
        ValueError: there is none of that name, or what follows the name cannot be understood.
    """
    name, colon, argument = text.partition(":")
    if name not in STRUCTURES:
        forms = f"known: {', '.join(cls.form for cls in STRUCTURES.values())}"
        raise ValueError(f"{text!r} {is_unknown(name, STRUCTURES, forms)}")
    cls = STRUCTURES[name]
    try:
        return cls.parse(argument if colon else None)
    except ValueError as error:
        example = "" if cls.form == cls.example else f", such as {cls.example}"
        raise ValueError(f"{text!r}: {error}; it is written {cls.form}{example}") from None
