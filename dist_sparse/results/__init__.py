"""What the runs of a grid reached: mean and deviation over seeds, as text, CSV and a plot."""
