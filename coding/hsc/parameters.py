"""Whether the parameters in a header can be those that a codec wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from coding.base import DamagedError
from coding.hsc.container import Header
from coding.numbers import MOST_DIVISOR

Rules = Mapping[str, Callable[[object], bool]]
"""Name of a parameter -> whether a value can be."""


def check_parameters(header: Header, rules: Rules) -> None:
    """That each parameter with a rule is there and as its rule says.

    Raises:
        DamagedError: one is not.
    """
    for name, is_right in rules.items():
        if name not in header.parameters or not is_right(header.parameters[name]):
            raise DamagedError(f"header field 'parameters.{name}' is {header.parameters.get(name)!r}, which cannot be")


def number_rules(header: Header) -> Rules:
    """Rules of `divisor` and `bound`, which say how samples become whole numbers."""
    return {
        "divisor": lambda value: type(value) is int and 1 <= value <= MOST_DIVISOR,
        "bound": lambda value: (
            (value is None) == (header.max_error is None)
            and (value is None or (type(value) is int and 0 <= value < 2**24))
        ),
    }


def is_step(value: object, most: float) -> bool:
    """Whether `value` is a number above 0 and below `most`."""
    return type(value) in (int, float) and 0 < value < most
