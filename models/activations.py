"""Bias and PReLU after a 2-D convolution in one pass over memory, forward and backward, on a GPU.

torch takes a pass each for the bias, the PReLU, its backward pass, and the gradients of bias and slopes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from models import support
from models.support import DTYPES, kernels

# For an H100. They do not depend on timing, so that neither do sums.
_BLOCK_VALUES = 2048
_BLOCK_CHANNELS = 128
_GRADIENT_PROGRAMS = 528  # four for each multiprocessor


def bias_and_prelu(convolution: nn.Module, activation: nn.Module | None) -> Callable[[Tensor], Tensor] | None:
    """Return `bias_prelu` for a 2-D convolution and the PReLU after it; None for other layers and devices.

    None also under torch.compile, which fuses the two itself, and without gradients: Python starts torch's own kernels
    sooner, and small batches have nothing else to wait for.
    """
    if (
        torch.compiler.is_compiling()
        or not torch.is_grad_enabled()
        or not isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d)
        or not isinstance(activation, nn.PReLU)
        or activation.num_parameters != convolution.out_channels
        or convolution.bias is None
        or convolution.weight.dtype not in DTYPES
        or not support.is_available(convolution.weight.device)
    ):
        return None
    return functools.partial(bias_prelu, bias=convolution.bias, slope=activation.weight)


def bias_prelu(z: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
    """Return prelu(z + bias, slope), computed in float32, in the type of `z`, channels-last.

    Args:
        z: (N, C, H, W), float32, bfloat16 or float16; copied if it is not channels-last.
        bias: (C,).
        slope: (C,), factors below 0.
    """
    return _BiasPReLU.apply(z.contiguous(memory_format=torch.channels_last), bias, slope)


class _Context(FunctionCtx):
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]


class _BiasPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, z: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(z, bias, slope)
        y = torch.empty_like(z)
        pixels, channels, block, num_blocks = _blocks(z)
        grid = (math.ceil(pixels / block["BLOCK_P"]) * num_blocks,)
        kernels.bias_prelu[grid](z, bias, slope, y, pixels, channels, **block)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, dy: Tensor) -> tuple[Tensor | None, ...]:
        z, bias, slope = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        pixels, channels, block, num_blocks = _blocks(z)
        steps = math.ceil(pixels / block["BLOCK_P"])
        steps_per_part = max(1, math.ceil(steps * num_blocks / _GRADIENT_PROGRAMS))
        parts = math.ceil(steps / steps_per_part)
        needs_z, needs_bias, needs_slope = ctx.needs_input_grad
        dz = torch.empty_like(z) if needs_z else None
        sums = z.new_empty((parts, 2, channels), dtype=torch.float32) if needs_bias or needs_slope else None
        kernels.bias_prelu_gradients[(parts * num_blocks,)](
            dy, z, bias, slope, dz, sums, pixels, channels, steps_per_part, **block
        )
        if sums is None:
            return dz, None, None
        by_bias, by_slope = sums.sum(0)
        return dz, by_bias.to(bias.dtype) if needs_bias else None, by_slope.to(slope.dtype) if needs_slope else None


def _blocks(z: Tensor) -> tuple[int, int, dict[str, int], int]:
    """Return the numbers of pixels and channels, the size of a block, and the number of blocks of channels."""
    channels = z.shape[1]
    block_c = min(_BLOCK_CHANNELS, 2 ** math.ceil(math.log2(channels)))
    block = {"BLOCK_P": _BLOCK_VALUES // block_c, "BLOCK_C": block_c}
    return z.shape[0] * z.shape[2] * z.shape[3], channels, block, math.ceil(channels / block_c)
