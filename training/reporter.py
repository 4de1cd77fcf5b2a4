"""Print, draw and log the progress of a run, in the main process alone."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from training.log import RunLog
from training.progress import Progress, Totals
from training.run_folder import record_end, shown
from utils.files import name_in_errors
from utils.results import format_table


class Bar(tqdm):
    """A progress bar that counts images."""

    def advance(self, images: int, batch: Totals | None = None) -> None:
        """Count `images`, and show the mean metrics of their `batch`."""
        if batch and not self.disable:
            means = batch.means()
            shown = {"loss": f"{means['loss']:.3e}", "psnr": f"{means['psnr']:.2f}"}
            if means["bpppc"]:
                shown["bpppc"] = f"{means['bpppc']:.4f}"
            self.set_postfix(shown, refresh=False)
        self.update(images)


class SilentReporter:
    """The reporter of all processes except the main one: it prints and writes nothing."""

    def bar(self, title: str, images: int, done: int = 0) -> Bar:
        """Return a progress bar.

        Args:
            title: text before the bar.
            images: number of images of the full bar.
            done: images that are done already.
        """
        return Bar(desc=title, total=images, initial=done, unit="image", leave=False, disable=True)

    def log_epoch(
        self,
        progress: Progress,
        learning_rate: float,
        train: Mapping,
        val: Mapping,
        example: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Log a completed epoch.

        Args:
            progress: position after the epoch.
            learning_rate: learning rate of the epoch.
            train: mean metrics of its training steps.
            val: mean metrics of the validation after it.
            example: a validation image and its reconstruction, (C, H, W) on the CPU; None shows none.
        """

    def print_epoch(self, progress: Progress, train: Mapping, val: Mapping) -> None:
        """Print a completed and saved epoch."""

    def print_stop(self, progress: Progress, script: str) -> None:
        """Print the command that resumes a stopped run by `script`."""

    def print_trained(self, progress: Progress) -> None:
        """Print that all epochs are completed."""

    def finish(self, progress: Progress, metrics: Mapping[str, float] | None, final: Path) -> None:
        """Record and print the result of the run.

        Args:
            progress: position at the end.
            metrics: mean metrics of the best epoch's weights over the test split; None if there is no such split.
            final: the file with these weights.
        """

    def close(self) -> None:
        """Write what is still buffered."""


class Reporter(SilentReporter):
    """The reporter of the main process.

    Args:
        args: arguments of train.py.
        run_dir: folder of the run.
        epochs_done: completed epochs; log entries of later ones are removed.
    """

    def __init__(self, args: argparse.Namespace, run_dir: Path, epochs_done: int) -> None:
        self.args = args
        self.run_dir = run_dir
        self.log = RunLog(run_dir, epochs_done)

    def bar(self, title: str, images: int, done: int = 0) -> Bar:
        """Return a progress bar, hidden unless stdout is a terminal."""
        hidden = not sys.stdout.isatty()
        return Bar(desc=title, total=images, initial=done, unit="image", leave=False, disable=hidden)

    def log_epoch(
        self,
        progress: Progress,
        learning_rate: float,
        train: Mapping,
        val: Mapping,
        example: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Write a row of metrics.csv and TensorBoard events."""
        epoch, step, seconds = progress.epoch, progress.global_step, progress.total_seconds
        with name_in_errors(self.run_dir):
            self.log.log_epoch(epoch, step, seconds, learning_rate, train, val)
            if example:
                self.log.log_image(epoch, *example)

    def print_epoch(self, progress: Progress, train: Mapping, val: Mapping) -> None:
        """Print the losses of an epoch in one line."""
        best = "  (best)" if progress.best_epoch == progress.epoch else ""
        rate = f", estimated {val['bpppc']:.4f} bpppc" if "aux_loss" in val else ""
        print(
            f"epoch {progress.epoch}/{self.args.epochs}"
            f"  train: loss {train['loss']:.4e}, PSNR {train['psnr']:.2f} dB, {train['images_per_second']:.1f} images/s"
            f"  val: loss {val['loss']:.4e}, PSNR {val['psnr']:.2f} dB{rate}{best}",
            flush=True,
        )

    def print_stop(self, progress: Progress, script: str) -> None:
        """Print where the run stopped and the command that resumes it."""
        paths = [shown(Path(sys.executable)), shown(Path(script).resolve())]
        command = [*paths, "--checkpoint", shown(self.run_dir / "last.pth.tar")]
        print(
            f"stopped in epoch {progress.epoch + 1} after step {progress.step}; resume with\n    {shlex.join(command)}",
            flush=True,
        )

    def print_trained(self, progress: Progress) -> None:
        print(f"trained {progress.epoch} epochs, the best was epoch {progress.best_epoch}", flush=True)

    def finish(self, progress: Progress, metrics: Mapping[str, float] | None, final: Path) -> None:
        if metrics:
            with name_in_errors(self.run_dir):
                self.log.log_hyperparameters(vars(self.args), metrics)
            print(f"test split, weights of epoch {progress.best_epoch}:\n{format_table(metrics)}")
        record_end(self.run_dir, {"epochs": progress.epoch, "best_epoch": progress.best_epoch, "test": metrics})
        print(f"final weights: {shown(final)}", flush=True)

    def close(self) -> None:
        """Write the TensorBoard events that are still buffered."""
        with name_in_errors(self.run_dir):
            self.log.close()
