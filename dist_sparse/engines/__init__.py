"""What runs a step on all ranks. A new engine is one new file and its line in the first table.

One that packs weights or loses units, as its capabilities state, has a class that does so in another table.
"""

from collections.abc import Mapping

from dist_sparse.engines.base import Engine
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.deepspeed import DeepSpeedEngine
from dist_sparse.engines.narrowing import NarrowingDDPEngine
from dist_sparse.engines.packed import PackedDDPEngine
from dist_sparse.engines.packed_zero import PackedDeepSpeedEngine

ENGINES: dict[str, type[Engine]] = {cls.name: cls for cls in (DDPEngine, DeepSpeedEngine)}
PACKING_ENGINES: Mapping[str, type[Engine]] = {cls.name: cls for cls in (PackedDDPEngine, PackedDeepSpeedEngine)}
"""For ``execution.storage=packed`` (:attr:`.Capabilities.packs_weights`)."""
NARROWING_ENGINES: Mapping[str, type[Engine]] = {cls.name: cls for cls in (NarrowingDDPEngine,)}
"""For ``execution.shrink`` (:attr:`.Capabilities.loses_units`)."""
