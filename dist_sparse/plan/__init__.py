"""What a run will do and cost, told without training: ``python -m dist_sparse.train --plan``."""
