"""Codecs that learn nothing from other images: `classical[name]` is the family of a name."""

from __future__ import annotations

from ..base import Family

classical: dict[str, Family] = {}
"""Name -> family, by the names of the README."""
