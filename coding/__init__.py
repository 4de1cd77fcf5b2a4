"""Codecs: cube in, bytes out. `codecs[name]` opens the tile coder that a file's header names."""

from __future__ import annotations

from collections.abc import Callable

PLANE_CODERS = ("context", "jpegxl", "factorized")
"""The names in `coding.planes.plane_coders`, the default first: `--help`, which lists them, must not import that."""


def _open_learned(*args):
    from coding.learned.tiles import open_tiles

    return open_tiles(*args)


def _open_klt_cm(*args):
    from coding.kltcm.tiles import open_tiles

    return open_tiles(*args)


codecs: dict[str, Callable] = {"klt-cm": _open_klt_cm, "learned": _open_learned}
"""Name -> function of a file's `Header`, its shared bytes and a `Network` (None for codecs without weights)."""
