"""A training step made fast: the same sums as the plain path, in few launches."""
