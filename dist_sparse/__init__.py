"""Distributed sparse training: train a sparse network on one process or on many, with one set of masks."""

__version__ = "0.1.0"
