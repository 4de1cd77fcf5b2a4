"""Compilation of kernels: without a cache folder, and with inlined functions."""

import importlib
import sys

import numba
import numpy as np
import pytest

from coding.entropy.compiled import compiled, inlined


def test_kernels_compile_without_a_cache_folder(monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/proc/no/such/folder")
    with pytest.raises(RuntimeError):
        numba.njit(cache=True)(abs_of)
    assert compiled(abs_of)(-3) == 3


def abs_of(value):
    return -value if value < 0 else value


@inlined
def add_to(array, value):
    for i in range(len(array)):
        array[i] += value


def test_inlined_functions_count_no_references():
    """Atomic counting can take longer than all the rest of a kernel."""
    kernel = numba.njit(lambda array: add_to(array, 1))
    array = np.zeros(3)
    kernel(array)
    assert (array == 1).all()
    (ir,) = add_to.inspect_llvm().values()
    assert "NRT_incref" not in ir and "NRT_decref" not in ir


@inlined
def pair_of(array):
    return 1, (array[1:], 2)


def test_inlined_functions_cannot_return_arrays():
    with pytest.raises(TypeError, match="must not return arrays, got pair_of"):
        numba.njit(lambda array: pair_of(array)[0])(np.zeros(3))


def test_kernels_are_compiled_again_when_what_they_inline_changes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    head = "from coding.entropy.compiled import compiled, inlined\n"
    (tmp_path / "middle_part.py").write_text(
        f"{head}from inner_part import inner\n\n@inlined\ndef middle(x):\n    return inner(x)\n"
    )
    (tmp_path / "whole_kernel.py").write_text(
        f"{head}from middle_part import middle\n\n@compiled\ndef kernel(x):\n    return middle(x)\n"
    )

    def run(term):
        (tmp_path / "inner_part.py").write_text(f"{head}\n@inlined\ndef inner(x):\n    return x + {term}\n")
        for name in ("inner_part", "middle_part", "whole_kernel"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        kernel = importlib.import_module("whole_kernel").kernel
        return kernel(1), sum(kernel.stats.cache_hits.values())

    assert [run(term) for term in ("100", "100", "25000")] == [(101, 0), (101, 1), (25001, 0)]
