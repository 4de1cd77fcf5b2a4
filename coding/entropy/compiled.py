"""Decorators of the kernels that numba compiles."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numba
from numba.core.dispatcher import Dispatcher


def compiled(function: Callable) -> Callable:
    """Compile `function` with numba, to run without Python's lock.

    The result is kept on disk for the next process, until the module of the function changes, or one that its kernels
    come from. Without a folder that can be written to, each process compiles its own.
    """
    # Numba names its files so, and looks at no module but that of the function.
    function.__qualname__ += f"_{_checksum(sys.modules[function.__module__]):08x}"
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


def _checksum(module: ModuleType) -> int:
    """Return a checksum of the modules from which a module imports kernels, directly or not."""
    found, pending = {}, [module]
    while pending:
        for value in list(vars(pending.pop()).values()):
            if isinstance(value, Dispatcher) and value.py_func.__module__ not in found:
                found[value.py_func.__module__] = source = sys.modules[value.py_func.__module__]
                pending.append(source)
    found.pop(module.__name__, None)
    return zlib.crc32(b"".join(Path(found[name].__file__).read_bytes() for name in sorted(found)))
