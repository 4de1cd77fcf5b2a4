"""A model's latents stored as float32, as published rates count them."""

from __future__ import annotations

import numpy as np

from coding.base import Codec, CodingError, DamagedError, to_dtype
from coding.learned.network import Network


class LatentCodec(Codec):
    """Codec that stores the latents of a network as float32, without a quantizer or an entropy coder.

    Args:
        network: a model with its weights.
        dtype: type of the samples.
        scale: sample value of reflectance 1.0.
    """

    clips_to_scale = True

    def __init__(self, network: Network, dtype: str, scale: float) -> None:
        self.network, self.dtype, self.scale = network, dtype, scale

    def encode(self, cube: np.ndarray, valid: np.ndarray) -> bytes:
        if len(cube) != self.network.num_bands:
            raise CodingError(f"{self.network.name} takes {self.network.num_bands} bands, got {len(cube)}")
        x = np.clip(cube.astype(np.float32) / np.float32(self.scale), 0, 1)
        return self.network.encode(x).astype("<f4").tobytes()

    def decode(self, data: bytes, valid: np.ndarray) -> np.ndarray:
        shape = self.network.latent_size(*valid.shape[1:])
        if len(data) != 4 * int(np.prod(shape)):
            raise DamagedError(f"{self.network.name} needs {4 * int(np.prod(shape))} bytes of latents, got {len(data)}")
        y = np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)
        return to_dtype(self.network.decode(y, *valid.shape[1:]) * np.float32(self.scale), self.dtype)
