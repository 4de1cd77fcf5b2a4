"""What a codec is asked for, checked before it codes anything."""

from __future__ import annotations

import math

from .base import CodingError

_STEPS = (1e-9, 1e9)  # what float32 still divides and multiplies by
_MAX_ERRORS = range(2**16)  # beyond, any cube of integers does


def check_step(step: float) -> None:
    """That `step` can be the step of a quantiser.

    Raises:
        CodingError: no number from 1e-9 to 1e9.
    """
    if not _STEPS[0] <= step <= _STEPS[1]:
        raise CodingError(f"a step of {step}: must be a number from {_STEPS[0]:g} to {_STEPS[1]:g}")


def check_max_error(max_error: int) -> None:
    """That `max_error` can bound errors.

    Raises:
        CodingError: no whole number from 0 to 65535.
    """
    if max_error not in _MAX_ERRORS:
        raise CodingError(f"a largest error of {max_error}: must be a whole number from 0 to {_MAX_ERRORS[-1]}")


def bound_of_step(step: float) -> int:
    """The largest bound E whose bins, 2 E + 1 wide, are no wider than `step`: 0, which loses nothing, below 3.

    Raises:
        CodingError: a step that is no number from 1e-9 to 1e9.
    """
    check_step(step)
    return max(0, math.floor((step - 1) / 2))
