"""AST: alternating sparse training of sub-nets, when each updates, how it is pruned, and the gradient correction."""
