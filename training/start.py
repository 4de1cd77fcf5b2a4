"""The weights that a new run starts from: given ones, and what is found from training images."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from datasets.hyspecnet11k import HySpecNet11k
from models.base import HSICompressionModel
from models.weights import LATENT_CODEC, TABLES
from training.distributed import Process
from utils.checkpoint import load_weights, weights_of

MAX_IMAGES = 64  # from which a transform starts
IMAGES_OF_LATENTS = 16  # from which steps and densities start
FIRST_STEP = 0.25  # of latents of random weights, in their standard deviations
STEPS = tuple(2.0**-exponent for exponent in range(-2, 9))  # of latents of weights that reconstruct images


def load_start(model: HSICompressionModel, checkpoint: Mapping, path: Path) -> bool:
    """Load weights to start from.

    A model with an entropy model also takes weights without one, or with another one, and keeps its own. Tables of the
    range coder are dropped, as training makes them wrong.

    Args:
        model: with fresh weights.
        checkpoint: as `utils.checkpoint.load_checkpoint` returns it.
        path: its file, for messages.

    Returns:
        Whether the weights hold those of the model's entropy model.

    Raises:
        CheckpointError: the weights belong to another model.
    """
    given, own = dict(weights_of(checkpoint, path)), model.state_dict()
    for key in given:
        if key.rpartition(".")[2] in TABLES:
            given[key] = given[key].new_empty(0)
    codec = {key: tensor for key, tensor in own.items() if key.startswith(LATENT_CODEC)}
    is_complete = bool(codec) and all(key in given and given[key].shape == codec[key].shape for key in codec)
    if codec and not is_complete:
        given = {key: tensor for key, tensor in given.items() if not key.startswith(LATENT_CODEC)} | codec
    load_weights(model, given, path)
    return is_complete


@torch.no_grad()
def initialize(model: HSICompressionModel, args: argparse.Namespace, process: Process, is_fresh: bool) -> None:
    """Start weights from training images, in the main process, and copy them to the others.

    Args:
        model: on its device, with an entropy model.
        args: arguments of train.py.
        process: this process.
        is_fresh: whether its other weights are random, too.
    """
    if process.is_main:
        model.eval()
        reconstructs = model.start_from(_images(args, MAX_IMAGES)) if is_fresh else True
        x = torch.stack(list(_images(args, IMAGES_OF_LATENTS))).to(process.device)
        y = model.encode(x)
        step = _best_step(model, x, y, args.lmbda) if reconstructs else FIRST_STEP * float(y.std())
        model.start_latent_codec(y, step)
    for parameter in model.parameters():
        parameter.copy_(process.sum(parameter if process.is_main else torch.zeros_like(parameter)))


def _images(args: argparse.Namespace, count: int) -> Iterator[Tensor]:
    """Yield up to `count` training images (C, H, W), whole and evenly spaced over the split."""
    dataset = HySpecNet11k(args.dataset, args.mode, "train", num_channels=args.num_channels)
    count = min(count, len(dataset))
    for number in range(count):
        yield dataset[number * len(dataset) // count]


def _best_step(model: HSICompressionModel, x: Tensor, y: Tensor, lmbda: float) -> float:
    """Return the step, the same for all latents, with the least rate + lambda * 255^2 * MSE.

    The rate is estimated by normal distributions with the variance of each channel.
    """
    axes = [0, y.dim() - 2, y.dim() - 1]
    variances = y.float().var(axes)
    values = math.prod(y.shape) / variances.numel()  # of a channel
    costs = {}
    for step in (float(y.float().std()) * factor for factor in STEPS):
        error = (model.decode((y / step).round() * step) - x).square().mean()
        bits = values * 0.5 * torch.log2(1 + 2 * math.pi * math.e * variances / step**2).sum() / x.numel()
        costs[step] = float(bits + lmbda * 255**2 * error)
    return min(costs, key=costs.__getitem__)
