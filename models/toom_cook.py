"""Convolutions with fewer multiplications: the algorithm of Toom and Cook along one axis.

m outputs of a filter with m taps are products of polynomials, fixed by their values at 2m - 1 points:
2m - 1 multiplications in place of m^2. A longer filter is the sum of its segments of m taps. The price is
rounding: of 5,632 products of unit inputs the float32 error was 1e-6 (m = 3) to 3e-6 (m = 4) of the output,
root mean square, where direct sums had 3e-7.

S. Winograd, "Arithmetic Complexity of Computations", SIAM 1980, doi 10.1137/1.9781611970364;
A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, doi 10.1109/CVPR.2016.435.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Evaluation points by the number m of outputs in a tile; infinity is the last one of each.
POINTS = {3: (1, 0, -1, 2), 4: (1, 0, -1, 2, -2, 0.5)}


@cache
def matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A (m, 2m - 1), G (2m - 1, m), B (2m - 1, 2m - 1) with y = A ((G w) * (B x)).

    y[i] = sum over t of w[t] x[i + t], for w of m taps, x of 2m - 1 samples, y of m outputs.
    """
    points = POINTS[m]

    def powers(columns: int) -> np.ndarray:
        at_infinity = np.eye(columns)[-1:]
        return np.concatenate([np.vander(np.array(points, float), columns, increasing=True), at_infinity])

    return powers(m).T, powers(m), np.linalg.inv(powers(2 * m - 1)).T


def best_tile(taps: int, length: int) -> int:
    """The m of `POINTS` with the fewest multiplications for `length` outputs of a filter."""
    return min(POINTS, key=lambda m: math.ceil(length / m) * (2 * m - 1) * math.ceil(taps / m))


def toom_cook(
    weight: Tensor, bias: Tensor | None, padding: Sequence[int], axis: int, m: int
) -> Callable[[Tensor], Tensor]:
    """A function equal to `F.conv2d` or `F.conv3d` with stride 1 up to rounding.

    Args:
        weight: (C', C, k, ...), float32.
        bias: (C',) or None.
        padding: zeros on both sides of each axis.
        axis: 2 for the first after the channels; along it sums are made by tiles of `m` outputs.
    """
    a, g, b = matrices(m)
    taps = weight.shape[axis]
    segments = math.ceil(taps / m)
    weight = F.pad(weight, [0] * (2 * (weight.dim() - axis - 1)) + [0, segments * m - taps])
    by_tap = [_every(weight, axis, first, segments, m) for first in range(m)]
    planes = [_sum(by_tap, row) for row in g]
    convolve = F.conv3d if weight.dim() == 5 else F.conv2d
    memory_format = torch.channels_last_3d if weight.dim() == 5 else torch.channels_last
    pad = padding[axis - 2]
    padding = [0 if index == axis - 2 else width for index, width in enumerate(padding)]

    def run(x: Tensor) -> Tensor:
        length = x.shape[axis] + 2 * pad - taps + 1
        tiles = math.ceil(length / m)
        windows = tiles + segments - 1
        after = m * (windows + 1) - 1 - x.shape[axis] - pad
        widths = [0] * (2 * (x.dim() - axis - 1)) + [pad, after]
        x = F.pad(x, widths)
        samples = [_every(x, axis, first, windows, m) for first in range(2 * m - 1)]
        y = None
        for p, plane in enumerate(planes):
            u = _sum(samples, b[p])
            # The first point is 1, whose powers are 1: its plane is in every output once, and so is the bias.
            product = convolve(u, plane, bias if p == 0 else None, 1, padding)
            if y is None:
                shape = list(product.shape)
                shape[axis] = tiles * m
                y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
                outputs = [_every(y, axis, first, tiles, m) for first in range(m)]
                for output in outputs:
                    output.copy_(product)
            else:
                for output, factor in zip(outputs, a[:, p], strict=True):
                    if factor:
                        output.add_(product, alpha=factor)
        return y.narrow(axis, 0, length)

    return run


def _every(x: Tensor, axis: int, first: int, count: int, step: int) -> Tensor:
    index = [slice(None)] * x.dim()
    index[axis] = slice(first, first + (count - 1) * step + 1, step)
    return x[tuple(index)]


def _sum(terms: Sequence[Tensor], factors: np.ndarray) -> Tensor:
    chosen = [(term, factor) for term, factor in zip(terms, factors.tolist(), strict=True) if abs(factor) > 1e-9]
    (term, factor), *others = chosen
    total = term * factor
    for term, factor in others:
        total.add_(term, alpha=factor)
    return total
