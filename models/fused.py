"""Fast execution of a model's layers: the published arithmetic in a faster order.

`fast_layers` turns an `nn.Sequential` into a function that equals it up to rounding:

- 1-D layers run as 2-D layers on a single row, for which libraries are faster;
- activations are channels-last, (N, rows, columns, C) in memory, so that oneDNN's and cuDNN's convolutions need
  no copies into a layout of their own, and pooling and up-sampling move whole vectors of channels;
- nearest up-sampling is folded into the convolution after it, strided or not: see `fold_upsampling`;
- in evaluation mode batch norm is folded into the convolution before it;
- max-pooling is applied before a monotonic activation: the same values for half of the work or less;
- in training on a GPU one kernel adds the bias of a channels-last 2-D layer and applies the PReLU after it;
- on a GPU batch norm of a single channel in training uses the whole device.

Stored weights do not change: they are folded at each use, and gradients flow through the folding.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.activations import bias_and_prelu

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

Step = Callable[[Tensor], Tensor]


def fast_layers(layers: nn.Sequential, channels_last: bool = True) -> Step:
    """Return a function equal to `layers` up to rounding. It holds the current weights: make it anew for every use.

    Args:
        layers: convolutions, 1-D to 3-D, have neither dilation nor groups; up-sampling is nearest, by
            integers; other layers run unchanged.
        channels_last: whether activations are channels-last.

    Returns:
        A function from (N, C, ...) to (N, C', ...). 1-D layers take and return (N, C, 1, length). The output may
        be channels-last.

    Raises:
        ValueError: the padding of a convolution is a string; up-sampling has no scale factor, or one that the
            stride of the convolution after it does not divide.
    """
    lay_out = _to_channels_last if channels_last else (lambda x: x)
    modules = deque(flattened(layers))
    steps: list[Step] = []
    while modules:
        module = modules.popleft()
        following = modules[0] if modules else None
        activate = bias_and_prelu(module, following) if channels_last else None
        if isinstance(module, nn.Upsample) and isinstance(following, Convolution):
            modules.popleft()
            scale = scale_of(module, len(following.kernel_size))
            steps.append(_convolution(following, _batch_norm_of(modules), lay_out, scale))
        elif isinstance(module, Convolution):
            steps.append(_convolution(module, _batch_norm_of(modules), lay_out, has_bias=activate is None))
        elif isinstance(module, TransposedConvolution):
            steps.append(_transposed_convolution(module, lay_out, has_bias=activate is None))
        elif isinstance(following, nn.MaxPool1d) and _is_monotonic(module):
            modules.popleft()
            steps += [_halve, module]
        elif isinstance(following, nn.MaxPool2d) and _is_monotonic(module):
            steps += [modules.popleft(), module]
        elif isinstance(module, nn.MaxPool1d):
            steps.append(_halve)
        elif type(module) is nn.BatchNorm3d and module.training and module.num_features == 1 and module.weight.is_cuda:
            steps.append(_normalization_of_one_channel(module))
        else:
            steps.append(module)
        if activate is not None:
            modules.popleft()
            steps.append(activate)

    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


def fold_upsampling(
    weight: Tensor, scale: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, list[int], list[int]]:
    r"""Fold nearest up-sampling and the strided convolution after it into one convolution on the coarse grid.

    Up-sampling by u only repeats samples: u[j] = x[j // u]. With a convolution of stride s after it, where s
    divides u, output r m + p (r = u / s, phase p = 0 ... r - 1) is the sum over taps t of

        w[t] x[m + (s p + t - padding) // u]

    Taps that meet the same sample can be added beforehand, and outputs that strides would discard are never
    computed. Phase p becomes a block of output channels. All phases read the same samples; for a phase whose
    taps begin one sample later than those of phase 0, these give the previous output. With such phases in
    front, the blocks in order form the fine grid, and only its first and last outputs are superfluous.

        11 taps, u = 2, s = 1:   2 x 6 taps for two outputs instead of 22
        5 taps,  u = 4, s = 2:   2 x 2 taps instead of 10

    Args:
        weight: (C', C, k, ...).
        scale: factor of the up-sampling, one integer for each axis of taps.
        stride: stride of the convolution, one integer for each axis.
        padding: padding of the convolution, one integer for each axis.

    Returns:
        The weight (r r' ... C', C, taps, ...), its padding on each axis, and the number of superfluous outputs
        at the start of each axis. If this number is not 0, r minus it are superfluous at the end.

    Raises:
        ValueError: a stride does not divide the scale.
    """
    paddings, leading = [], []
    for axis, (u, s, p) in enumerate(zip(scale, stride, padding, strict=True), start=2):
        if u % s:
            raise ValueError(f"the stride must divide the scale of the up-sampling, got stride {s} and scale {u}")
        # torch.compile warns of a cache, and needs none: it computes constants once.
        sums_of_taps = _sums_of_taps if torch.compiler.is_compiling() else _cached_sums_of_taps
        adds, late = sums_of_taps(weight.shape[axis], u, s, p, weight.dtype, weight.device)
        weight = torch.stack([torch.tensordot(weight, add, ([axis], [1])).movedim(-1, axis) for add in adds])
        weight = weight.flatten(0, 1)  # phases of this axis before those of the axes before it
        paddings.append(-(-p // u))
        leading.append(late)
    return weight, paddings, leading


def _sums_of_taps(taps: int, u: int, s: int, p: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, int]:
    """Return 1 where a phase adds up a tap, else 0, (phases, folded taps, taps), and the number of late phases."""
    phases = u // s
    starts = [(s * phase - p) // u for phase in range(phases)]
    late = sum([start > starts[0] for start in starts])
    length = max([(s * phase + taps - 1 - p) // u - start for phase, start in enumerate(starts)]) + 1
    # Computed on the device: a copy from the host would wait for it, and cannot be part of a CUDA graph.
    with torch.inference_mode(False):
        phase = (torch.arange(phases, device=device) + (phases - late)) % phases
        meets = (s * phase[:, None] + torch.arange(taps, device=device) - p).div(u, rounding_mode="floor")
        samples = meets[:, :1] + torch.arange(length, device=device)
        return (samples[:, :, None] == meets[:, None, :]).to(dtype), late


_cached_sums_of_taps = functools.cache(_sums_of_taps)


def _convolution(
    module: Convolution,
    batch_norm: nn.BatchNorm3d | None,
    lay_out: Step,
    scale: Sequence[int] | None = None,
    has_bias: bool = True,
) -> Step:
    """Make a step of a convolution, with batch norm after it and up-sampling before it if given."""
    stride, padding = _on_a_row(module.stride, 1), _on_a_row(module.padding, 0)
    # Taps are added in float32, also under autocast.
    with torch.autocast(module.weight.device.type, enabled=False):
        weight, bias = _as_stored(module.weight), module.bias if has_bias else None
        if batch_norm is not None:
            mean, variance = batch_norm.running_mean, batch_norm.running_var
            assert mean is not None and variance is not None
            weight, bias = fuse_conv_bn_weights(
                weight, bias, mean, variance, batch_norm.eps, batch_norm.weight, batch_norm.bias
            )
        if weight.dim() == 3:
            weight = weight.unsqueeze(2)
        phases = None
        if scale is not None:
            weight, padding_of_fold, leading = fold_upsampling(weight, _on_a_row(scale, 1), stride, padding)
            phases = [u // s for u, s in zip(_on_a_row(scale, 1), stride, strict=True)]
            bias = bias.repeat(math.prod(phases)) if bias is not None else None
            stride, padding = (1,) * len(stride), tuple(padding_of_fold)
    convolve = F.conv3d if weight.dim() == 5 else F.conv2d
    weight = _for_cudnn(weight, lay_out)

    def run(x: Tensor) -> Tensor:
        y = convolve(lay_out(x), weight, bias, stride, padding)
        return y if phases is None else lay_out(_interleave(y, phases, leading))

    return run


def _transposed_convolution(module: TransposedConvolution, lay_out: Step, has_bias: bool = True) -> Step:
    stride, padding = _on_a_row(module.stride, 1), _on_a_row(module.padding, 0)
    output_padding = _on_a_row(module.output_padding, 0)
    weight, bias = _as_stored(module.weight), module.bias if has_bias else None
    weight = weight.unsqueeze(2) if weight.dim() == 3 else weight
    taps = weight.shape[2:]

    def run(x: Tensor) -> Tensor:
        # With stride 1 it is a convolution with reversed taps, which libraries run faster, unless reversing
        # takes longer.
        if max(stride) == 1 and x.numel() > weight.numel():
            reversed_taps = _for_cudnn(weight.transpose(0, 1).flip(2, 3), lay_out)
            widths = [k - 1 - p for k, p in zip(taps, padding, strict=True)]
            return F.conv2d(lay_out(x), reversed_taps, bias, stride, widths)
        return F.conv_transpose2d(lay_out(x), _for_cudnn(weight, lay_out), bias, stride, padding, output_padding)

    return run


def _interleave(x: Tensor, phases: Sequence[int], leading: Sequence[int]) -> Tensor:
    """Map (N, r r' ... C, n, n', ...) to (N, C, r n, r' n', ...), without superfluous outputs of `fold_upsampling`.

    If only the last axis has phases and `x` is channels-last, the result is a view.
    """
    axes = len(phases)
    # Phases of the last axis lie outermost among the channels.
    x = x.unflatten(1, (*reversed(phases), -1))
    sizes = x.shape[axes + 2 :]
    order = [0, axes + 1]
    for axis in range(axes):
        order += [axes + 2 + axis, axes - axis]
    fine = [n * r for n, r in zip(sizes, phases, strict=True)]
    x = x.permute(order).reshape(x.shape[0], x.shape[axes + 1], *fine)
    for axis, (r, late) in enumerate(zip(phases, leading, strict=True), start=2):
        if late:
            x = x.narrow(axis, late, x.shape[axis] - r)
    return x


def _is_monotonic(module: nn.Module) -> bool:
    """Return whether an activation never decreases, so that it commutes with max-pooling."""
    if isinstance(module, nn.PReLU):  # reading its slopes would wait for a GPU
        return module.weight.device.type == "cpu" and bool((module.weight >= 0).all())
    return isinstance(module, nn.LeakyReLU | nn.Hardtanh)


def _halve(x: Tensor) -> Tensor:
    """Max-pool pairs of neighbors on the last axis; drop an odd last value."""
    if torch.is_grad_enabled():  # `maximum` splits the gradient between equal neighbors, pooling does not
        return F.max_pool2d(x, (1, 2))
    even = x.shape[-1] // 2 * 2
    return torch.maximum(x[..., 0:even:2], x[..., 1:even:2])


def _to_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=_CHANNELS_LAST[x.dim()])


def _for_cudnn(weight: Tensor, lay_out: Step) -> Tensor:
    """Return a GPU weight in the type and layout of cuDNN, so that forward and backward share one copy."""
    if not weight.is_cuda:
        return weight
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else weight.dtype
    if lay_out is not _to_channels_last:
        return weight.to(dtype)
    return weight.to(dtype, memory_format=_CHANNELS_LAST[weight.dim()])


def _normalization_of_one_channel(module: nn.BatchNorm3d) -> Step:
    """Make a step of batch norm in training: torch's kernels would use one block of the GPU per channel."""

    def run(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            values = x if x.dtype == torch.float64 else x.float()
            variance, mean = torch.var_mean(values, correction=0)
            with torch.no_grad():
                assert module.running_mean is not None and module.running_var is not None
                assert module.num_batches_tracked is not None and module.momentum is not None
                module.num_batches_tracked.add_(1)
                module.running_mean.lerp_(mean.to(module.running_mean.dtype).reshape(1), module.momentum)
                unbiased = variance * (values.numel() / (values.numel() - 1))
                module.running_var.lerp_(unbiased.to(module.running_var.dtype).reshape(1), module.momentum)
            scale = module.weight * (variance + module.eps).rsqrt()
            return ((values - mean) * scale + module.bias).to(x.dtype)

    return run


def _as_stored(weight: Tensor) -> Tensor:
    """Return `weight` so that its gradient has the stored layout, as DistributedDataParallel expects."""
    return weight.flatten(1).unflatten(1, weight.shape[1:])


def _batch_norm_of(modules: deque[nn.Module]) -> nn.BatchNorm3d | None:
    """Remove and return the next module if it is a batch norm in evaluation mode, which uses its running statistics."""
    following = modules[0] if modules else None
    if not isinstance(following, nn.BatchNorm3d) or following.training or not following.track_running_stats:
        return None
    modules.popleft()
    return following


def _on_a_row(per_axis: str | Sequence[int], of_rows: int) -> tuple[int, ...]:
    """Extend a per-axis setting of a 1-D layer to a 2-D layer on one row; return others unchanged."""
    if isinstance(per_axis, str):
        raise ValueError(f"padding must be integers, got {per_axis!r}")
    return (of_rows, *per_axis) if len(per_axis) == 1 else tuple(per_axis)


def scale_of(module: nn.Upsample, axes: int) -> tuple[int, ...]:
    """Return the factor of an up-sampling on each of `axes` axes.

    Raises:
        ValueError: the up-sampling has a size instead of a factor.
    """
    scale = module.scale_factor
    if scale is None:
        raise ValueError(f"up-sampling must have a scale factor, got {module}")
    return tuple(map(int, scale)) if isinstance(scale, tuple) else (int(scale),) * axes


def flattened(layers: nn.Sequential) -> Iterator[nn.Module]:
    """Yield all layers in order, with those of nested `nn.Sequential`s."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from flattened(layer)
        else:
            yield layer
