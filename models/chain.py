"""Run chains of 1-D layers on a GPU, forward and backward, with the kernels of `models.kernels`.

Each layer is one kernel: up-sampling, convolution, bias, max-pooling and activation together. The backward pass
needs the outputs of the layers, which are kept in the precision of the network.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from models.fused import flattened, scale_of
from models.support import DTYPES, kernels
from utils.processes import num_cores

with contextlib.suppress(ImportError):  # torch's builds for CPUs come without Triton
    import triton

_ACTIVATIONS = {nn.LeakyReLU: 1, nn.Hardtanh: 2, nn.Sigmoid: 3}
_H100_SHARED_BYTES = 232448  # shared memory of a block

# Block sizes: on an H100 the fastest among a few neighbors. They depend on shapes and types alone, so that results
# never depend on timing.
_BLOCK_ROWS = 128
_BLOCK_COLUMNS = 128  # positions of a layer with few channels share a block
_BLOCK_COLUMNS_OF_ONE_CHANNEL = 16
_BLOCK_K_BYTES = 128
_GRADIENT_PROGRAMS = 264  # two for each multiprocessor of an H100
_EXPAND_BLOCK = (16, 64)
_COLLECT_BLOCK = (32, 32)

_MAX_COMPILERS = 16


class Arithmetic(NamedTuple):
    """How layers compute.

    Attributes:
        dtype: type of the activations.
        precision: of float32 products: "tf32", or "tf32x3", which is as exact as float32.
    """

    dtype: torch.dtype
    precision: str

    @property
    def is_tf32(self) -> bool:
        """Whether products round float32 factors to TF32."""
        return self.dtype == torch.float32 and self.precision == "tf32"


class Band(NamedTuple):
    """A banded matrix, as `models.kernels` describes it: how a block of outputs depends on a window of inputs.

    Attributes:
        first: position of the first input of block 0, possibly negative.
        window: inputs of a block.
        in_step: inputs from the start of a block to that of the next one.
        outputs: outputs of a block.
        alpha, beta, gamma, merged: which taps join an input and an output.
    """

    first: int
    window: int
    in_step: int
    outputs: int
    alpha: int
    beta: int
    gamma: int
    merged: int


class Tiles(NamedTuple):
    """Block sizes and launch settings of a kernel."""

    outputs: int
    rows: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


class Origin(NamedTuple):
    """The layer before another one, with its output and the winners of its max-pooling."""

    layer: Layer
    output: Tensor
    winners: Tensor | None


@dataclass(frozen=True)
class Layer:
    """A convolution over positions, with what comes before and after it.

    Attributes:
        taps: length of the kernel.
        padding: zeros on each side.
        ratio: outputs per input.
        is_transposed: whether `ratio` is the stride of a transposed convolution, not the factor of an up-sampling.
        channels: numbers of input and output channels, powers of two.
        is_pooled: whether max-pooling by 2 follows.
        activation: code of the activation: 0 none, 1 leaky ReLU, 2 hard tanh, 3 sigmoid.
        slope: slope of leaky ReLU below 0.
        length_in: positions of the input.
        length: positions of the output before pooling.
        skip_in: positions at the start of the input that are zero and not stored.
        skip_out: positions at the start of the output that are not stored.
        is_last: whether no layer follows.
    """

    taps: int
    padding: int
    ratio: int
    is_transposed: bool
    channels: tuple[int, int]
    is_pooled: bool
    activation: int
    slope: float
    length_in: int
    length: int
    skip_in: int
    skip_out: int
    is_last: bool

    @property
    def length_out(self) -> int:
        """Positions of the output, after pooling."""
        return self.length // 2 if self.is_pooled else self.length

    @property
    def strides(self) -> tuple[int, int]:
        """Strides of the weight over input and output channels."""
        channels_in, channels_out = self.channels
        return (channels_out * self.taps, self.taps) if self.is_transposed else (self.taps, channels_in * self.taps)

    def forward_band(self, outputs: int) -> Band:
        """Return the band that maps inputs to `outputs` positions, a multiple of `ratio`."""
        k, p, r, last = self.taps, self.padding, self.ratio, outputs - 1
        if self.is_transposed:
            first = -((k - 1 - p) // r)
            return Band(first, (last + p) // r - first + 1, outputs // r, outputs, -r, 1, p - r * first, 1)
        first = -p // r
        return Band(first, (last + k - 1 - p) // r - first + 1, outputs // r, outputs, r, -1, r * first + p, r)

    def backward_band(self, outputs: int) -> Band:
        """Return the band that maps gradients of the output to gradients of `outputs` positions of the input."""
        k, p, r = self.taps, self.padding, self.ratio
        if self.is_transposed:
            return Band(-p, r * (outputs - 1) + k, outputs * r, outputs, 1, -r, 0, 1)
        return Band(p - k + 1, r * outputs + k - 1, outputs * r, outputs, -1, r, k - 1, r)


def arithmetic_of(x: Tensor) -> Arithmetic | None:
    """Return the arithmetic that torch's layers would use for `x` now; None if the kernels do not support it."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if dtype not in DTYPES:
        return None
    return Arithmetic(dtype, "tf32" if torch.backends.cudnn.allow_tf32 else "tf32x3")


def plan(layers: nn.Sequential, length: int, skip_in: int = 0, skip_out: int = 0) -> tuple[Layer, ...]:
    """Return the chain of `layers`, for `run_chain`.

    Args:
        layers: 1-D convolutions, each with optional up-sampling before, activation and max-pooling after it.
        length: positions of the input.
        skip_in: positions at the start of the input that are zero; `run_chain` takes only the others.
        skip_out: positions at the start of the output that `run_chain` does not return.

    Raises:
        ValueError: a layer is of another kind, or its padding is a string.
    """
    modules = deque(flattened(layers))
    found: list[Layer] = []
    while modules:
        ratio, convolution = 1, modules.popleft()
        if isinstance(convolution, nn.Upsample):
            ratio, convolution = scale_of(convolution, 1)[0], modules.popleft()
        if not isinstance(convolution, nn.Conv1d | nn.ConvTranspose1d) or isinstance(convolution.padding, str):
            raise ValueError(f"layers of a chain must be 1-D convolutions with integer padding, got {convolution}")
        activation = modules.popleft() if modules and type(modules[0]) in _ACTIVATIONS else None
        is_pooled = bool(modules) and isinstance(modules[0], nn.MaxPool1d)
        if is_pooled:
            modules.popleft()
        taps, padding = convolution.kernel_size[0], convolution.padding[0]
        is_transposed = isinstance(convolution, nn.ConvTranspose1d)
        length_in = found[-1].length_out if found else length
        if is_transposed:
            ratio = convolution.stride[0]
            length_out = (length_in - 1) * ratio - 2 * padding + taps + convolution.output_padding[0]
        else:
            length_out = length_in * ratio + 2 * padding - taps + 1
        layer = Layer(
            taps=taps,
            padding=padding,
            ratio=ratio,
            is_transposed=is_transposed,
            channels=(convolution.in_channels, convolution.out_channels),
            is_pooled=is_pooled,
            activation=_ACTIVATIONS[type(activation)] if activation else 0,
            slope=getattr(activation, "negative_slope", 0.0),
            length_in=length_in,
            length=length_out,
            skip_in=0 if found else skip_in,
            skip_out=0 if modules else skip_out,
            is_last=not modules,
        )
        found.append(layer)
    return tuple(found)


@torch.compiler.disable
def run_chain(x: Tensor, layers: Sequence[Layer], parameters: Sequence[Tensor], arithmetic: Arithmetic) -> Tensor:
    """Run a chain on sequences (length, rows), one per column; return (length', rows).

    Args:
        x: the sequences, float32 or of the arithmetic's type.
        layers: as `plan` returns them.
        parameters: weight and bias of each layer in turn.
        arithmetic: how the layers compute; the output has its type.
    """
    if x.device.type == "cuda":
        needs_gradients = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
        _compile(x.shape, x.dtype, parameters[0].dtype, tuple(layers), arithmetic, needs_gradients)
    return _Chain.apply(x, layers, arithmetic, *parameters)


@functools.cache
def _compile(
    shape: torch.Size,
    dtype: torch.dtype,
    parameter_dtype: torch.dtype,
    layers: tuple[Layer, ...],
    arithmetic: Arithmetic,
    needs_gradients: bool,
) -> None:
    """Compile the kernels of a chain in parallel: one after the other, they take half a minute."""
    mode = getattr(triton, "AsyncCompileMode", None)  # since Triton 3.5
    if mode is None:
        return
    x = torch.empty(shape, dtype=dtype, device="meta")
    parameters = []
    for layer in layers:
        channels = layer.channels if layer.is_transposed else layer.channels[::-1]
        for size in ((*channels, layer.taps), (layer.channels[1],)):
            parameters.append(torch.empty(size, dtype=parameter_dtype, device="meta", requires_grad=needs_gradients))
    with ThreadPoolExecutor(min(_MAX_COMPILERS, num_cores())) as threads, mode(threads), torch.enable_grad():
        out = _Chain.apply(x, layers, arithmetic, *parameters)
        if needs_gradients:
            torch.autograd.grad(out, parameters, torch.empty_like(out))


def _launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Start a kernel; on the meta device only compile it."""
    if args[0].device.type == "meta":
        kernel.warmup(*args, grid=grid, **constants)
    else:
        kernel[grid](*args, **constants)


class _Context(FunctionCtx):
    layers: Sequence[Layer]
    arithmetic: Arithmetic
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, layers: Sequence[Layer], arithmetic: Arithmetic, *parameters: Tensor
    ) -> Tensor:
        keeps = any(ctx.needs_input_grad)
        ctx.layers, ctx.arithmetic = layers, arithmetic
        x = out = x.contiguous()
        outputs, winners = [], []
        for index, layer in enumerate(layers):
            weight, bias = parameters[2 * index : 2 * index + 2]
            out, winner = _forward(layer, out, weight, bias, arithmetic, keeps)
            if keeps:
                outputs.append(out)
                winners.append(winner)
        # torch accepts None, whatever its annotation says.
        ctx.save_for_backward(x, *outputs, *cast(list[Tensor], winners), *parameters)
        return out.squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layers, arithmetic, count = ctx.layers, ctx.arithmetic, len(ctx.layers)
        x, *saved = ctx.saved_tensors
        outputs, winners, parameters = saved[:count], saved[count : 2 * count], saved[2 * count :]
        found: list[Tensor | None] = [None] * len(parameters)
        g = _activation_gradient(layers[-1], outputs[-1].squeeze(-1), gradient)
        found[-1] = g.sum(dtype=torch.float32).reshape(1)
        for index in reversed(range(count)):
            layer, weight = layers[index], parameters[2 * index]
            given = outputs[index - 1] if index else x
            if any(ctx.needs_input_grad[3:]):
                found[2 * index] = _weight_gradient(layer, given, g, weight, arithmetic)
            if index:
                origin = Origin(layers[index - 1], given, winners[index - 1])
                g, found[2 * index - 1] = _backward(layer, g, weight, arithmetic, origin)
        by_x = _backward(layers[0], g, parameters[0], arithmetic)[0].squeeze(-1) if ctx.needs_input_grad[0] else None
        return by_x, None, None, *found


# -- one layer ----------------------------------------------------------------------------------


def _forward(
    layer: Layer, x: Tensor, weight: Tensor, bias: Tensor, arithmetic: Arithmetic, keeps: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the output (positions, rows, channels) and, if the backward pass needs them, the winners of pooling."""
    tiles = _forward_tiles(layer, arithmetic, _shared_memory(x.device))
    band = layer.forward_band(tiles.outputs)
    matrix = _expand(layer, band, tiles, weight, arithmetic, is_backward=False)
    out = x.new_empty((layer.length_out - layer.skip_out, x.shape[1], layer.channels[1]), dtype=arithmetic.dtype)
    winners = torch.empty_like(out, dtype=torch.uint8) if keeps and layer.is_pooled else None
    _launch(
        kernels.apply_band,
        _grid(x.shape[1], layer.length, matrix, tiles),
        *(x, matrix, bias, out, winners, None, None, None),
        *(x.shape[1], len(x), band.first - layer.skip_in, layer.length, layer.skip_out),
        **_constants(band, tiles, layer.channels, matrix),
        POOL=layer.is_pooled,
        HAS_BIAS=True,
        HAS_WINNERS=winners is not None,
        ACTIVATION=layer.activation,
        SLOPE=layer.slope,
        DERIVATIVE=0,
        HAS_SUMS=False,
        UNPOOL=False,
        PRECISION=arithmetic.precision,
        TF32=arithmetic.is_tf32 and not layer.is_last,
    )
    return out, winners


def _backward(
    layer: Layer, g: Tensor, weight: Tensor, arithmetic: Arithmetic, origin: Origin | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of `origin`'s convolution and bias; without `origin`, of the layer's input, and None."""
    rows, channels = g.shape[1], (layer.channels[1], layer.channels[0])
    tiles = _backward_tiles(layer, arithmetic, _shared_memory(g.device))
    band = layer.backward_band(tiles.outputs)
    matrix = _expand(layer, band, tiles, weight, arithmetic, is_backward=True)
    before = origin.layer if origin else None
    positions = before.length if before else layer.length_in - layer.skip_in
    if before and before.is_pooled and before.length % 2:
        out = g.new_zeros((positions, rows, channels[1]))  # pooling drops an odd last position
    else:
        out = g.new_empty((positions, rows, channels[1]))
    grid = _grid(rows, layer.length_in, matrix, tiles)
    sums = g.new_empty((grid[0] * tiles.block_n // channels[1], channels[1]), dtype=torch.float32) if origin else None
    _launch(
        kernels.apply_band,
        grid,
        *(g, matrix, None, out, None, origin and origin.output, origin and origin.winners, sums),
        *(rows, len(g), band.first - layer.skip_out, layer.length_in, layer.skip_in),
        **_constants(band, tiles, channels, matrix),
        POOL=False,
        HAS_BIAS=False,
        HAS_WINNERS=False,
        ACTIVATION=0,
        SLOPE=before.slope if before else 0.0,
        DERIVATIVE=before.activation if before else 0,
        HAS_SUMS=before is not None,
        UNPOOL=before is not None and before.is_pooled,
        PRECISION=arithmetic.precision,
        TF32=arithmetic.is_tf32 and before is not None,
    )
    return out, sums.sum(0) if sums is not None else None


def _weight_gradient(layer: Layer, x: Tensor, g: Tensor, weight: Tensor, arithmetic: Arithmetic) -> Tensor:
    rows = x.shape[1]
    tiles = _gradient_tiles(layer, arithmetic, _shared_memory(x.device))
    band = layer.forward_band(tiles.outputs)
    num_n, num_k = _sizes(band, tiles, layer.channels)
    num_tiles = (num_k // tiles.block_k) * (num_n // tiles.block_n)
    steps = math.ceil(layer.length / tiles.outputs) * math.ceil(rows / tiles.rows)
    steps_per_part = math.ceil(steps / max(1, _GRADIENT_PROGRAMS // num_tiles))
    parts = x.new_empty((math.ceil(steps / steps_per_part), num_n, num_k), dtype=torch.float32)
    terms = 1 if arithmetic.dtype != torch.float32 else 2 if arithmetic.is_tf32 else 3
    constants = _constants(band, tiles, layer.channels, parts[0])
    constants["BLOCK_R"] = constants.pop("BLOCK_M")
    _launch(
        kernels.band_gradient,
        (num_tiles, len(parts)),
        *(x, g, parts, rows, len(x), band.first - layer.skip_in, layer.length, layer.skip_out, steps_per_part),
        **constants,
        TERMS=terms,
    )
    gradient = torch.empty_like(weight)
    block, part_block = _COLLECT_BLOCK
    _launch(
        kernels.collect_band,
        (math.ceil(weight.numel() / block),),
        *(parts, gradient, *layer.strides, layer.taps, band.gamma, band.window, num_k, num_n, len(parts)),
        weight.numel(),
        **_taps_constants(band, layer.channels),
        OUTPUTS=band.outputs,
        BLOCK=block,
        PARTS=part_block,
    )
    return gradient


def _expand(
    layer: Layer, band: Band, tiles: Tiles, weight: Tensor, arithmetic: Arithmetic, is_backward: bool
) -> Tensor:
    """Return the matrix (N, K) of a band."""
    step = -1 if is_backward else 1
    channels, strides = layer.channels[::step], layer.strides[::step]
    num_n, num_k = _sizes(band, tiles, channels)
    matrix = weight.new_empty((num_n, num_k), dtype=arithmetic.dtype)
    block_n, block_k = _EXPAND_BLOCK
    _launch(
        kernels.expand_band,
        (math.ceil(num_n / block_n), math.ceil(num_k / block_k)),
        *(weight, matrix, *strides, layer.taps, band.gamma, num_k, num_n),
        **_taps_constants(band, channels),
        PAIRS=layer.is_pooled and not is_backward,
        TF32=arithmetic.is_tf32,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
    )
    return matrix


def _activation_gradient(layer: Layer, out: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of the input of a layer's activation."""
    gradient = gradient.to(out.dtype)
    if layer.activation == 1:
        gradient = torch.where(out > 0, gradient, gradient * layer.slope)
    elif layer.activation == 2:
        gradient = torch.where(out.abs() < 1, gradient, 0)
    elif layer.activation == 3:
        gradient = torch.ops.aten.sigmoid_backward(gradient, out)
    return gradient.contiguous()


# -- arguments of the kernels -------------------------------------------------------------------


def _sizes(band: Band, tiles: Tiles, channels: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of the matrix of a band, in whole blocks."""
    num_k = math.ceil(band.window * channels[0] / tiles.block_k) * tiles.block_k
    return band.outputs * channels[1], num_k


def _grid(rows: int, length: int, matrix: Tensor, tiles: Tiles) -> tuple[int]:
    blocks = math.ceil(rows / tiles.rows) * math.ceil(length / tiles.outputs)
    return (blocks * (len(matrix) // tiles.block_n),)


def _taps_constants(band: Band, channels: Sequence[int]) -> dict:
    return {"ALPHA": band.alpha, "BETA": band.beta, "MERGED": band.merged, "CX": channels[0], "CY": channels[1]}


def _constants(band: Band, tiles: Tiles, channels: Sequence[int], matrix: Tensor) -> dict:
    return {
        "IN_STEP": band.in_step,
        "OUTPUTS": band.outputs,
        "CX": channels[0],
        "CY": channels[1],
        "NUM_N": matrix.shape[0],
        "NUM_K": matrix.shape[1],
        "BLOCK_M": tiles.rows,
        "BLOCK_N": tiles.block_n,
        "BLOCK_K": tiles.block_k,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
    }


@functools.cache
def _forward_tiles(layer: Layer, arithmetic: Arithmetic, shared_memory: int) -> Tiles:
    least = max(2 if layer.is_pooled else 1, layer.ratio)
    return _tiles(layer.channels, least, lambda outputs: layer.forward_band(outputs).window, arithmetic, shared_memory)


@functools.cache
def _backward_tiles(layer: Layer, arithmetic: Arithmetic, shared_memory: int) -> Tiles:
    channels = layer.channels[::-1]
    return _tiles(channels, 1, lambda outputs: layer.backward_band(outputs).window, arithmetic, shared_memory)


def _tiles(
    channels: tuple[int, int], least: int, window_of: Callable[[int], int], arithmetic: Arithmetic, shared_memory: int
) -> Tiles:
    channels_in, channels_out = channels
    outputs = _BLOCK_COLUMNS_OF_ONE_CHANNEL if channels_out == 1 else max(least, _BLOCK_COLUMNS // channels_out)
    while channels_in == 1 and outputs > least and window_of(outputs) > 16:
        outputs //= 2
    num_n, num_k = outputs * channels_out, window_of(outputs) * channels_in
    itemsize = arithmetic.dtype.itemsize
    block_k = 16 if num_k <= 16 else _BLOCK_K_BYTES // itemsize
    is_exact = arithmetic.dtype == torch.float32 and not arithmetic.is_tf32
    block_n = min(num_n, 128 if is_exact or shared_memory < _H100_SHARED_BYTES else 256)
    stage = (_BLOCK_ROWS + block_n) * block_k * itemsize
    num_warps = 8 if block_n > 128 or (block_n == 128 and is_exact) else 4
    return Tiles(outputs, _BLOCK_ROWS, block_n, block_k, num_warps, min(3, shared_memory // stage))


@functools.cache
def _gradient_tiles(layer: Layer, arithmetic: Arithmetic, shared_memory: int) -> Tiles:
    is_float32 = arithmetic.dtype == torch.float32
    tiles = _forward_tiles(layer, arithmetic, shared_memory)
    num_k = layer.forward_band(tiles.outputs).window * layer.channels[0]
    block_k = min(128, max(16, 2 ** math.floor(math.log2(num_k))))
    block_n = min(128 if is_float32 else 256, tiles.block_n)
    num_warps = 8 if block_n > 128 or block_k < 128 or is_float32 else 4
    if is_float32:  # one stage: the kernel loads ahead into registers
        return Tiles(tiles.outputs, 32, block_n, block_k, num_warps, 1)
    stage = 64 * (block_n + block_k) * arithmetic.dtype.itemsize
    return Tiles(tiles.outputs, 64, block_n, block_k, num_warps, min(3, shared_memory // stage))


@functools.cache
def _shared_memory(device: torch.device) -> int:
    if device.type == "cpu":
        return _H100_SHARED_BYTES  # the interpreter takes the tiles of an H100
    # On the meta device kernels are compiled for the current GPU.
    index = torch.cuda.current_device() if device.type == "meta" else device
    return torch.cuda.get_device_properties(index).shared_memory_per_block_optin
