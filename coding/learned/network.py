"""A model of the registry with its weights, for NumPy arrays: a cube to planes of latents and back."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from coding.base import CodingError
from coding.groups import in_batch
from models import models
from models.latent_codecs import HyperpriorLatentCodec
from models.weights import LATENT_CODEC, TABLES
from utils.checkpoint import load_state_dict, load_weights
from utils.devices import use_device
from utils.environment import configure_backends
from utils.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from models.base import HSICompressionModel

MAX_TILES_AT_ONCE = {"cpu": 1, "cuda": 8}
"""Most tiles in a batch, by device type. A CPU computes one image at a time anyway, see `models.base`."""
PIXELS_AT_ONCE = 8 * 128**2
"""Most pixels in a batch of several tiles."""

_SENSITIVITY_SIDE = 64  # pixels; sensitivities are estimated on a square of this side
_NUM_PROBES = 4

SAMPLE_WEIGHTS = Path(__file__).resolve().parents[2] / "results/weights/sample/cae1d.pth.tar"
TABLES_CAUTION = (
    "holds no tables of the range coder: they are made here, and another machine may make others, which do not decode "
    "the file: code with final.pth.tar of a run, which holds them"
)
SAMPLE_CAUTION = (
    "weights of the bundled sample, which were trained on one patch of dark water and never saw land: "
    "give others as --checkpoint, or give --max-error, which holds with any weights"
)


class Network:
    """Encoder and decoder of a model on one device, in float32.

    Args:
        name: name of the model in the registry.
        model: model with its weights; it is moved to `device`.
        device: device to run on.

    Attributes:
        sha256: hash of the weights, see `weights_sha256`.
        num_bands: number of bands of the cubes.
        channels: number of channels of the latents; several planes may belong to one.
        has_entropy_model: whether the model can code its latents, by `compress` and `decompress`.
        multiple: heights and widths are padded to a multiple of this.
    """

    def __init__(self, name: str, model: HSICompressionModel, device: torch.device | str = "cpu") -> None:
        self.name, self.device = name, torch.device(device)
        self.sha256 = weights_sha256(model.state_dict())
        self.model = model.float().eval().to(self.device)
        self.num_bands, self.multiple = model.src_channels, model.size_multiple
        self.channels, self.has_entropy_model = model.latent_shape[0], model.has_entropy_model

    def tiles_at_once(self, tile_size: int) -> int:
        """Return how many tiles of `tile_size` pixels in height and width go through the network in a batch."""
        return max(1, min(MAX_TILES_AT_ONCE[self.device.type], PIXELS_AT_ONCE // tile_size**2))

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Return the latents (planes, h, w), float32, of a cube (C, H, W) of float32 reflectances in [0, 1]."""
        height, width = x.shape[1:]
        rows, columns = -height % self.multiple, -width % self.multiple
        padded = np.pad(x, ((0, 0), (0, rows), (0, columns)), mode="edge") if rows or columns else x
        return in_batch(self._encode, padded)

    def decode(self, y: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return the cube (C, height, width), float32, of float32 latents (planes, h, w)."""
        return in_batch(self._decode, y)[:, :height, :width]

    @torch.no_grad()
    def _encode(self, x: np.ndarray) -> np.ndarray:
        """Return the latents (N, planes, h, w) of cubes (N, C, H, W) that need no padding."""
        y = self.model.encode(torch.from_numpy(x).to(self.device))
        return y.reshape(len(y), -1, *y.shape[-2:]).cpu().numpy()

    @torch.no_grad()
    def _decode(self, y: np.ndarray) -> np.ndarray:
        """Return the padded cubes (N, C, H, W) of latents (N, planes, h, w)."""
        latents = torch.from_numpy(y).reshape(len(y), *self.model.latent_shape, *y.shape[-2:])
        return self.model.decode(latents.to(self.device)).cpu().numpy()

    @property
    def num_strings(self) -> int:
        """Number of strings that `compress` returns."""
        return 2 if isinstance(self.model.latent_codec, HyperpriorLatentCodec) else 1

    @torch.no_grad()
    def compress(self, y: np.ndarray) -> list[bytes]:
        """Return latents (planes, h, w), float32, quantized and range coded by the model.

        Raises:
            CodingError: they are too large for the range coder.
        """
        latents = torch.from_numpy(y).reshape(1, *self.model.latent_shape, *y.shape[-2:])
        try:
            coded = self.model.latent_codec.compress(latents.to(self.device))
        except ValueError as error:
            raise CodingError(f"{self.name}: {error}") from None
        return [of_part[0] for of_part in coded["strings"]]

    @torch.no_grad()
    def decompress(self, strings: Sequence[bytes], height: int, width: int) -> np.ndarray:
        """Return the cube (C, height, width), float32, of the strings of `compress`."""
        _, *size = self.latent_size(height, width)
        y_hat = self.model.latent_codec.decompress([[string] for string in strings], (size[0], size[1]))["y_hat"]
        return self.decode(y_hat.reshape(-1, *size).cpu().numpy(), height, width)

    def sensitivity(self, y: np.ndarray) -> np.ndarray:
        """Return how strongly the reconstruction depends on the latents of each channel, float64 (channels,).

        This is the norm of the derivative of x_hat with respect to a latent, as a root mean square over the channel. It
        is estimated: for random signs e, the squared gradient of e x_hat has the sum of the squared derivatives as its
        expectation (Hutchinson, doi 10.1080/03610919008812866).

        Args:
            y: float32 latents (planes, h, w); the mean is taken over their upper left corner.
        """
        size = -(-_SENSITIVITY_SIDE // self.multiple)
        latents = torch.from_numpy(np.ascontiguousarray(y[:, :size, :size])).to(self.device)
        latents = latents.reshape(1, *self.model.latent_shape, *latents.shape[1:]).requires_grad_()
        squares = torch.zeros_like(latents, requires_grad=False)
        generator = torch.Generator().manual_seed(0)
        for _ in range(_NUM_PROBES):
            x_hat = self.model.decode(latents)
            signs = 2.0 * torch.randint(0, 2, x_hat.shape, generator=generator) - 1
            (gradient,) = torch.autograd.grad(x_hat, latents, signs.to(self.device))
            squares += gradient.square()
        return (squares / _NUM_PROBES).reshape(self.channels, -1).mean(dim=1).sqrt().cpu().numpy().astype(np.float64)

    def latent_size(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape (planes, h, w) of the latents of a tile of `height` x `width` pixels."""
        count = int(np.prod(self.model.latent_shape))
        return count, -(-height // self.multiple), -(-width // self.multiple)


def weights_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors, sorted by key: key, type and shape as a line of text, then the bytes.

    It depends on the weights only, not on what else a checkpoint holds.
    """
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        tensor = state_dict[key].detach().cpu().contiguous()
        shape = "x".join(map(str, tensor.shape))
        digest.update(f"{key} {str(tensor.dtype).removeprefix('torch.')} {shape}\n".encode())
        digest.update(tensor.numpy().astype(tensor.numpy().dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def load_network(name: str, checkpoint: str | None, num_channels: int, device: str) -> Network:
    """Load a model of the registry with the weights of a file; a process that codes many scenes loads it once.

    Args:
        name: name of the model.
        checkpoint: the file; None for the bundled sample weights.
        num_channels: number of bands that the model takes.
        device: "cpu", or the number of a GPU.

    Raises:
        UsageError: the sample weights are not of this model, or there is no such device.
        CheckpointError: the file holds no weights of the model.
    """
    path: str | Path = SAMPLE_WEIGHTS if checkpoint is None else checkpoint
    if checkpoint is None and (name, num_channels) != ("cae1d", 202):
        raise UsageError(
            f"--checkpoint is needed: sample weights are for cae1d with 202 bands, not {name} with {num_channels}"
        )
    state = Path(path).stat() if Path(path).is_file() else None
    return _load_network(name, path, num_channels, device, state and (state.st_mtime_ns, state.st_size))


@functools.lru_cache(maxsize=1)
def _load_network(
    name: str, path: str | Path, num_channels: int, device: str, _state: tuple[int, int] | None
) -> Network:
    # No TF32: a file may be decoded on a device that computes in float32.
    configure_backends(deterministic=False, tf32=False)
    used = use_device(device, "--device")
    state_dict = load_state_dict(path)
    model = models[name](src_channels=num_channels)
    load_weights(model, state_dict, path)
    if model.update(update_quantiles=True):
        print(f"note: {path} {TABLES_CAUTION}", file=sys.stderr)
    return Network(name, model, used)


def recognize(checkpoint: str, num_channels: int) -> str:
    """Return the name of the model whose weights a file holds, recognized by their keys and shapes.

    Raises:
        CheckpointError: the weights fit no model of `num_channels` bands, or several.
    """
    given = _shapes(load_state_dict(checkpoint))
    plain = {key: shape for key, shape in given.items() if not key.startswith(LATENT_CODEC)}
    found = []
    for name, factory in models.items():
        try:
            with torch.device("meta"):
                own = factory(src_channels=num_channels).state_dict()
        except ValueError:  # no such model of so few bands
            continue
        if _shapes(own) in (given, plain):
            found.append(name)
    if len(found) != 1:
        whose = f"weights of {' or '.join(found)}" if found else f"weights of no model of {num_channels} bands"
        raise CheckpointError(f"{checkpoint}: {whose}: name the model, as MODEL=PATH")
    return found[0]


def _shapes(state_dict: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shapes of the weights, without tables of the range coder, whose sizes vary."""
    return {key: tensor.shape for key, tensor in state_dict.items() if key.rpartition(".")[2] not in TABLES}
