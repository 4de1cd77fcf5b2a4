"""Coding of bands of integers, each predicted from the preceding bands."""
