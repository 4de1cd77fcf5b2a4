"""Cores, and how many threads libraries may start on them."""

from __future__ import annotations

import os
import sys


def num_cores() -> int:
    """Cores that this process may use: those that a batch system lent, not all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(count: int) -> None:
    """Let numpy's linear algebra, and torch where it is loaded, compute on `count` threads from now on."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
