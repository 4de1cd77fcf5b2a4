"""Decorators of the kernels that numba compiles."""

from __future__ import annotations

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """Compile `function` with numba, to run without Python's lock.

    The result is kept on disk for the next process. Without a folder that can be written to, each process compiles
    its own.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


def inlined(function: Callable) -> Callable:
    """Compile `function` with numba as a part of the kernels that call it.

    It does not count references to arrays, which would take half of the time of a kernel. So it cannot create arrays;
    slices are allowed, as they are views.
    """
    return numba.njit(forceinline=True, _nrt=False)(function)
