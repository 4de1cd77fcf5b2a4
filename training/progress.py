"""The position of a run and the sums behind its mean metrics. Imports no torch."""

from __future__ import annotations

import math
import operator
from dataclasses import asdict, dataclass, field
from typing import NamedTuple


class Totals(NamedTuple):
    """Sums of metrics over images, and over all processes.

    Attributes:
        images: number of images.
        loss: sum of the training loss.
        mse, psnr, ssim, sa: sums of the metrics of `utils.metrics.image_metrics`; 0 for one that does not apply.
        bpppc, aux_loss: sums of the estimated rate and of the auxiliary loss; 0 without an entropy model.
    """

    images: float = 0.0
    loss: float = 0.0
    mse: float = 0.0
    psnr: float = 0.0
    ssim: float = 0.0
    sa: float = 0.0
    bpppc: float = 0.0
    aux_loss: float = 0.0

    def plus(self, other: Totals) -> Totals:
        """Return the sums over the images of both."""
        return Totals(*map(operator.add, self, other))

    def means(self) -> dict[str, float]:
        """Return the mean of every metric over the images."""
        return {name: total / self.images for name, total in self._asdict().items() if name != "images"}


@dataclass
class Progress:
    """The position of a run. All of it goes into a checkpoint.

    Attributes:
        epoch: completed epochs.
        step: completed steps of the current epoch.
        samples: samples seen in these steps, over all processes.
        global_step: completed steps of the run.
        seconds: time spent on the steps of the current epoch.
        total_seconds: time spent on the steps of completed epochs.
        totals: sums over the images of the current epoch.
        val_loss: validation loss of the last completed epoch.
        best_loss: lowest validation loss.
        best_epoch: epoch of the lowest validation loss, counted from 1; 0 if there is none.
        stale_epochs: epochs since the lowest validation loss.
    """

    epoch: int = 0
    step: int = 0
    samples: int = 0
    global_step: int = 0
    seconds: float = 0.0
    total_seconds: float = 0.0
    totals: Totals = field(default_factory=Totals)
    val_loss: float = math.inf
    best_loss: float = math.inf
    best_epoch: int = 0
    stale_epochs: int = 0

    def __post_init__(self) -> None:
        self.totals = Totals(*self.totals)

    def state_dict(self) -> dict:
        """Return the position in plain values; `Progress(**state_dict)` restores it."""
        return {**asdict(self), "totals": list(self.totals)}

    def is_done(self, epochs: int, patience: int | None) -> bool:
        """Return whether `epochs` are completed, or the last `patience` did not lower the validation loss."""
        return self.epoch >= epochs or (patience is not None and self.stale_epochs >= patience)

    def end_step(self, batch: Totals, seconds: float) -> None:
        """Count a training step.

        Args:
            batch: sums over its images.
            seconds: time spent on the steps of the epoch so far.
        """
        self.step += 1
        self.global_step += 1
        self.samples += round(batch.images)
        self.seconds = seconds
        self.totals = self.totals.plus(batch)

    def end_epoch(self, val_loss: float) -> bool:
        """Count an epoch; return whether its validation loss is the lowest of the run."""
        self.epoch += 1
        self.total_seconds += self.seconds
        self.step, self.samples, self.seconds, self.totals = 0, 0, 0.0, Totals()
        self.val_loss = val_loss
        self.stale_epochs += 1
        is_best = val_loss < self.best_loss
        if is_best:
            self.best_loss, self.best_epoch, self.stale_epochs = val_loss, self.epoch, 0
        return is_best
