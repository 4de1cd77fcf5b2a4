"""Share settings among the tests of the benchmarks."""

import gc

import pytest


@pytest.fixture(scope="package", autouse=True)
def frozen_libraries():
    """Let measurements collect the garbage of tests only: searching all imported libraries takes 0.2 s every time."""
    gc.freeze()
    yield
    gc.unfreeze()
