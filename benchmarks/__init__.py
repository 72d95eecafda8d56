"""Measurements side by side with peers; ``python -m benchmarks.step`` and the like print one table each. See README.md."""
