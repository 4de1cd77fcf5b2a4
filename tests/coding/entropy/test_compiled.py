"""Compiled kernels run where nothing can be kept on disk."""

import numba
import pytest

from coding.entropy.compiled import compiled


def test_no_folder_for_compiled_code(monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/proc/no/such/folder")
    with pytest.raises(RuntimeError):
        numba.njit(cache=True)(abs_of)
    assert compiled(abs_of)(-3) == 3


def abs_of(value):
    return -value if value < 0 else value
