r"""The gradients of a training step, in the memory of one chunk of pixels where the model allows it.

A model that codes each pixel on its own needs only a chunk of pixels at a time, and a chunk whose
activations fit into the processor's caches is also fast::

    loss is a mean over pixels     for each chunk: forward, loss, backward
    loss needs neighbors (SSIM)    forward of all, without activations kept ─► loss ─► gradient of x_hat;
                                   for each chunk: forward again, backward from its part of that gradient

Gradients equal those of the whole batch up to rounding: sums over pixels, taken chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from models.base import HSICompressionModel
from training.losses import estimated_bpppc
from utils.devices import autocast


class Outcome(NamedTuple):
    """What a batch gives.

    Attributes:
        loss: mean over the images.
        x_hat: (N, C, H, W), the reconstruction.
        bpppc: estimated bits per value; 0 without an entropy model.
        aux_loss: loss of the quantiles of entropy models; 0 without one.
    """

    loss: Tensor
    x_hat: Tensor
    bpppc: Tensor
    aux_loss: Tensor


def forward_and_loss(network: nn.Module, criterion: nn.Module, x: Tensor, precision: str) -> Outcome:
    """Return what a batch (N, C, H, W) gives; for N = 0 the loss is 0."""
    output = _forward(network, x, precision)
    x_hat, likelihoods = output["x_hat"], output["likelihoods"]
    zero = torch.zeros((), device=x.device)
    if not len(x):  # every parameter gets a gradient of 0
        loss = x_hat.sum() + sum(likelihood.sum() for likelihood in likelihoods.values())
        return Outcome(loss + 0 * output.get("penalty", 0), x_hat, zero, zero)
    if not likelihoods:
        return Outcome(criterion(x_hat, x), x_hat, zero, zero)
    bpppc = estimated_bpppc(likelihoods, x)
    return Outcome(criterion(x_hat, x, bpppc) + output.get("penalty", 0), x_hat, bpppc, zero)


def loss_and_gradients(
    network: nn.Module,
    model: HSICompressionModel,
    criterion: nn.Module,
    x: Tensor,
    weight: float,
    scaler: GradScaler,
    precision: str = "fp32",
    forward: Callable[..., Outcome] = forward_and_loss,
) -> Outcome:
    """Add the gradients of `weight` * loss, scaled by `scaler`, to those of the parameters.

    Args:
        network: the module to call for gradients: `model`, or `model` compiled or in DistributedDataParallel.
        model: one of `models`, in training mode; it runs in chunks of its `pixels_per_chunk`.
        criterion: one of `training.losses`; without `pixelwise = True` it may compare neighbors. `RateDistortion` for
            a model with an entropy model.
        x: (N, C, H, W) in [0, 1]. N may be 0 for a process without an image: its gradient is 0.
        weight: factor of the gradient.
        scaler: scales the loss in fp16.
        precision: precision of the network, one of `utils.options.PRECISIONS`. The loss is float32 or better.
        forward: `forward_and_loss`, compiled or not, for a batch that goes through the model at once.

    Returns:
        What the batch gives, detached, with the loss without `weight`. If it is not finite, the gradients must not be
        used.
    """
    chunk = model.pixels_per_chunk(x.device)
    if chunk is None or x[:, 0].numel() <= chunk:
        outcome = forward(network, criterion, x, precision)
        scaler.scale(outcome.loss * weight).backward()
        return Outcome(*(value.detach() for value in outcome))
    if getattr(criterion, "pixelwise", False):
        return _backward_by_chunks(network, criterion, x, weight, scaler, precision, chunk)
    with torch.no_grad():
        x_hat = _forward(model, x, precision)["x_hat"]
    loss = criterion(x_hat.requires_grad_(), x)
    gradients = _pixels(*torch.autograd.grad(scaler.scale(loss * weight), x_hat))
    pixels = _pixels(x)
    for part in _parts(network, len(pixels), chunk):
        _forward(network, _as_image(pixels[part]), precision)["x_hat"].backward(_as_image(gradients[part]))
    zero = torch.zeros((), device=x.device)
    return Outcome(loss.detach(), x_hat.detach(), zero, zero)


def _backward_by_chunks(
    network: nn.Module,
    criterion: nn.Module,
    x: Tensor,
    weight: float,
    scaler: GradScaler,
    precision: str,
    chunk: int,
) -> Outcome:
    """Run forward, loss and backward for each chunk of pixels in turn."""
    pixels = _pixels(x)
    loss, bpppc, rows = x.new_zeros(()), x.new_zeros(()), None
    for part in _parts(network, len(pixels), chunk):
        given = _as_image(pixels[part])
        outcome = forward_and_loss(network, criterion, given, precision)
        share = given.shape[-1] / len(pixels)
        scaler.scale(outcome.loss * (weight * share)).backward()
        loss = loss + outcome.loss.detach() * share
        bpppc = bpppc + outcome.bpppc.detach() * share
        if rows is None:
            rows = outcome.x_hat.new_empty(pixels.shape)
        rows[part] = outcome.x_hat.detach()[0, :, 0].t()
    assert rows is not None  # there is at least one pixel
    n, _, height, width = x.shape
    x_hat = rows.reshape(n, height, width, -1).movedim(-1, 1).contiguous()
    return Outcome(loss, x_hat, bpppc, torch.zeros((), device=x.device))


def _forward(network: nn.Module, x: Tensor, precision: str) -> dict:
    with autocast(precision, x.device):
        return network(x)


def _pixels(x: Tensor) -> Tensor:
    """Return (N, C, H, W) as rows of pixels (N*H*W, C)."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def _as_image(pixels: Tensor) -> Tensor:
    """Return (P, C) as an image (1, C, 1, P), without a copy."""
    return pixels.t()[None, :, None]


def _parts(network: nn.Module, num_pixels: int, chunk: int) -> Iterator[slice]:
    """Yield the chunks. Processes average gradients only with the last one: their numbers of chunks may differ."""
    starts = range(0, num_pixels, chunk)
    for start in starts:
        is_last = start == starts[-1]
        with nullcontext() if is_last or not isinstance(network, DistributedDataParallel) else network.no_sync():
            yield slice(start, start + chunk)
