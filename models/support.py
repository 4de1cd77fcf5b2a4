"""Where the Triton kernels of `models.kernels` run."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

try:
    from models import kernels
except ImportError:  # torch's builds for CPUs come without Triton
    kernels = None  # type: ignore[assignment]  # callers check `is_available`

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types that the kernels take."""
_MIN_CAPABILITY = (8, 0)  # the first with tensor cores for all of these types
_is_disabled = ContextVar("is_disabled", default=False)


@contextmanager
def disabled() -> Iterator[None]:
    """Make models use torch's layers in this context, so that torch can count their operations."""
    token = _is_disabled.set(True)
    try:
        yield
    finally:
        _is_disabled.reset(token)


def is_available(device: torch.device) -> bool:
    """Return whether the kernels run on a device: an NVIDIA GPU, Ampere or newer, with a torch that has Triton."""
    if kernels is None or device.type != "cuda" or _is_disabled.get():
        return False
    return _capability(device) >= _MIN_CAPABILITY


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return (0, 0) if torch.version.hip else torch.cuda.get_device_capability(device)
