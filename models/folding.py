"""Nearest up-sampling folded into the convolution that follows it.

Up-sampling by 2 only repeats samples, so a convolution after it multiplies every sample by several of
its taps. Adding these taps first gives two convolutions of about half the length on the coarse grid,
one for the even and one for the odd outputs: the same sums, in another order, with about half of the
multiplications. Weights stay as they are stored; they are folded when they are used, gradients included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fold_layers(layers: nn.Sequential) -> Callable[[Tensor], Tensor]:
    """A function equal to `layers` up to rounding, with each `Upsample` and `Conv1d` after it as one step.

    It holds the weights as they are now: make it anew for every use.

    Args:
        layers: of a 1-D decoder: up-sampling by 2, nearest; convolutions of odd length k, stride 1, padding k // 2.
    """
    modules = list(_flattened(layers))
    steps: list[Callable[[Tensor], Tensor]] = []
    while modules:
        module = modules.pop(0)
        if isinstance(module, nn.Upsample) and modules and isinstance(modules[0], nn.Conv1d):
            steps.append(_folded_conv1d(modules.pop(0)))
        else:
            steps.append(module)

    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


def _folded_conv1d(convolution: nn.Conv1d) -> Callable[[Tensor], Tensor]:
    """(N, C, n) -> (N, C', 2n): the convolution of the input with every sample repeated.

    Output 2m + p, p = 0 or 1, is the sum over taps t of w[t] u[2m + p + t - k // 2], where u[j] = x[j // 2]:
    tap t meets sample m + (p + t - k // 2) // 2.
    """
    weight, bias = convolution.weight, convolution.bias
    out_channels, in_channels, k = weight.shape
    half = k // 2
    first = -((half + 1) // 2)  # of the coarse taps of even outputs; those of odd ones start one later at most
    offsets = [torch.tensor([(p + t - half) // 2 - first for t in range(k)]) for p in (0, 1)]
    start = [int(offset.min()) for offset in offsets]
    taps = max(int(offset.max()) - begin + 1 for offset, begin in zip(offsets, start, strict=True))
    folded = torch.cat(
        [
            weight.new_zeros(out_channels, in_channels, taps).index_add(2, (offset - begin).to(weight.device), weight)
            for offset, begin in zip(offsets, start, strict=True)
        ]
    )
    biases = None if bias is None else torch.cat([bias, bias])

    def run(x: Tensor) -> Tensor:
        n = x.shape[-1]
        y = F.conv1d(x, folded, biases, padding=-first)
        even, odd = y[:, :out_channels, start[0] :][..., :n], y[:, out_channels:, start[1] :][..., :n]
        return torch.stack([even, odd], dim=-1).flatten(2)

    return run


def _flattened(layers: nn.Sequential) -> Iterator[nn.Module]:
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from _flattened(layer)
        else:
            yield layer
