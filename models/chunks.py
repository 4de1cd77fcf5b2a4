"""Run a function of single spectra over images, in chunks that bound the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def map_spectra(function: Callable[[Tensor], Tensor], x: Tensor, chunk: int | None) -> Tensor:
    """Apply `function` to every spectrum of (N, length, H, W).

    Args:
        function: maps spectra (rows, length) to (rows, other length); rows are independent.
        x: images or latents.
        chunk: largest number of rows; None for all of an image.

    Returns:
        (N, other length, H, W), contiguous.
    """
    n, length, height, width = x.shape
    chunk = chunk or max(1, height * width)
    if torch.is_grad_enabled() or x.numel() == 0:
        rows = x.movedim(1, -1).reshape(-1, length)
        rows = torch.cat([function(part) for part in rows.split(chunk)])
        return rows.reshape(n, height, width, rows.shape[-1]).movedim(-1, 1).contiguous()

    # Each image begins a new chunk, so that no result depends on the batch; chunks are written straight
    # into the output, so that there is no copy of the whole batch.
    out = None
    for index, image in enumerate(x):
        spectra = image.flatten(1)
        for start in range(0, height * width, chunk):
            part = function(spectra[:, start : start + chunk].t())
            if out is None:
                out = part.new_empty((n, part.shape[1], height * width))
            out[index, :, start : start + chunk] = part.t()
    assert out is not None  # x has values
    return out.reshape(n, -1, height, width)
