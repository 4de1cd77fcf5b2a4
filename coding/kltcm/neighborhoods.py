"""What is known around a wavelet coefficient before it is coded: one definition for the coder and for the trellis."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import inlined
from coding.entropy.neighbors import causal_sum, cross_sum


class History(NamedTuple):
    """Magnitudes of the components before, in half steps.

    Attributes:
        last, second: int64 buffers, of the component before and of the one before that.
        mean: int64 buffer in sixteenths, of all components so far; later ones count more.
    """

    last: np.ndarray
    second: np.ndarray
    mean: np.ndarray


class Neighborhood(NamedTuple):
    """Magnitudes around a coefficient, in half steps; see docs/format.md.

    Attributes:
        near: weighted sum of those that precede it in its subband.
        parent: of the coefficient at the same place, one level coarser.
        siblings: of those in the subbands of the same level that precede.
        last, second: of the coefficient at the same place in the components before.
        across: weighted sum of these two and of the neighbors of the first.
        mean: of the coefficients at the same place in the components so far, in sixteenths.
        total: weighted sum of all of these.
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
    """Return the history before the first component, for buffers of `size`."""
    return History(*(np.zeros(size, np.int64) for _ in History._fields))


@inlined
def neighborhood(subbands, history, magnitudes, b, n):
    """Return the `Neighborhood` of a coefficient.

    Args:
        subbands: a `Subbands`.
        history: a `History`.
        magnitudes: int64 buffer, of the component itself.
        b: the subband.
        n: the number of the coefficient in the order of coding.
    """
    p, stride = subbands.scan[n], subbands.stride[b]
    near = causal_sum(magnitudes, p, stride)
    parent = magnitudes[subbands.parents[n]]
    siblings = magnitudes[subbands.siblings[n, 0]] + magnitudes[subbands.siblings[n, 1]]
    last, second, mean = history.last[p], history.second[p], history.mean[p]
    across = 4 * last + 2 * second + cross_sum(history.last, p, stride)
    total = 4 * near + 3 * across + 5 * parent + (mean >> 2)
    return Neighborhood(near, parent, siblings, last, second, across, mean, total)
