"""Kernels that numba compiles: once on a machine, where there is a folder to keep them in."""

from __future__ import annotations

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """`function` compiled by numba, running without Python's lock.

    It is kept on disk for the next process; without a folder that can be written to each process compiles its own.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)
