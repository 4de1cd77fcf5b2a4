r"""1-D layers on a GPU as products of banded matrices, in Triton.

Activations lie position by position, (length, rows, channels) in memory: a row is a sequence, a block of rows at
one position is contiguous, and a convolution over positions needs no copy. A block of P outputs of a row depends on
a window of inputs, and every block in the same way, so that one small matrix serves the whole layer::

      window x channels (K)          P x channels' (N)
    ┌───────────────────────┐      ┌──────────────┐
    │ rows of one block     │  ·   │ band: taps   │   ─► bias, max-pooling, activation ─► P outputs
    └───────────────────────┘      └──────────────┘

Up-sampling before a convolution, the stride of a transposed one, and gradients only change the band.
Tap t joins input w of a window with output p where t = alpha w + beta p + gamma + d, 0 <= d < MERGED.

At the end are the kernels of `models.activations`, for 2-D layers.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _round_to_tf32(value):
    """Round float32 to the 10 mantissa bits that TF32 products read: they would truncate."""
    bits = value.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(value == value, rounded, value)


@triton.jit
def expand_band(
    weight,
    band,
    stride_in,
    stride_out,
    taps,
    gamma,
    num_k,
    num_n,
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    MERGED: tl.constexpr,
    CX: tl.constexpr,
    CY: tl.constexpr,
    PAIRS: tl.constexpr,
    TF32: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write the band (N, K) of a layer, from its taps, summed in float32.

    Columns are (input of the window, channel). Rows are (output, channel') or, with `PAIRS`, (pair of outputs,
    channel', which of the pair).
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    if PAIRS:
        p = (n // 2) // CY * 2 + n % 2
        channel_out = (n // 2) % CY
    else:
        p = n // CY
        channel_out = n % CY
    first = ALPHA * (k // CX) + BETA * p + gamma
    source = weight + (k % CX) * stride_in + channel_out * stride_out
    is_inside = (n < num_n) & (k < num_k)
    value = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for d in tl.static_range(MERGED):
        tap = first + d
        value += tl.load(source + tap, mask=is_inside & (tap >= 0) & (tap < taps), other=0.0)
    if TF32:
        value = _round_to_tf32(value)
    tl.store(band + n * num_k + k, value, mask=is_inside)


@triton.jit(do_not_specialize=["num_parts"])
def collect_band(
    parts,
    gradient,
    stride_in,
    stride_out,
    taps,
    gamma,
    window,
    num_k,
    num_n,
    num_parts,
    num_values,
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    MERGED: tl.constexpr,
    CX: tl.constexpr,
    CY: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Add up the gradient of a layer's taps from `parts`, float32 (parts, N, K), always in the same order."""
    sign: tl.constexpr = 1 if ALPHA > 0 else -1
    size: tl.constexpr = ALPHA * sign
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tap = index % taps
    channel_in = (index // taps) % CX
    channel_out = index // (taps * CX)
    is_inside = index < num_values
    total = tl.zeros((BLOCK, PARTS), tl.float32)
    for start in range(0, num_parts, PARTS):
        part = start + tl.arange(0, PARTS)
        base = parts + part.to(tl.int64)[None, :] * num_k * num_n
        for p in tl.static_range(OUTPUTS):
            for d in tl.static_range(MERGED):
                scaled = (tap - d - BETA * p - gamma) * sign
                w = scaled // size
                is_met = is_inside & (scaled >= 0) & (scaled % size == 0) & (w < window)
                offset = (p * CY + channel_out) * num_k + w * CX + channel_in
                mask = is_met[:, None] & (part < num_parts)[None, :]
                total += tl.load(base + offset[:, None], mask=mask, other=0.0)
    target = gradient + channel_in * stride_in + channel_out * stride_out + tap
    tl.store(target, tl.sum(total, axis=1), mask=is_inside)


@triton.jit
def apply_band(
    x,
    band,
    bias,
    out,
    winners,
    before,
    winners_before,
    sums,
    rows,
    length_x,
    first,
    length,
    skipped,
    IN_STEP: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CX: tl.constexpr,
    CY: tl.constexpr,
    NUM_K: tl.constexpr,
    NUM_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    POOL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_WINNERS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    DERIVATIVE: tl.constexpr,
    HAS_SUMS: tl.constexpr,
    UNPOOL: tl.constexpr,
    PRECISION: tl.constexpr,
    TF32: tl.constexpr,
):
    """Compute one layer, or the gradient of its input.

    Map x (length_x, rows, CX) to out (length, rows, CY). The outputs of block b read `x` from position
    b * IN_STEP + first on, and zeros outside of `x`.

    Forward: add the bias; with `POOL`, keep the larger of each pair of outputs, and write to `winners` (uint8)
    whether it was the second; apply the activation. The first `skipped` outputs are not written.

    Backward: multiply by the derivative of the activation that made `before`, the output of the layer before; with
    `UNPOOL`, write each value to that one of two positions which `winners_before` tells; write the sums over the
    rows of a block to `sums`, for the gradient of the bias. With `TF32`, round values for the next product.
    """
    num_n_blocks: tl.constexpr = NUM_N // BLOCK_N
    num_blocks = tl.cdiv(length, OUTPUTS)
    pid = tl.program_id(0)
    block_n = pid % num_n_blocks
    block = (pid // num_n_blocks) % num_blocks
    block_m = pid // (num_n_blocks * num_blocks)

    r = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    is_row = r < rows
    n = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    start = block * IN_STEP + first
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, NUM_K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        position = start + k // CX
        column = position.to(tl.int64) * (rows * CX) + k % CX
        is_position = (position >= 0) & (position < length_x)
        a = tl.load(x + (r * CX)[:, None] + column[None, :], mask=is_row[:, None] & is_position[None, :], other=0.0)
        b = tl.load(band + k[:, None] + (n * NUM_K)[None, :])
        if PRECISION == "tf32" and CX == 1 and b.dtype == tl.float32:
            a = _round_to_tf32(a)
        acc = tl.dot(a.to(b.dtype), b, acc, input_precision=PRECISION)

    # Columns of what is written: (output, channel).
    per_block: tl.constexpr = OUTPUTS // 2 if POOL else OUTPUTS
    width: tl.constexpr = BLOCK_N // 2 if POOL else BLOCK_N
    length_out = length // 2 if POOL else length
    m = block_n * width + tl.arange(0, width)
    position = block * per_block + m // CY
    channel = m % CY
    mask = is_row[:, None] & ((position >= skipped) & (position < length_out))[None, :]
    place = (r * CY)[:, None] + ((position - skipped).to(tl.int64) * (rows * CY) + channel)[None, :]
    if POOL:
        one, other = tl.split(tl.reshape(acc, (BLOCK_M, width, 2)))
        is_other = other > one
        acc = tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)
        if HAS_WINNERS:
            tl.store(winners + place, is_other.to(tl.uint8), mask=mask)
    if HAS_BIAS:
        acc += tl.load(bias + channel)[None, :]
    if ACTIVATION == 1:
        acc = tl.where(acc > 0, acc, acc * SLOPE)
    elif ACTIVATION == 2:
        acc = tl.where(acc > 1, 1.0, tl.where(acc < -1, -1.0, acc))
    elif ACTIVATION == 3:
        acc = tl.sigmoid(acc)
    if DERIVATIVE > 0:
        made = tl.load(before + place, mask=mask, other=0.0).to(tl.float32)
        if DERIVATIVE == 1:
            acc = tl.where(made > 0, acc, acc * SLOPE)
        elif DERIVATIVE == 2:
            acc = tl.where((made > -1) & (made < 1), acc, 0.0)
        else:
            acc = acc * made * (1 - made)
    if HAS_SUMS:
        total = tl.sum(tl.where(mask, acc, 0.0), axis=0)
        tl.store(sums + (block_m * num_blocks + block) * NUM_N + m, total)
    if TF32:
        acc = _round_to_tf32(acc)
    value = acc.to(out.dtype.element_ty)
    if UNPOOL:
        is_second = tl.load(winners_before + place, mask=mask, other=0) != 0
        fine = (r * CY)[:, None] + ((2 * position).to(tl.int64) * (rows * CY) + channel)[None, :]
        nothing = tl.zeros_like(value)
        tl.store(out + fine, tl.where(is_second, nothing, value), mask=mask)
        tl.store(out + fine + rows * CY, tl.where(is_second, value, nothing), mask=mask)
    else:
        tl.store(out + place, value, mask=mask)


@triton.jit
def _load_pair(
    x,
    gradient,
    step,
    last,
    k,
    n,
    rows,
    length_x,
    first,
    length,
    skipped,
    IN_STEP: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CX: tl.constexpr,
    CY: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Load a block of rows of a window of inputs and of its outputs' gradients; zeros from step `last` on."""
    num_blocks = tl.cdiv(length, OUTPUTS)
    block = step % num_blocks
    r = step // num_blocks * BLOCK_R + tl.arange(0, BLOCK_R)
    is_row = (r < rows * (step < last))[:, None]
    position = block * IN_STEP + first + k // CX
    column = position.to(tl.int64) * (rows * CX) + k % CX
    mask = is_row & ((position >= 0) & (position < length_x))[None, :]
    a = tl.load(x + (r * CX)[:, None] + column[None, :], mask=mask, other=0.0)
    output = block * OUTPUTS + n // CY
    column = (output - skipped).to(tl.int64) * (rows * CY) + n % CY
    mask = is_row & ((output >= skipped) & (output < length))[None, :]
    return a, tl.load(gradient + (r * CY)[:, None] + column[None, :], mask=mask, other=0.0)


@triton.jit(do_not_specialize=["steps_per_part"])
def band_gradient(
    x,
    gradient,
    parts,
    rows,
    length_x,
    first,
    length,
    skipped,
    steps_per_part,
    IN_STEP: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CX: tl.constexpr,
    CY: tl.constexpr,
    NUM_K: tl.constexpr,
    NUM_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Sum the gradient of a band over rows and blocks: each of `parts`, float32 (parts, N, K), over a share of them.

    `gradient` (length - skipped, rows, CY) belongs to the layer's outputs after the first `skipped`.

    Tensor cores take float32 only with the summed axis, here the rows, innermost. Float32 numbers are therefore
    split into `TERMS` bfloat16 numbers: 2 hold 16 bits, more than TF32; 3 hold all 24.
    """
    num_n_blocks: tl.constexpr = NUM_N // BLOCK_N
    pid = tl.program_id(0)
    n = pid % num_n_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    k = pid // num_n_blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    part = tl.program_id(1)
    start = part * steps_per_part
    last = min(start + steps_per_part, tl.cdiv(length, OUTPUTS) * tl.cdiv(rows, BLOCK_R))
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    if TERMS == 1:
        for step in range(start, last):
            a, g = _load_pair(
                x, gradient, step, last, k, n, rows, length_x, first, length, skipped, IN_STEP, OUTPUTS, CX, CY, BLOCK_R
            )
            acc = tl.dot(tl.trans(g), a.to(g.dtype), acc)
    else:
        a, g = _load_pair(
            x, gradient, start, last, k, n, rows, length_x, first, length, skipped, IN_STEP, OUTPUTS, CX, CY, BLOCK_R
        )
        for step in range(start, last):
            a1, g1 = a.to(tl.bfloat16), g.to(tl.bfloat16)
            a, g = a - a1.to(tl.float32), g - g1.to(tl.float32)
            a2, g2 = a.to(tl.bfloat16), g.to(tl.bfloat16)
            if TERMS == 3:
                a3 = (a - a2.to(tl.float32)).to(tl.bfloat16)
                g3 = (g - g2.to(tl.float32)).to(tl.bfloat16)
            a, g = _load_pair(
                x,
                gradient,
                step + 1,
                last,
                k,
                n,
                rows,
                length_x,
                first,
                length,
                skipped,
                IN_STEP,
                OUTPUTS,
                CX,
                CY,
                BLOCK_R,
            )
            if TERMS == 3:
                acc = tl.dot(tl.trans(g3), a1, acc)
                acc = tl.dot(tl.trans(g2), a2, acc)
                acc = tl.dot(tl.trans(g1), a3, acc)
            acc = tl.dot(tl.trans(g2), a1, acc)
            acc = tl.dot(tl.trans(g1), a2, acc)
            acc = tl.dot(tl.trans(g1), a1, acc)
    target = parts + part.to(tl.int64) * NUM_N * NUM_K + (n * NUM_K)[:, None] + k[None, :]
    tl.store(target, acc)


@triton.jit(do_not_specialize=["pixels"])
def bias_prelu(z, bias, slope, y, pixels, channels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Write prelu(z + bias, slope) to `y`; both are (pixels, channels)."""
    num_blocks = tl.cdiv(channels, BLOCK_C)
    channel = tl.program_id(0) % num_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    pixel = tl.program_id(0) // num_blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    is_channel = channel < channels
    mask = (pixel < pixels)[:, None] & is_channel[None, :]
    place = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    x = tl.load(z + place, mask=mask).to(tl.float32)
    x += tl.load(bias + channel, mask=is_channel).to(tl.float32)[None, :]
    below = x * tl.load(slope + channel, mask=is_channel).to(tl.float32)[None, :]
    tl.store(y + place, tl.where(x > 0, x, below).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["pixels", "steps_per_part"])
def bias_prelu_gradients(
    dy,
    z,
    bias,
    slope,
    dz,
    sums,
    pixels,
    channels,
    steps_per_part,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute gradients of `bias_prelu` from that of its output; `dz` or `sums` may be None.

    Write to `dz` (pixels, channels) the gradient of `z`, and to `sums` (parts, 2, channels) those of bias and slope,
    each part over `steps_per_part` blocks of pixels.
    """
    num_blocks = tl.cdiv(channels, BLOCK_C)
    channel = tl.program_id(0) % num_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    part = tl.program_id(0) // num_blocks
    is_channel = channel < channels
    shift = tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    factor = tl.load(slope + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    by_bias = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    by_slope = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for step in range(part * steps_per_part, (part + 1) * steps_per_part):
        pixel = step * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (pixel < pixels)[:, None] & is_channel[None, :]
        place = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
        x = tl.load(z + place, mask=mask, other=0.0).to(tl.float32) + shift
        g = tl.load(dy + place, mask=mask, other=0.0).to(tl.float32)
        gradient = tl.where(x > 0, g, g * factor)
        if dz is not None:
            tl.store(dz + place, gradient.to(dz.dtype.element_ty), mask=mask)
        by_bias += gradient
        by_slope += tl.where(x > 0, 0.0, g * x)
    if sums is not None:
        target = sums + part * 2 * channels + channel
        tl.store(target, tl.sum(by_bias, axis=0), mask=is_channel)
        tl.store(target + channels, tl.sum(by_slope, axis=0), mask=is_channel)
