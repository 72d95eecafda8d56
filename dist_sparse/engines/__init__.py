"""What runs a step on all ranks. A new engine is one new file and its line in this table."""

from dist_sparse.engines.base import Engine
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.deepspeed import DeepSpeedEngine

ENGINES: dict[str, type[Engine]] = {cls.name: cls for cls in (DDPEngine, DeepSpeedEngine)}
