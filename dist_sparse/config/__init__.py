"""The configuration of a run: its schema, and how it is read and written. Imports neither torch nor numpy."""

from dist_sparse.config.annotate import annotated
from dist_sparse.config.completion import completion
from dist_sparse.config.dump import dump_config, to_flat
from dist_sparse.config.duration import Length
from dist_sparse.config.json_schema import file_schema
from dist_sparse.config.parse import Invocation, load_config, parse_args, with_values
from dist_sparse.config.schema import Config

__all__ = [
    "Config",
    "Invocation",
    "Length",
    "annotated",
    "completion",
    "dump_config",
    "file_schema",
    "load_config",
    "parse_args",
    "to_flat",
    "with_values",
]
