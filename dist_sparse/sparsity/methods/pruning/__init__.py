"""Gradual pruning along a ramp: what GMP and GraNet share, and AST in part."""
