"""Entropy coding with integer arithmetic only: a range coder, mixed contexts, arrays of integers."""
