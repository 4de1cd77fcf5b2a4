"""How the weights of a model start, and which of them are trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from models.latent_codecs import EntropyLatentCodec, FactorizedLatentCodec, LatentCodec
from models.weights import LoadableModel


class TrainableModel(LoadableModel):
    """A model that starts from training images, whose encoder can be frozen, and that can get an entropy model.

    Attributes:
        encoder: layers from images to latents.
        latent_shape: latent channels and, for 3-D models, latent bands.
        latent_codec: how latents become bytes.
        is_extended: whether `latent_codec` was attached to a model that has none of its own.
        is_encoder_frozen: whether `freeze_encoder` was called.
    """

    encoder: torch.nn.Sequential
    latent_shape: tuple[int, ...]
    latent_codec: LatentCodec
    is_extended = False
    is_encoder_frozen = False

    @property
    def has_entropy_model(self) -> bool:
        return isinstance(self.latent_codec, EntropyLatentCodec)

    def attach_entropy_model(self) -> None:
        """Let the range coder code the latents, by a learned density and a learned step for each latent channel."""
        self.latent_codec = FactorizedLatentCodec(self.latent_shape)
        self.is_extended = True

    def start_latent_codec(self, y: Tensor, step: float) -> None:
        """Start the entropy model from latents of training images and the first step of their quantization."""
        assert isinstance(self.latent_codec, EntropyLatentCodec)
        self.latent_codec.initialize(y, step)

    def start_from(self, images: Iterable[Tensor]) -> bool:
        """Start weights from training images (C, H, W); return whether the model now reconstructs images.

        Most models start at random instead.
        """
        return False

    def freeze_encoder(self) -> None:
        """Keep the encoder as it is in training, without stochastic depth or new statistics of batch norm."""
        self.is_encoder_frozen = True
        for parameter in self.encoder_parameters():
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.is_encoder_frozen and "encoder" in self._modules:
            self.encoder.eval()
        return self

    def encoder_parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters of the encoder."""
        return list(self.encoder.parameters())
