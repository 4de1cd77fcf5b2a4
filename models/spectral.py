"""The base of the 1-D autoencoders, which code the spectrum of each pixel as a sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import chain, support
from models.base import HSICompressionModel
from models.chunks import map_spectra
from models.fused import fast_layers


class SpectralAutoencoder(HSICompressionModel):
    r"""Autoencoder of single spectra by 1-D convolutions over the bands.

    ::

        x (N, C, H, W) ─► rows (N*H*W, C) ─► zeros on the left, to a multiple of 2^halvings
          ─► (rows, 1, length) ─► encoder ─► (rows, 1, L) ─► y (N, L, H, W)

        y (N, L, H, W) ─► (rows, 1, L) ─► decoder ─► (rows, 1, length) ─► padding cut ─► x_hat

    Rows are independent, so they go through the network in chunks that bound the memory: one patch
    of 128 x 128 pixels is 16,384 sequences, and the first activation of all of them together would
    take 0.9 GB (two halvings) to 7.5 GB (five). The layers run through `models.fused`,
    or through `models.chain` on a GPU with tensor cores.

    Args:
        src_channels: number of bands C.
        halvings: how often the encoder halves the spectrum's length, from 2 to 5.
    """

    pixelwise = True

    # Sequences per chunk, by number of halvings and device. On a CPU the activations of a chunk take a few MB,
    # about the size of its caches: among 16 to 256 these were within a few percent of the fastest on two-core
    # processors with AVX2 and with AVX-512. On a GPU a training step takes 4 GB in float32, with torch's layers
    # and with the kernels of `models.chain`, which keep less per sequence.
    rows_per_chunk: Mapping[int, Mapping[str, int]] = {
        2: {"cpu": 128, "cuda": 4096, "cuda-chain": 32768},
        3: {"cpu": 128, "cuda": 2048, "cuda-chain": 16384},
        4: {"cpu": 64, "cuda": 1024, "cuda-chain": 8192},
        5: {"cpu": 32, "cuda": 512, "cuda-chain": 4096},
    }

    def __init__(self, src_channels: int = 202, halvings: int = 2) -> None:
        if halvings not in self.rows_per_chunk:
            raise ValueError(f"halvings must be one of {', '.join(map(str, self.rows_per_chunk))}, got {halvings}")
        latent_channels = math.ceil(src_channels / 2**halvings)
        super().__init__(src_channels, (latent_channels,))
        self.halvings = halvings
        self.chunk_sizes: Mapping[str, int] = self.rows_per_chunk[halvings]
        self.padding = latent_channels * 2**halvings - src_channels

    def _encode(self, x: Tensor) -> Tensor:
        if self._runs_as_chain(x):
            return self._run_chain(self.encoder, x, skip_in=self.padding)
        encoder, chunk = fast_layers(self.encoder), self.pixels_per_chunk(x.device)
        return map_spectra(lambda rows: encoder(F.pad(rows[:, None, None], (self.padding, 0)))[:, 0, 0], x, chunk)

    def _decode(self, y: Tensor) -> Tensor:
        if self._runs_as_chain(y):
            return self._run_chain(self.decoder, y, skip_out=self.padding)
        decoder, chunk = fast_layers(self.decoder), self.pixels_per_chunk(y.device)
        return map_spectra(lambda rows: decoder(rows[:, None, None])[:, 0, 0, self.padding :], y, chunk)

    def pixels_per_chunk(self, device: torch.device) -> int:
        """Return how many spectra go through the network at once on a device."""
        name = f"{device.type}-chain" if support.is_available(device) else device.type
        return self.chunk_sizes.get(name, self.chunk_sizes["cpu"])

    def set_pixels_per_chunk(self, device_type: str, pixels: int) -> None:
        """Replace the number in `chunk_sizes`, to resume a run that began with another table."""
        self.chunk_sizes = {**self.chunk_sizes, device_type: pixels, f"{device_type}-chain": pixels}

    @staticmethod
    def _runs_as_chain(x: Tensor) -> bool:
        return support.is_available(x.device) and chain.arithmetic_of(x) is not None and x.numel() > 0

    def _run_chain(self, layers: nn.Sequential, x: Tensor, skip_in: int = 0, skip_out: int = 0) -> Tensor:
        """Apply `layers` along axis 1 of (N, length, H, W); no spectrum affects the result of another."""
        n, length, height, width = x.shape
        layer_plan = chain.plan(layers, length + skip_in, skip_in, skip_out)
        parameters, arithmetic = list(layers.parameters()), chain.arithmetic_of(x)
        spectra = x.transpose(0, 1).reshape(length, -1)
        # With gradients all activations are kept anyway.
        chunk = spectra.shape[1] if torch.is_grad_enabled() else self.pixels_per_chunk(x.device)
        parts = [chain.run_chain(part, layer_plan, parameters, arithmetic) for part in spectra.split(chunk, dim=1)]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return out.reshape(-1, n, height, width).transpose(0, 1).contiguous()


def conv1d(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv1d:
    """Make a convolution that keeps the length: stride 1, symmetric zero padding, odd kernel size."""
    return nn.Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


def upsample() -> nn.Upsample:
    """Make a nearest up-sampling by 2."""
    return nn.Upsample(scale_factor=2, mode="nearest")
