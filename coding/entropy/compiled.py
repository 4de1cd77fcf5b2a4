"""Decorators for kernels that numba compiles."""

from __future__ import annotations

import contextlib
import inspect
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
from numba.core import types
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher


def compiled(function: Callable, reorders_sums: bool = False) -> Callable:
    """Compile `function` with numba; it runs without Python's global lock.

    Args:
        function: the kernel.
        reorders_sums: whether sums of floats may be computed in any order, so that they can be vectorized; their
            rounding then depends on the machine.

    The result is cached on disk until the module of the function, or a module that it imports kernels from, changes.
    Without a writable cache folder, or with a damaged or full one, each process compiles anew.
    """
    # Numba names its cache files by the qualified name, and checks the function's own module only.
    function.__qualname__ += f"_{_checksum(sys.modules[function.__module__]):08x}"
    kernel = numba.njit(nogil=True, fastmath={"reassoc", "contract"} if reorders_sums else False)(function)
    with contextlib.suppress(RuntimeError):  # no folder for the cache
        kernel._cache = KernelCache(function)  # type: ignore[attr-defined]  # numba annotates no _cache
    return kernel


class KernelCache(FunctionCache):
    """Numba's cache of a function, whose failures only cost time.

    Attributes:
        has_failed: whether a result could not be saved, which is noted once in a process.
    """

    has_failed = False

    def load_overload(self, sig: object, target_context: object) -> object | None:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # what numba raises for a damaged file is not documented
            with contextlib.suppress(OSError):
                self.flush()  # begins a new index
            return None

    def save_overload(self, sig: object, data: object) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:  # the disk is full, or the quota used up
            self.disable()
            if not KernelCache.has_failed:
                KernelCache.has_failed = True
                print(
                    f"note: compiled kernels cannot be kept in {self.cache_path}: {error.strerror}; each run compiles "
                    "them again: make room there, or set NUMBA_CACHE_DIR to another folder",
                    file=sys.stderr,
                )


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
    """Return a checksum of the modules from which a module imports kernels, directly or not, and of all constants.

    Constants may come from modules without kernels, and numba compiles their values into kernels.
    """
    found, pending = {}, [module]
    while pending:
        for value in list(vars(pending.pop()).values()):
            if isinstance(value, Dispatcher) and value.py_func.__module__ not in found:
                found[value.py_func.__module__] = source = sys.modules[value.py_func.__module__]
                pending.append(source)
    found.pop(module.__name__, None)
    sources = b"".join(Path(inspect.getfile(found[name])).read_bytes() for name in sorted(found))
    constants = [
        (name, value.tolist() if isinstance(value, np.ndarray) else value)
        for user in (module, *(found[name] for name in sorted(found)))
        for name, value in sorted(vars(user).items())
        if isinstance(value, int | float | np.ndarray)
    ]
    return zlib.crc32(sources, zlib.crc32(repr(constants).encode()))
