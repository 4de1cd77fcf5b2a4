"""The interface of every model: CompressAI's, for images of any number of bands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from models.fused import fast_layers
from models.latent_codecs import SCALE_TABLE, FloatLatentCodec
from models.trainable import TrainableModel

FLOAT_BITS = 32  # the published rates count every latent value as one float32


class HSICompressionModel(TrainableModel):
    r"""Autoencoder for hyperspectral images.

    ::

              encode            latent_codec           latent_codec             decode
        x ──────────────► y ──────────────────► bytes ──────────────────► y_hat ──────────────► x_hat
        (N, C, H, W)      (N, L, ...)                                     (N, L, ...)           (N, C, H, W)
        in [0, 1]

    The published models have no entropy model: `latent_codec` writes each image's latent as float32, so that
    8 * bytes / values *is* the published rate. `attach_entropy_model` gives them one. In evaluation `forward(x)` equals
    `decompress(**compress(x))` to the bit on a CPU, and up to rounding on a GPU, where cuDNN may choose another
    algorithm.

    A subclass sets `encoder` and `decoder` (`nn.Sequential`s whose keys are the published ones), or overrides
    `_encode`, `_decode`, whose inputs have been checked, and `encoder_parameters`. It defines `from_state_dict`.

    Args:
        src_channels: number of bands C.
        latent_shape: latent channels and, for 3-D models, latent bands; rows and columns follow.
        spatial_stride: image height (or width) divided by that of its latent.

    Attributes:
        src_channels, latent_shape: as given.
        size_multiple: height and width must be multiples of this.
        pixelwise: whether each pixel is coded without its neighbors. Training then splits a batch into chunks of
            `pixels_per_chunk(device)` pixels, so no layer may depend on the rest of the batch.
        chunk_sizes: pixels in such a chunk, by device type; those of "cpu" for other devices.
        verified: whether the architecture was confirmed against published code.
        latent_codec, is_extended: see `TrainableModel`.
        compression_ratio: number of input values divided by number of latent values.
        bpppc: bits per pixel per channel of latents in float32, 32 / compression_ratio.
    """

    decoder: torch.nn.Sequential
    pixelwise = False
    chunk_sizes: Mapping[str, int] | None = None

    # Pixels that go through the network at once outside training, by device type; at least one image. Fixed
    # numbers, never timed, so that results do not change from run to run.
    pixels_at_once: Mapping[str, int] = {"cpu": 1, "cuda": 4 * 128**2}

    def __init__(self, src_channels: int, latent_shape: tuple[int, ...], spatial_stride: int = 1) -> None:
        super().__init__()
        if src_channels < 1:
            raise ValueError(f"src_channels must be at least 1, got {src_channels}")
        self.src_channels = src_channels
        self.latent_shape = latent_shape
        self.size_multiple = spatial_stride
        self.compression_ratio = spatial_stride**2 * src_channels / math.prod(latent_shape)
        self.bpppc = FLOAT_BITS / self.compression_ratio
        self.latent_codec = FloatLatentCodec(latent_shape)

    def pixels_per_chunk(self, device: torch.device) -> int | None:
        """Return how many pixels go through the network at once on a device; None for whole images."""
        return self.chunk_sizes.get(device.type, self.chunk_sizes["cpu"]) if self.chunk_sizes else None

    def set_pixels_per_chunk(self, device_type: str, pixels: int) -> None:
        """Replace the number in `chunk_sizes`, to resume a run that began with another table."""
        self.chunk_sizes = {**(self.chunk_sizes or {}), device_type: pixels}

    # -- the two tensor halves ------------------------------------------------------------------

    def encode(self, x: Tensor) -> Tensor:
        """Encode images (N, C, H, W) in [0, 1] to unbounded latents (N, *latent_shape, h, w).

        Raises:
            ValueError: the number of bands, height or width is one that the model cannot take; see `check_size`.
        """
        self.check_size(x)
        return self._encode(x)

    def decode(self, y: Tensor) -> Tensor:
        """Decode latents (N, *latent_shape, h, w) to reconstructions (N, C, H, W).

        Raises:
            ValueError: the latents have another shape.
        """
        channels = tuple(y.shape[1:-2])
        if channels != self.latent_shape:
            raise ValueError(
                f"latents of {type(self).__name__} must be (N, {', '.join(map(str, self.latent_shape))}, h, w), "
                f"got {tuple(y.shape)}"
            )
        return self._decode(y)

    def _encode(self, x: Tensor) -> Tensor:
        return self._map_images(self._layers(self.encoder, x), x)

    def _decode(self, y: Tensor) -> Tensor:
        return self._map_images(self._layers(self.decoder, y), y, self.size_multiple)

    @staticmethod
    def _layers(layers: torch.nn.Sequential, x: Tensor) -> Callable[[Tensor], Tensor]:
        if x.is_cuda:  # channels-last where tensor cores compute
            has_half = torch.is_autocast_enabled("cuda") or x.dtype != torch.float32
            return fast_layers(layers, channels_last=has_half or torch.backends.cudnn.allow_tf32)
        # On a CPU channels-last 2-D layers were slower with gradients: weight gradients change their layout.
        return fast_layers(layers, channels_last=not torch.is_grad_enabled())

    def check_size(self, x: Tensor) -> None:
        """Raise ValueError unless `x` is (N, src_channels, H, W) with H, W multiples of `size_multiple`."""
        name, shape = type(self).__name__, tuple(x.shape)
        if x.dim() != 4:
            raise ValueError(f"images of {name} must be (N, {self.src_channels}, H, W), got {shape}")
        if shape[1] != self.src_channels:
            raise ValueError(
                f"{name} was made for {self.src_channels} bands, the image has {shape[1]}: "
                f"build the model with src_channels={shape[1]} (--num-channels {shape[1]})"
            )
        m = self.size_multiple
        if 0 in shape[2:] or shape[2] % m or shape[3] % m:
            possible = f"multiples of {m}" if m > 1 else "at least 1"
            raise ValueError(f"{name} cannot take {shape[2]} x {shape[3]} pixels: height and width must be {possible}")

    def _map_images(self, function: Callable[[Tensor], Tensor], x: Tensor, stride: int = 1) -> Tensor:
        """Apply `function` to a batch; outside training, to a few images at a time.

        In training the batch is not split: batch norm needs all of it, and autograd would keep every
        activation anyway.

        Args:
            function: maps (N, ...) to (N, ...).
            x: images or latents.
            stride: image height (or width) divided by that of `x`.
        """
        pixels = x.shape[-2] * x.shape[-1] * stride**2
        chunk = max(1, self.pixels_at_once.get(x.device.type, 1) // max(1, pixels))
        if self.training or torch.is_grad_enabled() or len(x) <= chunk:
            return function(x).contiguous()
        out = None
        for start in range(0, len(x), chunk):
            part = function(x[start : start + chunk])
            if out is None:
                out = part.new_empty((len(x), *part.shape[1:]))
            out[start : start + chunk] = part
        assert out is not None  # the batch is larger than a chunk, so it is not empty
        return out

    # -- CompressAI's contract ------------------------------------------------------------------

    def forward(self, x: Tensor) -> dict:
        """Reconstruct images (N, C, H, W) in [0, 1] as `{"x_hat": (N, C, H, W), "likelihoods": {name: (N, ...)}}`."""
        coded = self.latent_codec(self.encode(x))
        return {"x_hat": self.decode(coded["y_hat"]), "likelihoods": coded["likelihoods"]}

    @torch.no_grad()
    def compress(self, x: Tensor) -> dict:
        """Compress images (N, C, H, W) to `{"strings": [[bytes of image 0, ...], ...], "shape": (h, w)}`."""
        return self.latent_codec.compress(self.encode(x))

    @torch.no_grad()
    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> dict:
        """Decompress the output of `compress` to `{"x_hat": (N, C, H, W)}`.

        Args:
            strings: lists with one string per image.
            shape: rows and columns (h, w) of the latents.

        Raises:
            ValueError: the length of a string does not fit `shape`.
        """
        y_hat = self.latent_codec.decompress(strings, shape)["y_hat"]
        parameter = next(self.parameters())
        return {"x_hat": self.decode(y_hat.to(parameter.device, parameter.dtype))}

    def update(self, scale_table: Tensor | None = None, force: bool = False, update_quantiles: bool = False) -> bool:
        """Fill the tables of the range coder, as CompressAI does; by default with the scales of `SCALE_TABLE`."""
        return super().update(SCALE_TABLE if scale_table is None else scale_table, force, update_quantiles)
