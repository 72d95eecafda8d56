"""Public repositories' own pruning code in runs of ours, beside our methods; nothing of theirs is copied here."""
