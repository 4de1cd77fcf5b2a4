"""Checkpoint files: dictionaries written by `torch.save`, named `.pth.tar` (they are not tar archives)."""

from __future__ import annotations

import argparse
import datetime
import io
import os
import pathlib
import pickle
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from utils.errors import CheckpointError
from utils.files import atomic_write

# Keys of the weights in checkpoints of CompressAI and others. A bare state dict has none of them.
_WEIGHT_KEYS = ("state_dict", "network", "model_state_dict", "model", "net")
# Weights of a part that other programs do not know, which final.pth.tar keeps out of the state dict.
_BESIDE = "latent_codec"
# DistributedDataParallel, DataParallel, torch.compile and modules of Lightning put these before every key.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")  # in numpy 1 and 2
# What training scripts save beside the weights, and torch refuses by default: plain values, whose making runs no code
# of the file.
_PLAIN_TYPES: list[Any] = [
    argparse.Namespace,
    SimpleNamespace,
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(pathlib.PurePosixPath, pathlib.PosixPath, pathlib.PureWindowsPath),
    (pathlib.PurePath, "pathlib.WindowsPath"),  # which Linux cannot make
    *((kind, f"pathlib._local.{kind.__name__}") for kind in (pathlib.PosixPath, pathlib.PurePosixPath)),  # Python 3.13
    (pathlib.PurePath, "pathlib._local.WindowsPath"),
    TorchVersion,
    np.ndarray,
    np.dtype,
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__ if name != "ObjectDType"),
    *((np.float64(0).__reduce__()[0], f"{module}.scalar") for module in _MULTIARRAY),
    *((np.empty(0).__reduce__()[0], f"{module}._reconstruct") for module in _MULTIARRAY),
]
# What torch says of objects that are neither tensors nor plain values.
_REFUSED = re.compile(r"Unsupported (global|class)|Trying to |Can only (?!append|extend)")


def save_checkpoint(state: Mapping, path: str | os.PathLike) -> None:
    """Write `state` atomically: a kill at any time leaves the whole old file or the whole new one.

    Args:
        state: tensors and plain values only.
        path: file to write.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is still there.
    """
    # Through memory, as torch's own file writer does not raise OSError on a full disk.
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint onto the CPU, whatever device it was saved from, without running code that it contains.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        with torch.serialization.safe_globals(_PLAIN_TYPES):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder: name a file in it, such as {path}/last.pth.tar") from None
    except pickle.UnpicklingError as error:
        if _REFUSED.search(str(error)):
            raise CheckpointError(_refusal(path, str(error))) from None
        raise CheckpointError(f"{path} is damaged or not a checkpoint; fetch or write it again") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, ImportError, UnicodeDecodeError):
        raise CheckpointError(f"{path} is damaged or not a checkpoint; fetch or write it again") from None
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint's dictionary")
    return dict(checkpoint)


def _refusal(path: str | os.PathLike, reason: str) -> str:
    """Return the message about a file that torch refuses for `reason`."""
    found = re.search(r"GLOBAL (\S+)|<class '(\S+)'>", reason)
    what = f" ({found[1] or found[2]})" if found else ""
    program = (
        f"import torch; c = torch.load({str(path)!r}, weights_only=False); "
        "torch.save(c.state_dict() if hasattr(c, 'state_dict') else c['state_dict'], 'weights.pth.tar')"
    )
    return (
        f"{path} holds more than tensors and plain values{what}: refused, as loading it runs any code that it holds; "
        f'if you trust its origin, save its weights alone by python -c "{program}"'
    )


def weights_of(checkpoint: Mapping, path: str | os.PathLike) -> dict[str, Tensor]:
    """Return the state dict in a loaded checkpoint, without the prefixes of wrappers.

    Weights beside it, under `latent_codec`, are added with this prefix.

    Args:
        checkpoint: holds the weights under one of `_WEIGHT_KEYS`, or is a bare state dict.
        path: its file, for the message.

    Raises:
        CheckpointError: it holds no weights.
    """
    held = [checkpoint[key] for key in _WEIGHT_KEYS if isinstance(checkpoint.get(key), Mapping)]
    state_dict = held[0] if held else checkpoint
    if not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise CheckpointError(f"{path} holds no weights: none of {', '.join(_WEIGHT_KEYS)}, nor a bare state dict")
    if not state_dict:
        raise CheckpointError(f"{path} holds an empty state dict")
    unwrapped = {_unwrapped(key): tensor for key, tensor in state_dict.items()}
    weights = unwrapped if len(unwrapped) == len(state_dict) else dict(state_dict)
    beside = checkpoint.get(_BESIDE)
    return weights | {f"{_BESIDE}.{key}": tensor for key, tensor in (beside or {}).items()} if held else weights


def load_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Return the state dict in the checkpoint at `path`; see `load_checkpoint` and `weights_of`."""
    return weights_of(load_checkpoint(path), path)


def load_weights(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Load weights into `model`, all of them and no others.

    Args:
        model: a model of any kind.
        state_dict: its weights.
        path: their file, for the message.

    Raises:
        CheckpointError: they are not finite, or belong to another model; then the message lists missing and unexpected
            keys, and wrong shapes.
    """
    wrong = [key for key, tensor in state_dict.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise CheckpointError(
            f"{path}: {len(wrong)} of its {len(state_dict)} tensors hold NaN or infinite values, such as {wrong[0]}: "
            "the training diverged; take an earlier checkpoint"
        )
    try:
        model.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _unwrapped(key: str) -> str:
    prefix = next((p for p in _WRAPPER_PREFIXES if key.startswith(p)), "")
    return _unwrapped(key.removeprefix(prefix)) if prefix else key
