"""Shuffled blocks: the method, which layers have them, the blocks themselves and the clustering of rows."""
