"""What this machine has for training, what it lacks, and what to do about it (``python -m dist_sparse.doctor``)."""
