"""Pruning-plasticity probes of a trained checkpoint: ``python -m dist_sparse.plasticity RUN_DIR``."""
