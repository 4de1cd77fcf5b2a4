"""Compilation of kernels: without a cache folder, and with inlined functions."""

import importlib
import sys

import numba
import numpy as np
import pytest
from numba.core import caching

from coding.entropy.compiled import KernelCache, compiled, inlined


def test_kernels_compile_without_a_cache_folder(monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/proc/no/such/folder")
    with pytest.raises(RuntimeError):
        numba.njit(cache=True)(abs_of)
    assert compiled(abs_of)(-3) == 3


def abs_of(value):
    return -value if value < 0 else value


def test_kernels_run_when_the_disk_of_the_cache_is_full_or_its_files_are_damaged(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(KernelCache, "has_failed", False)
        patch.setattr(caching, "dumps", full)
        kernel, other = compiled(abs_of), compiled(sign_of)
        assert [kernel(-3), kernel(-3.5), other(-3)] == [3, 3.5, -1]
    (note,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in note and "No space left on device" in note and "NUMBA_CACHE_DIR" in note

    def run():
        monkeypatch.setattr(sign_of, "__qualname__", "sign_of")  # `compiled` extends it
        kernel = compiled(sign_of)
        return kernel(-3), sum(kernel.stats.cache_hits.values())

    assert [run(), run()] == [(-1, 0), (-1, 1)]
    for path in tmp_path.rglob("*.nb?"):
        path.write_bytes(b"")  # as a power failure leaves them
    assert [run(), run()] == [(-1, 0), (-1, 1)]
    assert capsys.readouterr().err == ""


def sign_of(value):
    return -1 if value < 0 else 1


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


def test_kernels_are_compiled_again_when_a_constant_of_another_module_changes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "kernel_of_constant.py").write_text(
        "from coding.entropy.compiled import compiled\nfrom constant_part import TERM\n\n"
        "@compiled\ndef kernel(x):\n    return x + TERM\n"
    )

    def run(term):
        (tmp_path / "constant_part.py").write_text(f"TERM = {term}\n")
        for name in ("constant_part", "kernel_of_constant"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        kernel = importlib.import_module("kernel_of_constant").kernel
        return kernel(1), sum(kernel.stats.cache_hits.values())

    assert [run(term) for term in ("100", "100", "25000", "0.5")] == [(101, 0), (101, 1), (25001, 0), (1.5, 0)]
