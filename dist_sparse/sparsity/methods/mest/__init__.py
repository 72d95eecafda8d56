"""MEST: memory-economic sparse training, and its bounds."""
