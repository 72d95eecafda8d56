"""How long a network takes by each way that computes it here; see the README of :mod:`dist_sparse.export`."""
