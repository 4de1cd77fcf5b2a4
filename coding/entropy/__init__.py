"""Entropy coding with integers alone: a range coder, mixed contexts, arrays of integers."""
