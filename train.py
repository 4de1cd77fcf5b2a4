"""Train a model on one split of HySpecNet-11k, or of patches in its layout.

one GPU        python train.py -m cae1d --devices 0
faster         python train.py -m cae1d --devices 0 --precision bf16 --compile
a CPU          python train.py -m cae1d --devices cpu --transform random_16x16
several GPUs   python train.py -m sscnet --devices 0,2,5,7 --train-batch-size 8
two nodes      torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500
                   train.py -m sscnet --devices 0,1,2,3 --train-batch-size 16
resume         python train.py --checkpoint results/trains/RUN/last.pth.tar
from weights   python train.py -m cae1d --checkpoint results/weights/cae1d_8bpppc.pth.tar
for rate       python train.py -m ours_klt --lmbda 0.3 --transform randomcrop_64x64

A run writes last, best and final.pth.tar, settings.json, metrics.csv and TensorBoard events into
SAVE_DIR/<time>-<mode>-<model>-<loss>-<learning rate>/, with -lmbda<LMBDA> at the end if it is given. Ctrl-C ends it
after the current step; --checkpoint resumes it at that step.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from datasets.transforms import TRANSFORMS
from models import aliases, models, names_for_help
from training.progress import Totals
from utils.options import (
    LOSSES,
    PRECISIONS,
    SCHEDULERS,
    HelpFormatter,
    given,
    natural_number,
    non_negative_float,
    positive_float,
    positive_int,
    seed_number,
)
from utils.scripts import lasting_imports, run_script

if TYPE_CHECKING:
    from torch import Tensor

    from datasets.loading import ThreadLoader
    from training.run import Run
    from training.stepper import Stepper


class Stopped(Exception):
    """A signal ended the run after its current step."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=__doc__,
        formatter_class=HelpFormatter,
        epilog=names_for_help(),
    )
    for add_group in (add_basics, add_method, add_execution):
        add_group(parser.add_argument)
    return parser


def add_basics(add: Callable) -> None:
    """Add the arguments that every run has: devices, data, model, steps and folders."""
    add("--devices", default="0", help="cpu, or the numbers of the GPUs, such as 0 or 0,2,5,7")
    add("--train-batch-size", type=positive_int, default=2, help="patches per step, total over all devices")
    add("--val-batch-size", type=positive_int, default=4, help="patches validated at once, total over all devices")
    add("-n", "--num-workers", type=natural_number, default=4, help="threads that load data, per device")
    add("-d", "--dataset", default="./datasets/hyspecnet-11k/", help="folder that holds patches/ and splits/")
    add("--mode", default="easy", help="the splits to use: easy, hard, or another folder under splits/")
    add("-m", "--model", default="cae1d", choices=[*models, *aliases], metavar="MODEL", help="see the list below")
    add("-e", "--epochs", type=positive_int, default=500, help="largest number of epochs")
    add("-lr", "--learning-rate", type=positive_float, default=1e-4, help="learning rate of Adam")
    add("--save-dir", default="./results/trains/", help="each run gets a folder in it")
    add("--seed", type=seed_number, default=10587, help="seed of initial weights, shuffling and random transforms")
    add("--clip-max-norm", type=non_negative_float, default=1.0, help="largest norm of the gradient; 0: no clipping")
    add("--checkpoint", default=None, help="last or best.pth.tar of a run to resume, or weights to start from")


def add_method(add: Callable) -> None:
    """Add the arguments of the method: loss, rate, pixels to train on and learning rate."""
    add(
        "--loss",
        default="mse",
        choices=LOSSES,
        help="mean squared error, mean absolute error, spectral angle, or 1 - SSIM",
    )
    add(
        "--lmbda",
        type=positive_float,
        default=None,
        help="train for rate: the loss is estimated bits per value + LMBDA * 255^2 * MSE, or + LMBDA * another loss; "
        "a model without an entropy model gets one",
    )
    add("--aux-learning-rate", type=positive_float, default=1e-3, help="learning rate of the entropy models' quantiles")
    add("--freeze", default=None, choices=("encoder",), help="part of the model that keeps the weights of --checkpoint")
    add(
        "--transform",
        default="none",
        choices=TRANSFORMS,
        metavar="TRANSFORM",
        help="pixels of a patch to train on: none, all of them; random_NxN, a random pixel per cell of an N x N grid "
        "(1-D models); randomcrop_NxN or centercrop_NxN, N x N neighbors; N is 1, 2, 4, 8, 16, 32 or 64",
    )
    add("--num-channels", type=positive_int, default=202, help="number of bands")
    add(
        "--repeats",
        type=positive_int,
        default=1,
        help="how often an epoch shows each training patch, with a new random draw each time",
    )
    add(
        "--early-stopping",
        type=positive_int,
        default=None,
        metavar="PATIENCE",
        help="stop after this many epochs without a lower validation loss; None: train all epochs",
    )
    add(
        "--scheduler",
        default="none",
        choices=SCHEDULERS,
        help="plateau: halve the learning rate after 21 epochs without a lower validation loss; "
        "cosine: decrease it to 0 over all epochs",
    )


def add_execution(add: Callable) -> None:
    """Add the arguments of precision, speed and loading."""
    switch = argparse.BooleanOptionalAction
    add(
        "--precision",
        default="fp32",
        choices=PRECISIONS,
        help="autocast of the network; weights, loss and metrics stay float32; fp16 is for GPUs only",
    )
    add("--compile", action=switch, default=False, help="compile the network for training: the first steps are slow")
    add(
        "--deterministic",
        action=switch,
        default=False,
        help="bit-identical runs on the same GPU; slower, without TF32",
    )
    add("--prefetch", type=positive_int, default=2, help="batches that each thread loads ahead")
    add("--pin-memory", action=switch, default=True, help="load into pinned memory, which GPUs copy faster")
    add("--allow-overlap", action=switch, default=False, help="allow patches that are in two of train, val and test")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, by default the command line."""
    return build_parser().parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train with the arguments `argv`, by default the command line; return the exit status.

    It is 0, or 128 plus the number of the signal that stopped the run.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parse_args(argv)
    args.model = aliases.get(args.model, args.model)
    # Imported late, as it imports torch and --help must be quick.
    with lasting_imports():
        from training.run import launch_processes, open_run, read_start

    args, start = read_start(args, given(build_parser(), argv))
    status = launch_processes(args, __file__, argv)
    if status is not None:
        return status
    with open_run(args, start) as run:
        try:
            train(run)
        except Stopped:
            run.reporter.print_stop(run.state.progress, __file__)
            return 128 + (run.stop.signum or signal.SIGTERM)
    return 0


def train(run: Run) -> None:
    """Train until the run is done, then test the weights of its best epoch."""
    args, state, progress = run.args, run.state, run.state.progress
    stepper = run.make_stepper()
    while not progress.is_done(args.epochs, args.early_stopping):
        train_metrics = train_one_epoch(run, stepper)
        val_metrics, example = validate(run)
        learning_rate = state.optimizers.learning_rate
        is_best = state.end_epoch(val_metrics["loss"])
        run.reporter.log_epoch(progress, learning_rate, train_metrics, val_metrics, example)
        # best before last: killed in between, a run resumes from the old last and writes best again.
        if is_best:
            run.checkpoints.save("best", state)
        run.checkpoints.save("last", state)
        run.reporter.print_epoch(progress, train_metrics, val_metrics)

    run.process.leave()  # only the main process tests, and the others must not wait for it
    if run.process.is_main:
        final = run.checkpoints.save_final(state)
        run.reporter.print_trained(progress)
        run.reporter.finish(progress, test(run, run.test_loader) if run.test_loader else None, final)


def train_one_epoch(run: Run, stepper: Stepper) -> dict[str, float]:
    """Take the remaining steps of the current epoch and return its mean metrics.

    Raises:
        Stopped: a signal came; a checkpoint of the current step has been written.
        ProjectError: loss or gradient is not finite; the weights have not been updated.
    """
    args, state, progress = run.args, run.state, run.state.progress
    if args.scheduler == "cosine":
        state.optimizers.learning_rate = args.learning_rate * (1 + math.cos(math.pi * progress.epoch / args.epochs)) / 2
    state.network.train()
    started = time.monotonic() - progress.seconds
    title = f"train {progress.epoch + 1}/{args.epochs}"
    with run.reporter.bar(title, run.train_loader.num_images, progress.samples) as bar:

        def count(batches: list[Totals]) -> None:
            for batch in batches:
                progress.end_step(batch, time.monotonic() - started)
                bar.advance(round(batch.images), batch)

        for x, _size, weight in run.train_loader.batches(progress.epoch, progress.samples):
            count(stepper.step(x, weight))
            is_stopped = run.process.any(run.stop)
            if is_stopped or run.checkpoints.is_due:
                count(stepper.finish())
                run.checkpoints.save("last", state)
            if is_stopped:
                raise Stopped
        count(stepper.finish())
    return run.means(run.train_loader, progress.totals, progress.seconds)


def validate(run: Run) -> tuple[dict[str, float], tuple[Tensor, Tensor] | None]:
    """Return the mean metrics over the validation split, and an example: its first image and the reconstruction.

    Both are (C, H, W) on the CPU; the example is None in a process that has no image of the split.

    Raises:
        Stopped: a signal came; a checkpoint of the last training step has been written.
        ProjectError: the loss is not finite.
    """
    state, progress = run.state, run.state.progress
    state.model.eval()
    started = time.monotonic()
    totals, example = Totals(), None
    title = f"val {progress.epoch + 1}/{run.args.epochs}"
    with run.reporter.bar(title, run.val_loader.num_images) as bar:
        for x, size, _ in run.val_loader.batches(progress.epoch):
            outcome = state.forward(run.criterion, x)
            batch = run.measure(outcome, x)
            totals = totals.plus(batch)
            if example is None and len(x):
                example = x[0].cpu(), outcome.x_hat[0].float().cpu()
            bar.advance(size, batch)
            if run.process.any(run.stop):
                run.checkpoints.save("last", state)
                raise Stopped
    metrics = run.means(run.val_loader, totals, time.monotonic() - started)
    if not math.isfinite(metrics["loss"]):
        raise run.diverged("validation loss", metrics["loss"])
    return metrics, example


def test(run: Run, loader: ThreadLoader) -> dict[str, float]:
    """Return the mean metrics over the images of `loader`, coded to bytes and back.

    Raises:
        Stopped: a signal came.
    """

    def images() -> Iterator[Tensor]:
        with run.reporter.bar("test", len(loader.dataset)) as bar:
            for x in loader:
                if run.stop:
                    raise Stopped
                yield x
                bar.advance(len(x))

    return run.evaluate(images())


if __name__ == "__main__":
    run_script(main)
