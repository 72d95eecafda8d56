"""What a user of exported weights has to know, as text that every format has a place for."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dist_sparse.errors import UserError
from dist_sparse.inputs import parse_json


@dataclass(frozen=True, kw_only=True)
class Description:
    """Which network it is, what goes in and comes out, and where it comes from."""

    model: str
    """Name for ``timm.create_model``; those of :mod:`dist_sparse.models` need that imported."""
    model_kwargs: dict[str, Any]
    """Its arguments beside the number of classes and channels."""
    classes: int
    class_names: list[str] | None
    """By class number; None where nobody has said them."""
    channels: int
    image_size: int
    dtype: str
    """The type of weights and images: ``float32``, or ``float64`` of runs in double precision."""
    mean: list[float] | None
    """By channel, of pixels scaled to 0-1; None, as :attr:`std`, in checkpoints that kept no normalisation."""
    std: list[float] | None
    interpolation: str | None = None
    """How validation images were resized; None, as the two below, where they were not, or nobody has said it."""
    crop_pct: float | None = None
    """The crop's side over the side that an image is resized to; above 1 the crop pads with zeros, as small sets may be."""
    crop_mode: str | None = None
    """timm's: ``center``, ``border`` or ``squash``."""
    method: str
    structure: str
    """The masks' structure, as ``sparsity.structure`` has it."""
    pattern: str | None
    """``N:M`` where at most N of M weights beside one another along the input channels are active."""
    density: float
    """Active weights as a share of the masked layers' weights."""
    layers: dict[str, int]
    """Active weights of each masked layer."""
    run: str
    """Name of the run's folder."""
    subnet: str | None
    """Which of the networks, where a method trains several: ``subnet1`` and so on."""
    step: int

    def as_json(self) -> str:
        """For a file of its own."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    def as_texts(self) -> dict[str, str]:
        """For formats whose metadata are texts by name: text as it is, all else as JSON."""
        values = dataclasses.asdict(self).items()
        return {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for name, value in values}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], source: object) -> "Description":
        """What :meth:`as_texts` gave; other entries are left out.

        Raises:
            UserError: as :meth:`from_values`.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if (text := texts.get(field.name)) is not None:
                is_plain = field.type is str or (field.type == str | None and text != "null")
                values[field.name] = text if is_plain else parse_json(text, f"{source}: metadata '{field.name}'")
        return cls.from_values(values, source)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], source: object) -> "Description":
        """What :meth:`as_json` gave, as Python reads it.

        Raises:
            UserError: an entry is missing, or is of another kind; the message names the ``source`` and the entry.
        """
        from pydantic import TypeAdapter, ValidationError

        needed = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
        if missing := [name for name in needed if name not in values]:
            names = ", ".join(missing[:3])
            raise UserError(f"{source}: not written by `python -m dist_sparse.export`: its metadata lack {names}")
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            (first, *_) = error.errors()
            place = ".".join(map(str, first["loc"]))
            raise UserError(f"{source}: '{place}' cannot be used: {first['msg']}") from None
