"""Bands as integers, each predicted from those before it."""
