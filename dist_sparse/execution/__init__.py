"""Sparse execution: a layer computed by its active weights alone, forward and backward; see the README here."""
