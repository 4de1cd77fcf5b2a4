"""The state of a run: everything that training changes and an exact resume restores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models import support
from models.base import HSICompressionModel
from training.distributed import Process
from training.optimizers import Optimizers
from training.progress import Progress
from training.steps import Outcome, forward_and_loss, loss_and_gradients
from utils.checkpoint import load_weights, weights_of
from utils.environment import rng_state, set_rng_state


class State:
    """Weights, optimizers and position of a run.

    Args:
        args: arguments of train.py.
        model: a model with fresh weights, on the CPU.
        process: this process; the model is moved to its device.

    Attributes:
        model: the model on its device, for validation and for its weights.
        network: the module to call in training: `model`, compiled or wrapped for several processes. It has the
            same parameters.
        compiled_forward: `forward_and_loss`, compiled for the first batch size, on one GPU; else None.
        optimizers: change the weights.
        progress: the position of the run.
    """

    def __init__(self, args: argparse.Namespace, model: HSICompressionModel, process: Process) -> None:
        self.args = args
        self.device = process.device
        if process.world_size > 1 and self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(self.device)
        # On one GPU the loss is compiled, too. The 1-D models have kernels of their own on GPUs.
        has_kernels = self.model.pixelwise and support.is_available(self.device)
        is_single = self.device.type == "cuda" and process.world_size == 1
        compiles = args.compile and not has_kernels
        # torch.compile turns a module into a module, whatever its annotation says.
        self.network = cast(nn.Module, torch.compile(self.model)) if compiles and not is_single else self.model
        self.compiled_forward = torch.compile(forward_and_loss, dynamic=False) if compiles and is_single else None
        self._compiled_shape: torch.Size | None = None
        quantiles = [parameter for name, parameter in self.model.named_parameters() if name.endswith(".quantiles")]
        for parameter in quantiles:  # their loss needs no data: processes need not average its gradients
            parameter.requires_grad_(False)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if process.world_size > 1:
            device_ids = [self.device] if self.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.network, device_ids)
        for parameter in quantiles:
            parameter.requires_grad_()
        self.optimizers = Optimizers(args, trained, quantiles, self.device)
        self.progress = Progress()

    @property
    def pixels_per_chunk(self) -> int | None:
        """Pixels that go through the model at once, which decides the order of sums; None for whole images."""
        return self.model.pixels_per_chunk(self.device)

    # -- saving and restoring -------------------------------------------------------------------

    def state_dict(self) -> dict:
        """Return all that an exact resume needs, in tensors and plain values."""
        return {
            "epoch": self.progress.epoch - 1,  # the last completed one, counted from 0 as in published runs
            "state_dict": self.model.state_dict(),
            "loss": self.progress.val_loss,
            **self.optimizers.state_dict(),
            "progress": self.progress.state_dict(),
            "rng": rng_state(),
            "arguments": vars(self.args),
            "device_type": self.device.type,
            "pixels_per_chunk": self.pixels_per_chunk,
        }

    def load(self, checkpoint: Mapping, path: Path, flags: Mapping) -> None:
        """Restore what `state_dict` returned.

        Args:
            checkpoint: as `utils.checkpoint.load_checkpoint` returns it.
            path: its file, for messages.
            flags: arguments given on the command line; a learning rate among them replaces the stored one.

        Raises:
            CheckpointError: the weights belong to another model.
        """
        load_weights(self.model, weights_of(checkpoint, path), path)
        self.progress = Progress(**checkpoint["progress"])
        # A run keeps its chunk size, whatever the model's table says now; another type of device has its own.
        if self.model.pixelwise and checkpoint.get("device_type") == self.device.type:
            self.model.set_pixels_per_chunk(self.device.type, checkpoint["pixels_per_chunk"])
        self.optimizers.load(checkpoint, flags)
        set_rng_state(checkpoint["rng"])

    # -- forward and backward --------------------------------------------------------------------

    def backward(self, criterion: nn.Module, x: Tensor, weight: float) -> Outcome:
        """Add the gradients of `weight` * loss and of the auxiliary loss to those of the parameters.

        See `loss_and_gradients`.
        """
        forward = forward_and_loss
        if self.compiled_forward:
            self._compiled_shape = self._compiled_shape or x.shape
            if x.shape == self._compiled_shape:  # a shorter last batch would be compiled again
                forward = self.compiled_forward
        outcome = loss_and_gradients(
            self.network, self.model, criterion, x, weight, self.optimizers.scaler, self.args.precision, forward
        )
        if not self.model.has_entropy_model:
            return outcome
        aux_loss = self.model.aux_loss()
        aux_loss.backward()
        return outcome._replace(aux_loss=aux_loss.detach())

    @torch.no_grad()
    def forward(self, criterion: nn.Module, x: Tensor) -> Outcome:
        """Return what a batch (N, C, H, W) gives; N may be 0."""
        outcome = forward_and_loss(self.model, criterion, x, self.args.precision)
        return outcome._replace(aux_loss=self.model.aux_loss()) if self.model.has_entropy_model else outcome

    def end_epoch(self, val_loss: float) -> bool:
        """Count an epoch and adapt the learning rate; return whether its validation loss is the lowest."""
        self.optimizers.end_epoch(val_loss)
        return self.progress.end_epoch(val_loss)
