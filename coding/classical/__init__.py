"""Codecs that learn nothing from other images; `coding.codecs` has their names."""
