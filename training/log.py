"""The log of a run: a table of its epochs, and TensorBoard events."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from utils.plots import false_color, spectra_figure, stretch_limits
from utils.results import write_csv

METRICS = ("loss", "bpppc", "aux_loss", "mse", "psnr", "ssim", "sa", "images_per_second")
COLUMNS = (
    "epoch",
    "step",
    "seconds",
    "learning_rate",
    *(f"{split}_{metric}" for split in ("train", "val") for metric in METRICS),
)


class RunLog:
    """Write `metrics.csv`, one row for each epoch, and TensorBoard events into the folder of a run.

    Epochs are counted from 1.

    Args:
        run_dir: the folder.
        epochs_done: completed epochs. Entries of later ones are removed: a killed run may have logged epochs
            that its last checkpoint does not hold, and will log them again.
    """

    def __init__(self, run_dir: Path, epochs_done: int) -> None:
        self.path = run_dir / "metrics.csv"
        self._cut_back(epochs_done)
        # TensorBoard drops the entries of earlier event files for this step and later ones.
        self.writer = SummaryWriter(run_dir, purge_step=epochs_done + 1)
        self._original_shown = False

    def _cut_back(self, epochs_done: int) -> None:
        rows = []
        if self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                # A row that a kill cut short lacks its last columns.
                complete = (row for row in csv.DictReader(file) if row[COLUMNS[-1]])
                rows = [row for row in complete if int(row["epoch"]) <= epochs_done]
        write_csv(self.path, rows, COLUMNS)

    def log_epoch(
        self,
        epoch: int,
        step: int,
        seconds: float,
        learning_rate: float,
        train: Mapping[str, float],
        val: Mapping[str, float],
    ) -> None:
        """Write the metrics of one epoch.

        Args:
            epoch: its number.
            step: optimizer steps since the run began.
            seconds: time spent on these steps, without validation.
            learning_rate: learning rate of the epoch.
            train: mean metrics of the training steps, among `METRICS`; those that do not apply are absent.
            val: the same for the validation.
        """
        row = {"epoch": epoch, "step": step, "seconds": seconds, "learning_rate": learning_rate}
        self.writer.add_scalar("train/learning_rate", learning_rate, epoch)
        for split, metrics in (("train", train), ("val", val)):
            for name in METRICS:
                row[f"{split}_{name}"] = metrics.get(name, math.nan)
                if name in metrics:
                    self.writer.add_scalar(f"{split}/{name}", metrics[name], epoch)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)

    def log_image(self, epoch: int, x: Tensor, x_hat: Tensor) -> None:
        """Show a validation image (C, H, W) in false color, and the spectra of three of its pixels."""
        original, reconstruction = x.float().cpu().numpy(), x_hat.float().cpu().numpy()
        limits = stretch_limits(original)
        if not self._original_shown:  # it is the same image every time
            self.writer.add_image("val/original", false_color(original, limits=limits), epoch, dataformats="HWC")
            self._original_shown = True
        self.writer.add_image(
            "val/reconstruction", false_color(reconstruction, limits=limits), epoch, dataformats="HWC"
        )
        _, height, width = x.shape
        diagonal = sorted({(height * part // 4, width * part // 4) for part in (1, 2, 3)})
        self.writer.add_figure("val/spectra", spectra_figure(original, reconstruction, diagonal), epoch)

    def log_hyperparameters(self, arguments: Mapping, metrics: Mapping[str, float]) -> None:
        """Write the arguments of the run with its final metrics, for TensorBoard's table of runs."""
        values = {key: value if isinstance(value, int | float) else str(value) for key, value in arguments.items()}
        self.writer.add_hparams(values, {f"test/{key}": value for key, value in metrics.items()}, run_name=".")

    def close(self) -> None:
        """Write what is still buffered to the event file."""
        self.writer.close()
