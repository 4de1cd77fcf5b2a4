"""Weights of models: which model they belong to, and how they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from torch import Tensor

LATENT_CODEC = "latent_codec."
"""Prefix of the keys of the latent codec in a state dict."""
TABLES = {"_quantized_cdf", "_offset", "_cdf_length", "scale_table"}
"""Tables of the range coder in the state dict of an entropy model, whose sizes `update` chooses."""


class LoadableModel(CompressionModel):
    """A model that is loaded from published weights, or refuses them in one line.

    Attributes:
        src_channels: number of bands.
        verified: whether the architecture was confirmed against published code.
    """

    src_channels: int
    verified = True

    @property
    def has_entropy_model(self) -> bool:
        """Whether latents are quantized and coded by a learned distribution."""
        raise NotImplementedError

    def attach_entropy_model(self) -> None:
        """Give a model without an entropy model one."""
        raise NotImplementedError

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], src_channels: int = 202) -> Self:
        """Build a model whose width is that of `state_dict`, and load the weights.

        Args:
            state_dict: published keys, without `module.`.
            src_channels: number of bands, where the weights do not determine it.

        Raises:
            RuntimeError: the weights belong to another model.
        """
        raise NotImplementedError

    @classmethod
    def width_of(cls, state_dict: Mapping[str, Tensor], key: str, dim: int = 0) -> int:
        """Return the size of the tensor `key` along `dim`, for `from_state_dict`.

        Raises:
            RuntimeError: there is no such tensor: the weights belong to another model.
        """
        if key not in state_dict or state_dict[key].dim() <= dim:
            raise RuntimeError(
                f"these weights do not belong to a {cls.__name__}: no tensor {key} of {dim + 1} or more dimensions"
            )
        return state_dict[key].shape[dim]

    @classmethod
    def bands_of(cls, state_dict: Mapping[str, Tensor], key: str, src_channels: int | None, dim: int = 0) -> int:
        """Return the number of bands of the weights, the size of the tensor `key` along `dim`.

        Raises:
            RuntimeError: there is no such tensor: the weights belong to another model.
            ValueError: `src_channels` is another number.
        """
        in_weights = cls.width_of(state_dict, key, dim)
        if src_channels not in (None, in_weights):
            raise ValueError(f"these weights are for {in_weights} bands, not {src_channels}")
        return in_weights

    def translate_keys(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `state_dict` with this model's keys, for architectures that were published with several layouts."""
        return dict(state_dict)

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> tuple[list[str], list[str]]:
        """Load weights as `nn.Module.load_state_dict` does, with shorter errors.

        Weights with those of a `latent_codec` attach one to a model that has none. Tables of the range coder get the
        sizes that they have there.

        Raises:
            RuntimeError: one line with the first five missing, unexpected and mis-shaped keys and the count
                of the rest.
        """
        state_dict = self.translate_keys(state_dict)
        if not self.has_entropy_model and any(key.startswith(LATENT_CODEC) for key in state_dict):
            self.attach_entropy_model()
        _resize_tables(self, state_dict)
        problem = _mismatch(self, state_dict) if strict else None
        if problem:
            raise RuntimeError(problem)
        return torch.nn.Module.load_state_dict(self, state_dict, strict=strict, assign=assign)


def _resize_tables(model: LoadableModel, state_dict: Mapping[str, Tensor]) -> None:
    """Give the tables of the range coder the sizes that they have in `state_dict`."""
    for prefix, module in model.named_modules():
        if isinstance(module, EntropyModel):
            for name in TABLES & dict(module.named_buffers()).keys():
                saved = state_dict.get(f"{prefix}.{name}")
                if saved is not None:
                    setattr(module, name, torch.empty_like(getattr(module, name)).resize_(saved.shape))


def _mismatch(model: LoadableModel, state_dict: Mapping[str, Tensor]) -> str | None:
    """Describe in one line why weights do not fit a model; None if they fit."""
    own = model.state_dict()
    kinds = {
        "missing": [key for key in own if key not in state_dict],
        "unexpected": [key for key in state_dict if key not in own],
        "mis-shaped": [
            f"{key} {_shape(state_dict[key])} instead of {_shape(own[key])}"
            for key in own
            if key in state_dict and state_dict[key].shape != own[key].shape
        ],
    }
    problems = [f"{kind}: {_first_five(keys)}" for kind, keys in kinds.items() if keys]
    if not problems:
        return None
    name = type(model).__name__
    problems.insert(0, f"these weights do not belong to this {name} of {model.src_channels} bands")
    if not model.verified:
        problems.append(
            f"the architecture of {name} could not be confirmed against published code: "
            "the published file may hold another one"
        )
    return "; ".join(problems)


def _first_five(keys: list[str]) -> str:
    more = len(keys) - 5
    return ", ".join(keys[:5]) + (f" and {more} more" if more > 0 else "")


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.shape)) + ")"
