"""Refuse combinations of flags, model and data that cannot work, before anything is written."""

from __future__ import annotations

import argparse
import os
import shutil

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from datasets.hyspecnet11k import HySpecNet11k
from datasets.transforms import PixelTransform
from models.base import HSICompressionModel
from training.data import Splits
from training.distributed import Process, check_share
from utils.devices import check_precision
from utils.errors import UsageError
from utils.metrics import SSIM_MIN_SIZE


def check_run(args: argparse.Namespace, model: HSICompressionModel, process: Process, splits: Splits) -> None:
    """Refuse flags that do not fit each other, the model, the device or the data.

    Raises:
        UsageError: the message says what is wrong and what to do.
    """
    check_precision(args.precision, process.device, quiet=not process.is_main)
    compiler = (os.environ.get("CXX") or "g++").split()[0]
    if args.compile and not shutil.which(compiler):
        raise UsageError(f"--compile needs a C++ compiler, and there is no {compiler}: install one, or name it in CXX")
    check_share(args.train_batch_size, process.world_size, "--train-batch-size")
    check_share(args.val_batch_size, process.world_size, "--val-batch-size")
    _check_rate(args, model)
    _check_transform(args, model, splits.train)
    for split in filter(None, (splits.train, splits.val, splits.test)):
        _check_images(args, model, split)
    has_batch_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
    if process.world_size > 1 and process.device.type == "cpu" and has_batch_norm:
        raise UsageError(
            f"{args.model} has batch norm, which torch cannot synchronize on CPUs: train it with one process"
        )


def _check_rate(args: argparse.Namespace, model: HSICompressionModel) -> None:
    if args.freeze and args.checkpoint is None:
        raise UsageError(f"--freeze {args.freeze} keeps the weights of --checkpoint: give one")
    if model.has_entropy_model and args.lmbda is None:
        raise UsageError(f"{args.model} has an entropy model: give the weight of the distortion, such as --lmbda 0.3")
    if model.has_entropy_model and model.pixelwise and args.loss == "ssim":
        raise UsageError(
            f"--loss ssim compares neighbors, and {args.model} is trained for rate by pixels: use another --loss"
        )


def _check_transform(args: argparse.Namespace, model: HSICompressionModel, train: HySpecNet11k) -> None:
    transform = train.transform
    if not isinstance(transform, PixelTransform) or transform.keeps_neighbors:
        return
    breaks = f"--transform {args.transform} breaks the neighborhoods that"
    instead = f"use randomcrop_{transform.size}x{transform.size}"
    if not model.pixelwise:
        raise UsageError(f"{breaks} {args.model} codes: {instead}")
    if args.loss == "ssim":
        raise UsageError(f"{breaks} --loss ssim compares: {instead}")


def _check_images(args: argparse.Namespace, model: HSICompressionModel, split: HySpecNet11k) -> None:
    height, width = split.image_shape[1:]
    if args.loss == "ssim" and min(height, width) < SSIM_MIN_SIZE:
        raise UsageError(
            f"--loss ssim needs {SSIM_MIN_SIZE} pixels a side or more, "
            f"{split.split} images have {height} x {width}: use another --loss"
        )
    try:
        model.check_size(torch.empty(1, *split.image_shape, device="meta"))
    except ValueError as error:
        raise UsageError(f"{split.split} images: {error}") from None
