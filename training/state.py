"""The state of a run: everything that training changes and an exact resume restores."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from models import support
from models.base import HSICompressionModel
from training.distributed import Process
from training.progress import Progress
from training.steps import Outcome, forward_and_loss, loss_and_gradients
from utils.checkpoint import load_weights, weights_of
from utils.environment import rng_state, set_rng_state

# --scheduler plateau, as in CompressAI's published trainings
PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 20  # epochs


class GuardedAdam(torch.optim.Adam):
    """Adam that skips a step if `found_inf` is 1, which the fused implementation reads."""

    found_inf: Tensor | None = None


class State:
    """Weights, optimizer, learning rate, scale of the loss, and position of a run.

    Args:
        args: arguments of train.py.
        model: a model with fresh weights, on the CPU.
        process: this process; the model is moved to its device.

    Attributes:
        model: the model on its device, for validation and for its weights.
        network: the module to call in training: `model`, compiled or wrapped for several processes. It has the
            same parameters.
        compiled_forward: `forward_and_loss`, compiled for the first batch size, on one GPU; else None.
        optimizer: Adam of all trained weights but the quantiles of entropy models.
        aux_optimizer: Adam of these quantiles, None without an entropy model.
        scheduler: the scheduler of `--scheduler plateau`, else None.
        scaler: scales the loss in fp16, does nothing in other precisions.
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
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if process.world_size > 1:
            device_ids = [self.device] if self.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.network, device_ids)
        for parameter in quantiles:
            parameter.requires_grad_()
        self.optimizer = GuardedAdam(self._trained, lr=args.learning_rate, fused=True)
        self.aux_optimizer = GuardedAdam(quantiles, lr=args.aux_learning_rate, fused=True) if quantiles else None
        is_gpu = self.device.type == "cuda"
        self._device_learning_rate = torch.zeros((), device=self.device) if is_gpu else None
        self.scheduler = None
        if args.scheduler == "plateau":
            self.scheduler = ReduceLROnPlateau(self.optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE)
        self.scaler = GradScaler(self.device.type, enabled=args.precision == "fp16")
        self.progress = Progress()

    @property
    def learning_rate(self) -> float:
        """The current learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    @property
    def scale(self) -> Tensor:
        """The current scale of the loss, float64 on the device; 1 where the loss is not scaled."""
        return self.scaler.scale(torch.ones((), dtype=torch.float64, device=self.device))

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
            "optimizer": self.optimizer.state_dict(),
            "aux_optimizer": self.aux_optimizer.state_dict() if self.aux_optimizer else None,
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": self.scaler.state_dict(),
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
        self._load_optimizer(checkpoint, flags)
        set_rng_state(checkpoint["rng"])

    def _load_optimizer(self, checkpoint: Mapping, flags: Mapping) -> None:
        for group in checkpoint["optimizer"]["param_groups"]:
            group["fused"] = True  # older runs had Adam's unfused implementation
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.aux_optimizer:
            self.aux_optimizer.load_state_dict(checkpoint["aux_optimizer"])
            if "aux_learning_rate" in flags:
                for group in self.aux_optimizer.param_groups:
                    group["lr"] = self.args.aux_learning_rate
        if checkpoint.get("scaler"):  # empty unless the run was in fp16, absent in older ones
            self.scaler.load_state_dict(checkpoint["scaler"])
        is_same_scheduler = self.args.scheduler == checkpoint["arguments"]["scheduler"]
        if self.scheduler and is_same_scheduler:
            self.scheduler.load_state_dict(checkpoint["scheduler"])
        if "learning_rate" in flags or not is_same_scheduler:
            self.learning_rate = self.args.learning_rate

    # -- the parts of a step --------------------------------------------------------------------

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad()
        if self.aux_optimizer:
            self.aux_optimizer.zero_grad()

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
            self.network, self.model, criterion, x, weight, self.scaler, self.args.precision, forward
        )
        if not self.aux_optimizer:
            return outcome
        aux_loss = self.model.aux_loss()
        aux_loss.backward()
        return outcome._replace(aux_loss=aux_loss.detach())

    @torch.no_grad()
    def forward(self, criterion: nn.Module, x: Tensor) -> Outcome:
        """Return what a batch (N, C, H, W) gives; N may be 0."""
        outcome = forward_and_loss(self.model, criterion, x, self.args.precision)
        return outcome._replace(aux_loss=self.model.aux_loss()) if self.aux_optimizer else outcome

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Scale the gradients to a norm of at most `max_norm` (0 does not clip); return the norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        return clip_grad_norm_(self._trained, max_norm or math.inf)

    def step(self, is_finite: Tensor) -> None:
        """Update the weights by the clipped gradients, without waiting for the device.

        In fp16 a step whose gradient overflows is skipped, and the scale of the loss is halved.

        Args:
            is_finite: boolean, whether loss and gradient are finite; if not, the weights stay as they are.
        """
        found_inf = (~is_finite).float()
        if not self.scaler.is_enabled():  # in fp16 the scaler checks the gradients
            self.optimizer.found_inf = found_inf
        with self._learning_rate_on_device():
            self.scaler.step(self.optimizer)
        if not self.scaler.is_enabled():
            self.optimizer.found_inf = None
        self.scaler.update()
        if self.aux_optimizer:
            self._step_aux(found_inf)

    def _step_aux(self, found_inf: Tensor) -> None:
        """Update the quantiles, which a CUDA graph does at the learning rate that they had when it was captured."""
        assert self.aux_optimizer is not None
        self.aux_optimizer.found_inf = found_inf
        for group in self.aux_optimizer.param_groups:
            group["capturable"] = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        self.aux_optimizer.step()
        for group in self.aux_optimizer.param_groups:
            group["capturable"] = False
        self.aux_optimizer.found_inf = None

    @contextmanager
    def _learning_rate_on_device(self) -> Iterator[None]:
        """Let Adam read the learning rate from the GPU: a CUDA graph would freeze a number of the host."""
        if self._device_learning_rate is None:
            yield
            return
        value, groups = self.learning_rate, self.optimizer.param_groups
        is_captured = torch.cuda.is_current_stream_capturing()
        for group in groups:
            group["lr"], group["capturable"] = self._device_learning_rate, is_captured
        try:
            yield
        finally:
            self.learning_rate = value
            for group in groups:
                group["capturable"] = False

    def send_learning_rate(self) -> None:
        """Copy the learning rate to where `step` reads it."""
        if self._device_learning_rate is not None:
            self._device_learning_rate.fill_(self.learning_rate)

    def end_epoch(self, val_loss: float) -> bool:
        """Count an epoch and adapt the learning rate; return whether its validation loss is the lowest."""
        if self.scheduler:
            self.scheduler.step(val_loss)
        return self.progress.end_epoch(val_loss)
