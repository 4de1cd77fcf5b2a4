"""How the latents of a model become bytes: as float32, or quantized and range coded by a learned distribution.

The interface is that of CompressAI's `LatentCodec`: `forward(y)` -> `{"y_hat", "likelihoods"}`, `compress(y)` ->
`{"strings", "shape"}`, `decompress(strings, shape)` -> `{"y_hat"}`. `strings` holds lists with one string for each
image; `shape` is (h, w) of the latents.

The entropy models and their range coder are CompressAI's. The learned steps, the scales of each channel, and the exact
arithmetic of the hyperprior are ours.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.ops import quantize_ste
from torch import Tensor, nn

Strings = list[list[bytes]]
Shape = tuple[int, int]

MIN_TABLE_SCALE, MAX_TABLE_SCALE = 0.02, 1024
SCALE_TABLE = torch.exp(torch.linspace(math.log(MIN_TABLE_SCALE), math.log(MAX_TABLE_SCALE), 84))
"""Scales that have a table of the range coder.

CompressAI's are from 0.11 to 256. Larger ones are for fine steps; smaller ones are for training, where noise makes each
latent that is 0 cost about 1.4 bits times its scale.
"""

LOG_UNIT = 10.0  # of learned logarithms: steps and scales may change by a factor while Adam changes weights a little
# In standard deviations of the values. With this scale, a bottleneck starts within 0.1 bit of the entropy of normal and
# Laplacian values.
BOTTLENECK_SCALE = 0.6
BOTTLENECK_RANGE = 6.0
MIN_DEVIATION = 0.3  # of values in a bottleneck, in steps
MIN_SCALE = 0.1  # of normal distributions, in steps: nearly all values are then 0

# Fixed-point numbers of the exact arithmetic, see `exactly`.
WEIGHT_UNIT = 2.0**-14
VALUE_UNIT = 2.0**-10
MAX_WEIGHT = 2.0**4
MAX_VALUE = 2.0**12

MAX_SYMBOL = 2.0**24  # CompressAI's range coder never returns if a symbol is 2^27 or more


class LatentCodec(nn.Module, ABC):
    """The interface of this module."""

    @abstractmethod
    def forward(self, y: Tensor) -> dict:
        """Return `{"y_hat", "likelihoods"}` of latents."""

    @abstractmethod
    def compress(self, y: Tensor) -> dict:
        """Return `{"strings", "shape"}` of latents.

        Raises:
            ValueError: they are not finite, or too large for the range coder.
        """

    @abstractmethod
    def decompress(self, strings: Strings, shape: Shape) -> dict:
        """Return `{"y_hat"}` of strings."""


class FloatLatentCodec(LatentCodec):
    """Write every latent value as little-endian float32 in C order: the rate that publications count.

    Args:
        latent_shape: latent channels and, for 3-D models, latent bands.
    """

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.latent_shape = latent_shape

    def forward(self, y: Tensor) -> dict:
        return {"y_hat": y, "likelihoods": {}}

    def compress(self, y: Tensor) -> dict:
        values = y.float().cpu().numpy().astype("<f4", copy=False)
        return {"strings": [[value.tobytes() for value in values]], "shape": tuple(y.shape[-2:])}

    def decompress(self, strings: Strings, shape: Shape) -> dict:
        """Return `{"y_hat"}`, on the CPU.

        Raises:
            ValueError: the length of a string does not fit `shape`.
        """
        latent = (*self.latent_shape, *shape)
        expected = 4 * math.prod(latent)
        for number, string in enumerate(strings[0]):
            if len(string) != expected:
                raise ValueError(f"string {number} must have {expected} bytes for a latent {latent}, got {len(string)}")
        values = np.frombuffer(b"".join(strings[0]), "<f4").astype(np.float32)
        return {"y_hat": torch.from_numpy(values.reshape(-1, *latent))}


class EntropyLatentCodec(LatentCodec):
    """Quantize latents by a learned step for each channel.

    In training the likelihoods are those of latents with noise in place of quantization, and `y_hat` is quantized, with
    the gradient of the identity (D. Minnen, S. Singh, "Channel-wise autoregressive entropy models for learned image
    compression", ICIP 2020, doi 10.1109/ICIP40778.2020.9190935): noise in the many latents that quantization makes 0
    would count as distortion.

    Args:
        channels: latent channels, the axis of the latents that the steps belong to.
        axis: position of this axis.

    Attributes:
        log_steps: natural logarithms of the steps, in units of `LOG_UNIT`.
    """

    def __init__(self, channels: int, axis: int = 1) -> None:
        super().__init__()
        self.axis = axis
        self.log_steps = nn.Parameter(torch.zeros(channels))

    def steps(self, dims: int) -> Tensor:
        """Return the steps, of a shape that multiplies latents of `dims` dimensions."""
        steps = torch.exp(LOG_UNIT * self.log_steps)
        return steps.reshape(-1, *(1,) * (dims - self.axis - 1))

    @torch.no_grad()
    def initialize(self, y: Tensor, step: float) -> None:
        """Start from latents of training images and a first step, the same for all channels.

        Args:
            y: latents of several images.
            step: in units of `y`.
        """
        self.log_steps.fill_(math.log(step) / LOG_UNIT)
        self._initialize(y / step)

    @abstractmethod
    def _initialize(self, u: Tensor) -> None:
        """Start the distribution from latents in units of their steps."""


class FactorizedLatentCodec(EntropyLatentCodec):
    """Code latents by a learned density of each channel (Balle et al., ICLR 2018, arXiv 1802.01436, section 6.1).

    Args:
        latent_shape: latent channels and, for 3-D models, latent bands.
    """

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__(latent_shape[0])
        self._depth = latent_shape[1:]
        self.entropy_bottleneck = Bottleneck(latent_shape[0])

    def forward(self, y: Tensor) -> dict:
        with torch.autocast(y.device.type, enabled=False):
            steps = self.steps(y.dim())
            u = y.float() / steps
            u_hat, likelihoods = self.entropy_bottleneck(u)
            if self.training:
                medians = self.entropy_bottleneck.quantiles[:, 0, 1].detach()
                u_hat = rounded_around(u, medians.reshape(-1, *(1,) * (u.dim() - 2)))
            return {"y_hat": u_hat * steps, "likelihoods": {"y": likelihoods}}

    def compress(self, y: Tensor) -> dict:
        strings = self.entropy_bottleneck.compress(_checked(y.float() / self.steps(y.dim())))
        return {"strings": [strings], "shape": tuple(y.shape[-2:])}

    def decompress(self, strings: Strings, shape: Shape) -> dict:
        u_hat = self.entropy_bottleneck.decompress(strings[0], (*self._depth, *shape))
        return {"y_hat": u_hat * self.steps(u_hat.dim())}

    def _initialize(self, u: Tensor) -> None:
        values = u.transpose(0, 1).flatten(1)
        self.entropy_bottleneck.initialize(values.mean(1), values.std(1))


class HyperpriorLatentCodec(EntropyLatentCodec):
    r"""Code latents by normal distributions whose means and scales are coded as well, at a quarter of the size.

    ::

        y / step = u ─► normalized by channel ─► h_a ─► z ─► bytes ─► z_hat ─► h_s ─► means, scales
        u, means, scales ─► bytes

    h_a is conv 3, conv 5 /2, conv 5 /2, with leaky ReLUs between; h_s is its mirror image. This is the mean-scale
    hyperprior (Minnen et al., NeurIPS 2018, arXiv 1809.02736) with an offset and a scale for each channel of each
    plane, which all images share, and which the hyperprior only corrects.

    In evaluation h_s is computed exactly, see `exactly`: the decoder needs the same scales to the bit, on any machine.

    Args:
        channels: latent channels of a plane, M.
        planes: planes K with a hyperprior of their own but the same weights; latents are (N, K, M, h, w), or, with
            None, (N, M, h, w).
        hyper_channels: channels of z and between layers.
    """

    def __init__(self, channels: int, planes: int | None = None, hyper_channels: int = 32) -> None:
        super().__init__(channels, axis=1 if planes is None else 2)
        self.planes, self.channels = planes, channels
        self.offsets = nn.Parameter(torch.zeros(planes or 1, channels))
        self.log_scales = nn.Parameter(torch.zeros(planes or 1, channels))
        width = hyper_channels
        self.h_a = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(width, width, 5, stride=2, padding=2),
            nn.LeakyReLU(),
            nn.Conv2d(width, width, 5, stride=2, padding=2),
        )
        last = nn.Conv2d(width, 2 * channels, 3, padding=1)
        self.h_s = nn.Sequential(
            nn.ConvTranspose2d(width, width, 5, stride=2, padding=2, output_padding=1),
            nn.LeakyReLU(),
            nn.ConvTranspose2d(width, width, 5, stride=2, padding=2, output_padding=1),
            nn.LeakyReLU(),
            last,
        )
        # Start near the offsets and scales of the channels.
        nn.init.normal_(last.weight, std=0.1 / math.sqrt(last.weight[0].numel()))
        self.entropy_bottleneck = Bottleneck(width)
        self.gaussian_conditional = GaussianConditional(None, scale_bound=MIN_TABLE_SCALE)

    def forward(self, y: Tensor) -> dict:
        with torch.autocast(y.device.type, enabled=False):
            steps = self.steps(y.dim())
            u = self._as_planes(y.float() / steps)
            z_hat, of_z = self.entropy_bottleneck(self._analyze(u))
            means, log_scales = self._synthesize(z_hat, u.shape)
            u_hat, of_y = self.gaussian_conditional(u, torch.exp(_bounded(log_scales)).float(), means)
            if self.training:
                u_hat = rounded_around(u, means)
            return {"y_hat": self._as_latents(u_hat) * steps, "likelihoods": {"y": of_y, "z": of_z}}

    def compress(self, y: Tensor) -> dict:
        u = self._as_planes(y.float() / self.steps(y.dim()))
        z = _checked(self._analyze(u))
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.shape[2:])
        means, log_scales = self._synthesize(z_hat, u.shape)
        _checked(u - means)
        strings = self.gaussian_conditional.compress(u, self._indexes(log_scales), means)
        return {"strings": [strings, z_strings], "shape": tuple(y.shape[-2:])}

    def decompress(self, strings: Strings, shape: Shape) -> dict:
        size = (len(strings[0]), self.planes or 1, self.channels, *shape)
        z_hat = self.entropy_bottleneck.decompress(strings[1], (size[1], *(math.ceil(side / 4) for side in shape)))
        means, log_scales = self._synthesize(z_hat, torch.Size(size))
        u_hat = self.gaussian_conditional.decompress(strings[0], self._indexes(log_scales), means=means)
        y_hat = self._as_latents(u_hat)
        return {"y_hat": y_hat * self.steps(y_hat.dim())}

    def _initialize(self, u: Tensor) -> None:
        planes = self._as_planes(u)
        values = planes.movedim(0, 2).flatten(2)
        self.offsets.copy_(values.mean(2))
        self.log_scales.copy_(values.std(2).clamp(min=MIN_SCALE).log() / LOG_UNIT)
        z = self._analyze(planes).transpose(0, 1).flatten(1)
        self.entropy_bottleneck.initialize(z.mean(1), z.std(1))

    def _as_planes(self, u: Tensor) -> Tensor:
        return u[:, None] if self.planes is None else u

    def _as_latents(self, u: Tensor) -> Tensor:
        return u[:, 0] if self.planes is None else u

    def _analyze(self, u: Tensor) -> Tensor:
        """Map planes (N, K, M, h, w) to z (N, width, K, h / 4, w / 4), rounded up."""
        normalized = (u - self.offsets[..., None, None]) / torch.exp(LOG_UNIT * self.log_scales)[..., None, None]
        return self.h_a(normalized.flatten(0, 1)).unflatten(0, u.shape[:2]).transpose(1, 2)

    def _synthesize(self, z_hat: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return means and logarithms of the scales, both of `size` (N, K, M, h, w), from z_hat."""
        planes = z_hat.transpose(1, 2).flatten(0, 1)
        out = self.h_s(planes) if self.training else exactly(self.h_s, planes)
        means, log_scales = out[..., : size[3], : size[4]].unflatten(0, size[:2]).chunk(2, dim=2)
        offset, log_scale = self.offsets[..., None, None], LOG_UNIT * self.log_scales[..., None, None]
        return offset + means.float() * torch.exp(log_scale), log_scales + log_scale

    def _indexes(self, log_scales: Tensor) -> Tensor:
        """Return the index of the nearest scale that has a table.

        Unlike `GaussianConditional.build_indexes`, which takes the next larger one, this costs about 0.002 bits a
        value, and it takes logarithms, which are exact.
        """
        logarithms = self.gaussian_conditional.scale_table.double().log()
        return torch.bucketize(log_scales.double().contiguous(), (logarithms[1:] + logarithms[:-1]) / 2).int()


class Bottleneck(EntropyBottleneck):
    """CompressAI's entropy bottleneck, whose forward pass does not wait for the device, and which can start from data.

    Args:
        channels: axis 1 of its inputs.
    """

    def forward(self, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        """Return quantized values, in training with noise instead, and their likelihoods."""
        values = x.transpose(0, 1).contiguous()
        mode = "noise" if (self.training if training is None else training) else "dequantize"
        outputs = self.quantize(values.reshape(x.shape[1], 1, -1), mode, self._get_medians())
        likelihoods, _, _ = self._likelihood(outputs)
        if self.use_likelihood_bound:
            likelihoods = self.likelihood_lower_bound(likelihoods)
        out = (part.reshape(values.shape).transpose(0, 1).contiguous() for part in (outputs, likelihoods))
        return next(out), next(out)

    @torch.no_grad()
    def initialize(self, mean: Tensor, deviation: Tensor) -> None:
        """Start with a density that suits values of these means and standard deviations, both (channels,)."""
        deviation = deviation.clamp(min=MIN_DEVIATION)
        # A fresh density has the width `init_scale`: its first layer scales and shifts the values.
        ratio = self.init_scale / (BOTTLENECK_SCALE * deviation)
        slope = F.softplus(self.matrices[0]) * ratio[:, None, None]
        self.matrices[0].copy_(slope + torch.log(-torch.expm1(-slope)))  # inverse of softplus
        self.biases[0].sub_(slope * mean[:, None, None])
        reach = BOTTLENECK_RANGE * deviation
        self.quantiles.copy_(torch.stack([mean - reach, mean, mean + reach], dim=1)[:, None])


def _checked(values: Tensor) -> Tensor:
    """Return quantized values that the range coder can take."""
    if values.numel() and not values.abs().amax() < MAX_SYMBOL:  # NaN, too
        raise ValueError("latents are not finite, or too large for their steps: the weights do not suit such images")
    return values


def _bounded(log_scales: Tensor) -> Tensor:
    """Return logarithms of scales, at most that of the largest table, with the gradient of the identity.

    Early in training a hyperprior may ask for more than float32 can hold, and gradients would be NaN.
    """
    return log_scales - (log_scales - math.log(MAX_TABLE_SCALE)).clamp(min=0).detach()


def rounded_around(u: Tensor, center: Tensor) -> Tensor:
    """Return `u` quantized with a step of 1 around `center`, with the gradient of the identity."""
    return quantize_ste(u - center) + center


@torch.no_grad()
def exactly(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Apply convolutions and activations in fixed-point arithmetic, with the same result on every machine.

    Weights and values are rounded to multiples of `WEIGHT_UNIT` and `VALUE_UNIT`, and bounded. In float64 the sums of
    up to 2048 products of them are exact, so that no order of summation changes them (Balle et al., "Integer networks
    for data compression with latent-variable models", ICLR 2019).

    Args:
        layers: 2-D convolutions, transposed or not, with biases, and leaky ReLUs.
        x: float32 (N, C, h, w).

    Returns:
        float64 (N, C', h', w'), close to `layers(x)`.
    """
    x = _rounded(x, VALUE_UNIT, MAX_VALUE)
    with torch.backends.cudnn.flags(enabled=False):  # some of its algorithms transform values first
        for layer in layers:
            x = _rounded(_exact_layer(layer, x), VALUE_UNIT, MAX_VALUE)
    return x


def _exact_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the output of a layer, whose weights are rounded first."""
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return layer(x)
    assert layer.bias is not None and not isinstance(layer.padding, str)
    weight, bias = (_rounded(part, WEIGHT_UNIT, MAX_WEIGHT) for part in (layer.weight, layer.bias))
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, bias, layer.stride, layer.padding)
    return F.conv_transpose2d(x, weight, bias, layer.stride, layer.padding, layer.output_padding)


def _rounded(x: Tensor, unit: float, largest: float) -> Tensor:
    """Return float64 multiples of `unit`, at most `largest` in magnitude."""
    return torch.round(x.double() / unit).clamp(-largest / unit, largest / unit) * unit
