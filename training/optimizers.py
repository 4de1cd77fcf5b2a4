"""Optimizers of a run: of weights and of the quantiles of entropy models, with learning rate and scale of the loss."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

# --scheduler plateau, as in CompressAI's published trainings
PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 20  # epochs


class GuardedAdam(torch.optim.Adam):
    """Adam that skips a step if `found_inf` is 1, which the fused implementation reads."""

    found_inf: Tensor | None = None


class Optimizers:
    """Change the weights of a run by their gradients, without waiting for the device.

    Args:
        args: arguments of train.py.
        trained: all trained weights but the quantiles of entropy models.
        quantiles: these; none without an entropy model.
        device: where they are.

    Attributes:
        optimizer: Adam of `trained`.
        aux_optimizer: Adam of `quantiles`, None without an entropy model.
        scheduler: the scheduler of `--scheduler plateau`, else None.
        scaler: scales the loss in fp16, does nothing in other precisions.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        trained: Sequence[nn.Parameter],
        quantiles: Sequence[nn.Parameter],
        device: torch.device,
    ) -> None:
        self._args, self._trained, self._device = args, trained, device
        self.optimizer = GuardedAdam(trained, lr=args.learning_rate, fused=True)
        self.aux_optimizer = GuardedAdam(quantiles, lr=args.aux_learning_rate, fused=True) if quantiles else None
        self._device_learning_rate = torch.zeros((), device=device) if device.type == "cuda" else None
        self.scheduler = None
        if args.scheduler == "plateau":
            self.scheduler = ReduceLROnPlateau(self.optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE)
        self.scaler = GradScaler(device.type, enabled=args.precision == "fp16")

    @property
    def learning_rate(self) -> float:
        """The current learning rate of the weights."""
        return self.optimizer.param_groups[0]["lr"]

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    @property
    def scale(self) -> Tensor:
        """The current scale of the loss, float64 on the device; 1 where the loss is not scaled."""
        return self.scaler.scale(torch.ones((), dtype=torch.float64, device=self._device))

    def state_dict(self) -> dict:
        """Return all that an exact resume needs, in tensors and plain values."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "aux_optimizer": self.aux_optimizer.state_dict() if self.aux_optimizer else None,
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": self.scaler.state_dict(),
        }

    def load(self, checkpoint: Mapping, flags: Mapping) -> None:
        """Restore what `state_dict` returned.

        Args:
            checkpoint: holds that, and the `arguments` of its run.
            flags: arguments given on the command line; learning rates among them replace the stored ones.
        """
        for group in checkpoint["optimizer"]["param_groups"]:
            group["fused"] = True  # older runs had Adam's unfused implementation
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.aux_optimizer:
            self.aux_optimizer.load_state_dict(checkpoint["aux_optimizer"])
            if "aux_learning_rate" in flags:
                for group in self.aux_optimizer.param_groups:
                    group["lr"] = self._args.aux_learning_rate
        if checkpoint.get("scaler"):  # empty unless the run was in fp16, absent in older ones
            self.scaler.load_state_dict(checkpoint["scaler"])
        is_same_scheduler = self._args.scheduler == checkpoint["arguments"]["scheduler"]
        if self.scheduler and is_same_scheduler:
            self.scheduler.load_state_dict(checkpoint["scheduler"])
        if "learning_rate" in flags or not is_same_scheduler:
            self.learning_rate = self._args.learning_rate

    # -- the parts of a step --------------------------------------------------------------------

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad()
        if self.aux_optimizer:
            self.aux_optimizer.zero_grad()

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Scale the gradients to a norm of at most `max_norm` (0 does not clip); return the norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        return clip_grad_norm_(self._trained, max_norm or math.inf)

    def step(self, is_finite: Tensor) -> None:
        """Update the weights by the clipped gradients.

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
            self._step_aux(self.aux_optimizer, found_inf)

    def _step_aux(self, optimizer: GuardedAdam, found_inf: Tensor) -> None:
        """Update the quantiles, which a CUDA graph does at the learning rate that they had when it was captured."""
        optimizer.found_inf = found_inf
        for group in optimizer.param_groups:
            group["capturable"] = self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        optimizer.step()
        for group in optimizer.param_groups:
            group["capturable"] = False
        optimizer.found_inf = None

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

    def end_epoch(self, val_loss: float) -> None:
        """Adapt the learning rate to a validation loss."""
        if self.scheduler:
            self.scheduler.step(val_loss)
