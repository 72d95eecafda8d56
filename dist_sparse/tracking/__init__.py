"""What a run tells of itself: metrics in files, at W&B and on the screen, its log, and where it comes from."""

from dist_sparse.tracking.console import Console, say
from dist_sparse.tracking.logs import setup_logging
from dist_sparse.tracking.provenance import write_provenance, write_summary
from dist_sparse.tracking.tracker import Tracker, build_tracker

__all__ = ["Console", "Tracker", "build_tracker", "say", "setup_logging", "write_provenance", "write_summary"]
