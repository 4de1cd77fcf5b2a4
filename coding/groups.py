"""Tiles that are coded together: the calls of their threads are computed in batches.

Which calls share a batch depends on the numbers and the contents of the tiles, never on time: a batch is computed when
each tile of a group of consecutive ones has made its call, or has ended without one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

Batched = Callable[[np.ndarray], np.ndarray]
"""A function of a batch (N, ...) that returns a batch of as many results."""

_this_thread = threading.local()


class Groups:
    """Groups of the tiles of a scene. The tiles of a group must be coded in as many threads at the same time.

    Args:
        numbers: numbers of the tiles in the order in which they are begun.
        at_once: tiles in a group.
    """

    def __init__(self, numbers: Sequence[int], at_once: int) -> None:
        self._group_of = {}
        for start in range(0, len(numbers), at_once):
            members = numbers[start : start + at_once]
            self._group_of.update(dict.fromkeys(members, _Group(len(members))))

    @contextmanager
    def tile(self, number: int) -> Iterator[None]:
        """Code a tile inside the block: `in_batch` computes its calls together with those of its group."""
        group = self._group_of[number]
        _this_thread.seat = group, number
        try:
            yield
        finally:
            del _this_thread.seat
            group.leave()

    def stop(self) -> None:
        """Raise an error in all threads that wait for another tile, since it will not be coded."""
        for group in self._group_of.values():
            group.stop()


def in_batch(function: Batched, array: np.ndarray) -> np.ndarray:
    """Return `function(array[None])[0]`; inside `Groups.tile`, computed in a batch with the calls of the group."""
    seat = getattr(_this_thread, "seat", None)
    if seat is None:
        return function(array[None])[0]
    group, number = seat
    return group.compute(_Call(number, function, array))


@dataclass(eq=False)
class _Call:
    number: int
    function: Batched
    array: np.ndarray
    result: np.ndarray | None = None
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None


class _Group:
    """Tiles of which some are still being coded."""

    def __init__(self, size: int) -> None:
        self._num_active = size
        self._waiting: list[_Call] = []
        self._changed = threading.Condition()
        self._is_stopped = False

    def compute(self, call: _Call) -> np.ndarray:
        """Compute a call, as soon as all active tiles have made theirs."""
        with self._changed:
            self._waiting.append(call)
            self._compute_if_complete()
            self._changed.wait_for(lambda: call.is_done or self._is_stopped)
        if call.error:
            raise call.error
        if call.result is None:
            raise RuntimeError("another tile will not be coded")
        return call.result

    def leave(self) -> None:
        """Wait no longer for one of the tiles."""
        with self._changed:
            self._num_active -= 1
            self._compute_if_complete()

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _compute_if_complete(self) -> None:
        if not self._waiting or len(self._waiting) < self._num_active:
            return
        batches: dict[tuple, list[_Call]] = {}
        for call in sorted(self._waiting, key=lambda call: call.number):
            batches.setdefault((call.function, call.array.shape), []).append(call)
        for (function, _), calls in batches.items():
            try:
                results = function(np.stack([call.array for call in calls]))
                for call, result in zip(calls, results, strict=True):
                    call.result = result
            except Exception as error:
                for call in calls:
                    call.error = error
        self._waiting = []
        self._changed.notify_all()
