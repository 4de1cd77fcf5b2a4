"""Checkpoint files: `torch.save` dictionaries named `.pth.tar` (they are no tar archives).

Training writes three of them into its run folder:

    last.pth.tar    all that an exact resume needs, at every epoch's end and every ten minutes
    best.pth.tar    the same, of the epoch with the lowest validation loss
    final.pth.tar   {"state_dict": weights of best}, as the published files
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from utils.errors import CheckpointError
from utils.files import atomic_write

# Where CompressAI's scripts and others keep the weights; a bare state dict has none of these keys.
_WEIGHT_KEYS = ("state_dict", "network", "model_state_dict")
# What DistributedDataParallel, DataParallel and torch.compile put before every key.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")


def save_checkpoint(state: Mapping, path: str | os.PathLike) -> None:
    """Write `state`, tensors and plain values only, so that a kill at any time leaves a whole file.

    Raises:
        OSError: the disk is full or the folder cannot be written; what was at `path` is still there.
    """
    # In memory first: on a full disk torch's own writer reports anything but the full disk.
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint onto the CPU, wherever it was saved, without running any code in it.

    Raises:
        CheckpointError: no such file, damaged, or holding more than tensors and plain values.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder: name a file in it, such as {path}/last.pth.tar") from None
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise CheckpointError(
                f"{path} holds more than tensors and plain values, and loading it could run code: refused; "
                "save its state_dict alone"
            ) from None
        raise CheckpointError(f"{path} is damaged or no checkpoint; fetch or write it again") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, ImportError, UnicodeDecodeError):
        raise CheckpointError(f"{path} is damaged or no checkpoint; fetch or write it again") from None
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint's dictionary")
    return dict(checkpoint)


def weights_of(checkpoint: Mapping, path: str | os.PathLike) -> dict[str, Tensor]:
    """The state dict in a loaded checkpoint, without the prefixes of wrappers.

    Accepts `state_dict`, CompressAI's `network`, `model_state_dict`, and a bare state dict.

    Raises:
        CheckpointError: there is none.
    """
    state_dict = next((checkpoint[key] for key in _WEIGHT_KEYS if key in checkpoint), checkpoint)
    if not isinstance(state_dict, Mapping) or not all(isinstance(v, Tensor) for v in state_dict.values()):
        raise CheckpointError(f"{path} holds no weights: none of {', '.join(_WEIGHT_KEYS)}, nor a bare state dict")
    if not state_dict:
        raise CheckpointError(f"{path} holds an empty state dict")
    return {_unwrapped(key): tensor for key, tensor in state_dict.items()}


def load_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """`weights_of` the checkpoint at `path`."""
    return weights_of(load_checkpoint(path), path)


def load_weights(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Load strictly into `model`.

    Raises:
        CheckpointError: the weights of another model; names the keys, in a line for each kind.
    """
    try:
        model.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _unwrapped(key: str) -> str:
    prefix = next((p for p in _WRAPPER_PREFIXES if key.startswith(p)), "")
    return _unwrapped(key.removeprefix(prefix)) if prefix else key
