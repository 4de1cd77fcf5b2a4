"""Measurements: time and memory in `speed`, rate and distortion in `rd`."""
