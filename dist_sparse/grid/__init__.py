"""Grid files: a text file with the arguments of one run on each line, for a Slurm array or any other list of runs."""

from dist_sparse.grid.gridfile import GridRun, read_grid

__all__ = ["GridRun", "read_grid"]
