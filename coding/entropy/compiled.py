"""Decorators for kernels that numba compiles."""

from __future__ import annotations

import inspect
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numba
from numba.core import types
from numba.core.dispatcher import Dispatcher


def compiled(function: Callable) -> Callable:
    """Compile `function` with numba; it runs without Python's global lock.

    The result is cached on disk until the module of the function, or a module that it imports kernels from, changes.
    Without a writable cache folder, each process compiles anew.
    """
    # Numba names its cache files by the qualified name, and checks the function's own module only.
    function.__qualname__ += f"_{_checksum(sys.modules[function.__module__]):08x}"
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


def inlined(function: Callable) -> Callable:
    """Compile `function` with numba into the kernels that call it.

    It does not count references to arrays, which would take half of the time of a kernel. It must therefore neither
    create nor return arrays: its caller would free them. It may slice arrays, since slices are views.

    Raises:
        TypeError: the function returns arrays; raised when a kernel that calls it is compiled.
    """
    kernel = numba.njit(forceinline=True, _nrt=False)(function)  # type: ignore[call-overload]  # numba annotates no _nrt
    compile_kernel = kernel.compile

    def compile_checked(signature: tuple) -> object:
        entry = compile_kernel(signature)
        if any(_holds_arrays(found.return_type) for found in kernel.nopython_signatures):
            raise TypeError(f"an inlined function must not return arrays, got {function.__qualname__}")
        return entry

    kernel.compile = compile_checked
    return kernel


def _holds_arrays(kind: types.Type) -> bool:
    return isinstance(kind, types.Array) or any(map(_holds_arrays, getattr(kind, "types", ())))


def _checksum(module: ModuleType) -> int:
    """Return a checksum of the modules from which a module imports kernels, directly or not."""
    found, pending = {}, [module]
    while pending:
        for value in list(vars(pending.pop()).values()):
            if isinstance(value, Dispatcher) and value.py_func.__module__ not in found:
                found[value.py_func.__module__] = source = sys.modules[value.py_func.__module__]
                pending.append(source)
    found.pop(module.__name__, None)
    return zlib.crc32(b"".join(Path(inspect.getfile(found[name])).read_bytes() for name in sorted(found)))
