"""Kernels run where nothing can be kept on disk, and hold what they inline."""

import numba
import numpy as np
import pytest

from coding.entropy.compiled import compiled, inlined


def test_no_folder_for_compiled_code(monkeypatch):
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
    """Counting them, which is atomic, can take longer than all the rest of a kernel."""
    kernel = numba.njit(lambda array: add_to(array, 1))
    array = np.zeros(3)
    kernel(array)
    assert (array == 1).all()
    (ir,) = add_to.inspect_llvm().values()
    assert "NRT_incref" not in ir and "NRT_decref" not in ir
