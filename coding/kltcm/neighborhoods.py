"""The neighborhood of a wavelet coefficient, known before it is coded: one definition for coder and trellis."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import inlined
from coding.entropy.neighbors import at, causal_sum, cross_sum


class History(NamedTuple):
    """Magnitudes of the preceding components, in half steps.

    Attributes:
        last, second: int32 buffers of the preceding component and of the one before it.
        mean: int32 buffer of the mean of all preceding components, in sixteenths; later components count more.
    """

    last: np.ndarray
    second: np.ndarray
    mean: np.ndarray


class Neighborhood(NamedTuple):
    """Magnitudes around a coefficient, in half steps; see docs/format.md.

    Attributes:
        near: weighted sum over the neighbors that precede it in its subband.
        parent: magnitude at the same place, one level coarser.
        siblings: sum over the same place in preceding subbands of the same level.
        last, second: magnitudes at the same place in the preceding component and in the one before it.
        across: weighted sum of `last`, `second` and the neighbors of `last`.
        mean: mean magnitude at the same place in the preceding components, in sixteenths.
        total: weighted sum of `near`, `across`, `parent` and `mean`.
    """

    near: int
    parent: int
    siblings: int
    last: int
    second: int
    across: int
    mean: int
    total: int


def new_history(size: int) -> History:
    """Return the history before the first component, with buffers of `size` numbers."""
    return History(*(np.zeros(size, np.int32) for _ in History._fields))


@inlined
def neighborhood(subbands, history, magnitudes, b, n):
    """Return the `Neighborhood` of a coefficient.

    Args:
        subbands: a `Subbands`.
        history: a `History`.
        magnitudes: int32 buffer of the component itself.
        b: number of the subband.
        n: number of the coefficient in the order of coding.
    """
    p, stride = at(subbands.scan, n), at(subbands.stride, b)
    near = causal_sum(magnitudes, p, stride)
    parent = at(magnitudes, at(subbands.parents, n))
    siblings = at(magnitudes, subbands.siblings[np.uint64(n), 0]) + at(magnitudes, subbands.siblings[np.uint64(n), 1])
    last, second, mean = at(history.last, p), at(history.second, p), at(history.mean, p)
    across = 4 * last + 2 * second + cross_sum(history.last, p, stride)
    total = 4 * near + 3 * across + 5 * parent + (mean >> 2)
    return Neighborhood(near, parent, siblings, last, second, across, mean, total)
