"""Train a model on one split of HySpecNet-11k, or of patches in its layout.

one GPU        python train.py -m cae1d --devices 0
faster         python train.py -m cae1d --devices 0 --precision bf16 --compile
a CPU          python train.py -m cae1d --devices cpu --transform random_16x16
several GPUs   python train.py -m sscnet --devices 0,2,5,7 --train-batch-size 8
two nodes      torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500
                   train.py -m sscnet --devices 0,1,2,3 --train-batch-size 16
go on          python train.py --checkpoint results/trains/RUN/last.pth.tar
from weights   python train.py -m cae1d --checkpoint results/weights/cae1d_8bpppc.pth.tar

A run writes last, best and final.pth.tar, settings.json, metrics.csv and TensorBoard events into
SAVE_DIR/<time>-<mode>-<model>-<loss>-<learning rate>/. Ctrl-C ends it after the current step; --checkpoint
goes on exactly there.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets.transforms import TRANSFORMS
from models import aliases, models, names_for_help
from utils.errors import ProjectError, UsageError, run_script
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

# torch and what needs it are imported where they are used: --help must not wait for them.

CHECKPOINT_INTERVAL = 600.0  # seconds between checkpoints within an epoch
PLATEAU = {"factor": 0.5, "patience": 20}  # --scheduler plateau, as in CompressAI's published trainings
# What a resumed run cannot change without being another run, or its epochs others.
IDENTITY = ("model", "num_channels", "loss", "seed", "repeats")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=__doc__,
        formatter_class=HelpFormatter,
        epilog=names_for_help(),
    )
    add = parser.add_argument
    add("--devices", default="0", help="cpu, or the numbers of the GPUs, such as 0 or 0,2,5,7")
    add("--train-batch-size", type=positive_int, default=2, help="patches in a step, over all devices together")
    add("--val-batch-size", type=positive_int, default=4, help="patches validated at once, over all devices together")
    add("-n", "--num-workers", type=natural_number, default=4, help="processes that load data, for each device")
    add("-d", "--dataset", default="./datasets/hyspecnet-11k/", help="folder that holds patches/ and splits/")
    add("--mode", default="easy", help="the splits to use: easy, hard, or another folder under splits/")
    add("-m", "--model", default="cae1d", choices=[*models, *aliases], metavar="MODEL", help="see the list below")
    add("-e", "--epochs", type=positive_int, default=500, help="epochs to train")
    add("-lr", "--learning-rate", type=positive_float, default=1e-4, help="learning rate of Adam")
    add("--save-dir", default="./results/trains/", help="folder for the runs' folders")
    add("--seed", type=seed_number, default=10587, help="for initial weights, shuffling and random transforms")
    add("--clip-max-norm", type=non_negative_float, default=1.0, help="largest norm of the gradient; 0 does not clip")
    add("--checkpoint", default=None, help="last or best.pth.tar of a run to go on with, or weights to start from")
    add("--loss", default="mse", choices=LOSSES, help="squared or absolute error, spectral angle, 1 - SSIM")
    add(
        "--transform",
        default="none",
        choices=TRANSFORMS,
        metavar="TRANSFORM",
        help="of training patches: none; random_NxN, a random pixel from each cell of an N x N grid (1-D models); "
        "randomcrop_NxN or centercrop_NxN, a window; N is 1, 2, 4, 8, 16, 32 or 64",
    )
    add("--num-channels", type=positive_int, default=202, help="bands of the patches")
    add(
        "--repeats",
        type=positive_int,
        default=1,
        help="how often an epoch shows each training patch, each time with a new random draw",
    )
    add(
        "--early-stopping",
        type=positive_int,
        default=None,
        metavar="PATIENCE",
        help="end after this many epochs without a lower validation loss; None trains all epochs",
    )
    add(
        "--scheduler",
        default="none",
        choices=SCHEDULERS,
        help="plateau: half the learning rate after 20 epochs without a lower validation loss; "
        "cosine: down to 0 over the epochs",
    )
    switch = argparse.BooleanOptionalAction
    add(
        "--precision",
        default="fp32",
        choices=PRECISIONS,
        help="of the network, under autocast; weights, loss and metrics stay float32; fp16 is for GPUs",
    )
    add("--compile", action=switch, default=False, help="compile the network for training: slow first steps")
    add(
        "--deterministic",
        action=switch,
        default=False,
        help="the same bits in every run on the same GPU; slower, among others without TF32",
    )
    add("--prefetch", type=positive_int, default=2, help="batches that each process loads ahead")
    add("--pin-memory", action=switch, default=True, help="load for GPUs into memory that copies faster")
    add("--persistent-workers", action=switch, default=True, help="keep the loading processes from epoch to epoch")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parse_args(argv)
    args.model = aliases.get(args.model, args.model)
    flags = given(build_parser(), argv)

    from training.distributed import check_share, is_worker, join, launch, leave
    from training.run_folder import SETTINGS
    from utils.checkpoint import load_checkpoint
    from utils.devices import parse_devices
    from utils.environment import configure_backends
    from utils.processes import end_children

    path = Path(args.checkpoint) if args.checkpoint else None
    checkpoint = load_checkpoint(path) if path else None
    run_dir = None
    if checkpoint and "progress" in checkpoint:
        run_dir = path.resolve().parent
        if not (run_dir / SETTINGS).is_file():
            raise UsageError(f"{path} is not in its run's folder (no {SETTINGS} beside it): put it back to go on")
        args = resume_args(args, flags, checkpoint["arguments"])

    devices = parse_devices(args.devices)
    if len(devices) > 1 and not is_worker():
        check_share(args.train_batch_size, len(devices), "--train-batch-size")
        check_share(args.val_batch_size, len(devices), "--val-batch-size")
        return launch(__file__, argv, devices)
    configure_backends(args.deterministic, tf32=not args.deterministic)
    process = join(devices)
    try:
        return Training(args, flags, process, checkpoint, path, run_dir).run()
    finally:
        end_children()
        leave()


def resume_args(args: argparse.Namespace, flags: Mapping, stored: Mapping) -> argparse.Namespace:
    """The arguments of a run that goes on: the stored ones, over them the flags given now.

    Raises:
        UsageError: a flag that would make it another run.
    """
    for name in IDENTITY:
        wanted = aliases.get(flags[name], flags[name]) if name in flags else stored[name]
        if wanted != stored[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} {wanted}: the run of {args.checkpoint} has {stored[name]}; "
                "leave the flag out to go on with it, or start a new run without --checkpoint"
            )
    fixed = {name: stored[name] for name in (*IDENTITY, "checkpoint")}
    return argparse.Namespace(**{**vars(args), **stored, **flags, **fixed})


# What is summed over the images of an epoch.
TOTALS = ("images", "loss", "mse", "psnr", "ssim", "sa")


@dataclass
class Progress:
    """Where a run stands. All of it goes into a checkpoint."""

    epoch: int = 0  # epochs completed
    step: int = 0  # steps done of the epoch after them
    samples: int = 0  # samples seen in these steps, over all devices
    global_step: int = 0
    seconds: float = 0.0  # spent on the epoch's steps
    total_seconds: float = 0.0  # spent on the steps of completed epochs
    totals: list[float] = field(default_factory=lambda: [0.0] * len(TOTALS))
    val_loss: float = math.inf  # of the last completed epoch
    best_loss: float = math.inf
    best_epoch: int = 0
    stale_epochs: int = 0  # since the validation loss was last lowered


class Stopped(Exception):
    """A signal asked for the end, and the step in which it came is done."""


class Training:
    """One run: set up, and then `run`.

    Args:
        args: of `parse_args`, of a run that goes on those of `resume_args`.
        flags: those of them that were given on the command line.
        process: a `training.distributed.Process`.
        checkpoint: to go on with, or with weights to start from; loaded from `path`.
        run_dir: of the run to go on with; None starts a new run.

    Raises:
        ProjectError: what cannot work is refused before anything is written.
    """

    def __init__(self, args, flags, process, checkpoint: dict | None, path: Path | None, run_dir: Path | None):
        from datasets import HySpecNet11k
        from datasets.transforms import get_transform
        from training.losses import losses
        from training.run_folder import refuse_finished
        from utils.checkpoint import load_weights, weights_of
        from utils.environment import seed_everything, set_rng_state
        from utils.files import stamped_folder

        self.args, self.process = args, process
        self.resumed = run_dir is not None
        self.progress = Progress(**checkpoint["progress"]) if self.resumed else Progress()
        if self.resumed:
            refuse_finished(run_dir, vars(args), checkpoint["arguments"], self.done())

        transform = get_transform(args.transform)
        source = {"root_dir": args.dataset, "mode": args.mode, "num_channels": args.num_channels}
        train_set = HySpecNet11k(split="train", transform=transform, seed=args.seed, repeats=args.repeats, **source)
        val_set = HySpecNet11k(split="val", **source)
        self.test_set = self.find_test_set(source)
        self.data = {
            split: {"sha256": dataset.fingerprint(), "shape": list(dataset.file_shape)}
            for split, dataset in (("train", train_set), ("val", val_set))
        }
        if self.resumed and checkpoint["data"] != self.data:
            raise UsageError(
                f"the {args.mode} split of {args.dataset} is not the one that the run of {path} was trained on"
            )

        seed_everything(args.seed)
        self.model = models[args.model](src_channels=args.num_channels)
        if self.resumed:
            self.keep_chunks(checkpoint)
        check_combination(args, self.model, process, transform, (train_set, val_set, self.test_set))
        if checkpoint:
            load_weights(self.model, weights_of(checkpoint, path), path)
        self.wrap_model()
        self.criterion = losses[args.loss]()
        self.make_optimizer(checkpoint if self.resumed else None, flags)
        if self.resumed:
            set_rng_state(checkpoint["rng"])

        self.train_loader = self.loader(train_set, args.train_batch_size, shuffle=True)
        self.val_loader = self.loader(val_set, args.val_batch_size, shuffle=False)
        self.metrics_of = {
            "train": shown_metrics(train_set.image_shape, transform is None or transform.keeps_neighbors),
            "val": shown_metrics(val_set.image_shape, True),
        }
        if process.is_main:
            name = f"{args.mode}-{args.model}-{args.loss}-{args.learning_rate}"
            self.run_dir = run_dir or stamped_folder(args.save_dir, name)

    # -- set-up ---------------------------------------------------------------------------------

    def find_test_set(self, source: Mapping):
        """The test split, for the end; None where the data set has none, said now and not after days."""
        from datasets import HySpecNet11k

        path = Path(source["root_dir"]) / "splits" / source["mode"] / "test.csv"
        if path.exists():
            return HySpecNet11k(split="test", **source)
        if self.process.is_main:
            print(f"{path}: no such file, the result will not be tested", file=sys.stderr)
        return None

    def keep_chunks(self, checkpoint: Mapping) -> None:
        """Go through pixels as the run did so far, whatever the table says now; another device has its own way."""
        if checkpoint.get("device_type") == self.process.device.type and self.model.pixelwise:
            self.model.set_pixels_per_chunk(checkpoint["device_type"], checkpoint["pixels_per_chunk"])

    def wrap_model(self) -> None:
        """Put the model on its device; `self.network` is what to call in training, with the same parameters."""
        import torch
        from torch.nn import SyncBatchNorm
        from torch.nn.parallel import DistributedDataParallel

        device, several = self.process.device, self.process.world_size > 1
        if several and device.type == "cuda":
            self.model = SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.network = self.model = self.model.to(device)
        if self.args.compile:
            self.network = torch.compile(self.model)
        if several:
            self.network = DistributedDataParallel(self.network, [device] if device.type == "cuda" else None)

    def make_optimizer(self, checkpoint: dict | None, flags: Mapping) -> None:
        """Adam, its scheduler and the scaler of fp16.

        Those of a run that goes on are in the state of its checkpoint, unless flags say otherwise.
        """
        import torch

        args = self.args
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=args.learning_rate, fused=True)
        self.scaler = torch.amp.GradScaler(self.process.device.type, enabled=args.precision == "fp16")
        self.scheduler = None
        if args.scheduler == "plateau":
            self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, **PLATEAU)
        if checkpoint:
            same_scheduler = args.scheduler == checkpoint["arguments"]["scheduler"]
            for group in checkpoint["optimizer"]["param_groups"]:
                group["fused"] = True  # older runs had Adam's other implementation
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            if checkpoint.get("scaler"):  # empty but in runs in fp16, absent in older ones
                self.scaler.load_state_dict(checkpoint["scaler"])
            if self.scheduler and same_scheduler:
                self.scheduler.load_state_dict(checkpoint["scheduler"])
            if "learning_rate" in flags or not same_scheduler:
                self.set_learning_rate(args.learning_rate)

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def loader(self, dataset, batch_size: int, shuffle: bool):
        """Batches of this process's shares."""
        import torch
        from torch.utils.data import DataLoader

        from training.sampler import EpochBatchSampler

        process = self.process
        sampler = EpochBatchSampler(
            len(dataset),
            batch_size,
            shuffle=shuffle,
            seed=self.args.seed,
            rank=process.rank,
            world_size=process.world_size,
        )
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            persistent_workers=self.args.persistent_workers and self.args.num_workers > 0,
            **self.loading(),
            # A generator of its own: the default one would move on with every epoch begun, and a
            # resumed run begins its epoch twice.
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def loading(self) -> dict:
        """How a `DataLoader` loads, whatever its batches are."""
        from utils.processes import ignore_signals

        args = self.args
        return {
            "num_workers": args.num_workers,
            "prefetch_factor": args.prefetch if args.num_workers else None,
            "pin_memory": args.pin_memory and self.process.device.type == "cuda",
            "worker_init_fn": ignore_signals,
        }

    # -- the loop -------------------------------------------------------------------------------

    def run(self) -> int:
        """Train until the run is done, or a signal comes; returns the exit status."""
        from training.distributed import leave
        from utils.processes import StopRequest

        if self.process.is_main:
            self.begin()
        self.saved_at = time.monotonic()
        with StopRequest() as self.stop:
            try:
                while not self.done():
                    train = self.train_epoch()
                    val = self.validate()
                    self.end_epoch(train, val)
                leave()  # the main process alone goes on, and the others must not wait for it
                if self.process.is_main:
                    self.finish()
            except Stopped:
                if self.process.is_main:
                    self.say_stopped()
                return 128 + (self.stop.signum or signal.SIGTERM)
        if self.process.is_main:
            self.log.close()
        return 0

    def done(self) -> bool:
        patience = self.args.early_stopping
        stopped_early = patience is not None and self.progress.stale_epochs >= patience
        return self.progress.epoch >= self.args.epochs or stopped_early

    def train_epoch(self) -> dict[str, float]:
        """Take the steps that remain of this epoch; its mean metrics."""
        import torch

        from training.steps import loss_and_gradients

        args, progress, process = self.args, self.progress, self.process
        if args.scheduler == "cosine":
            self.set_learning_rate(args.learning_rate * (1 + math.cos(math.pi * progress.epoch / args.epochs)) / 2)
        self.network.train()
        started = time.monotonic() - progress.seconds
        for x, size, bar in self.batches(self.train_loader, "train", progress.samples):
            self.optimizer.zero_grad()
            # DistributedDataParallel averages gradients over ranks, whose shares may differ in size.
            weight = len(x) * process.world_size / size
            loss, x_hat = loss_and_gradients(
                self.network, self.model, self.criterion, x, weight, self.scaler, args.precision
            )
            totals = process.sum(self.totals(loss, x_hat, x, bar))
            if not torch.isfinite(totals[2]):
                raise self.diverged("training loss", totals[2] / size)
            self.apply_gradients()

            stop, *sums = totals.tolist()
            progress.totals = [a + b for a, b in zip(progress.totals, sums, strict=True)]
            progress.step += 1
            progress.global_step += 1
            progress.samples += size
            progress.seconds = time.monotonic() - started
            if stop:
                if process.is_main:
                    self.save("last")
                raise Stopped
            if process.is_main and time.monotonic() - self.saved_at >= CHECKPOINT_INTERVAL:
                self.save("last")
        return self.means("train", progress.totals, progress.seconds)

    def apply_gradients(self) -> None:
        """Adam's step with the clipped gradient; in fp16 none where the gradient overflows, and then a lower scale.

        Raises:
            ProjectError: a gradient that is not finite, in fp16 by no scale. The weights are as before.
        """
        import torch
        from torch.nn.utils import clip_grad_norm_

        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(self.model.parameters(), self.args.clip_max_norm or math.inf)
        # With a finite loss: the step would spoil the weights unseen.
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise self.diverged("norm of the gradient", norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < 1:
            raise self.diverged("norm of the gradient", norm)

    def validate(self) -> dict[str, float]:
        """Mean metrics over the validation split."""
        import torch

        from utils.devices import autocast

        self.model.eval()
        started = time.monotonic()
        epoch_totals = [0.0] * len(TOTALS)
        self.example = None
        with torch.no_grad():
            for x, _size, bar in self.batches(self.val_loader, "val"):
                with autocast(self.args.precision, x.device):
                    x_hat = self.model(x)["x_hat"] if len(x) else x
                loss = self.criterion(x_hat, x) if len(x) else x.sum()
                stop, *sums = self.process.sum(self.totals(loss, x_hat, x, bar)).tolist()
                if stop:
                    if self.process.is_main:
                        self.save("last")
                    raise Stopped
                epoch_totals = [a + b for a, b in zip(epoch_totals, sums, strict=True)]
                if self.example is None and len(x):
                    self.example = x[0].cpu(), x_hat[0].float().cpu()
        means = self.means("val", epoch_totals, time.monotonic() - started)
        if not math.isfinite(means["loss"]):
            raise self.diverged("validation loss", means["loss"])
        return means

    def batches(self, loader, split: str, samples_seen: int = 0):
        """This rank's share of each batch that remains of the epoch, the batch's size over all ranks, the bar."""
        sampler = loader.batch_sampler
        sampler.set_position(self.progress.epoch, samples_seen)
        sizes = sampler.batch_sizes()
        with self.progress_bar(f"{split} {self.progress.epoch + 1}/{self.args.epochs}", sampler.num_samples) as bar:
            bar.update(samples_seen)
            # Without a batch left an iterator would still start its workers.
            for x, size in zip(loader if sizes else (), sizes, strict=True):
                yield x[: sampler.share(size)].to(self.process.device, non_blocking=True), size, bar
                bar.update(size)

    def progress_bar(self, description: str, num_images: int):
        from tqdm import tqdm

        hidden = not (self.process.is_main and sys.stdout.isatty())
        return tqdm(desc=description, total=num_images, unit="image", leave=False, disable=hidden)

    def totals(self, loss, x_hat, x, bar):
        """A tensor of this rank's sums over its images: whether a signal came, then `TOTALS`."""
        import torch

        from utils.metrics import image_metrics

        totals = torch.zeros(1 + len(TOTALS), dtype=torch.float64, device=x.device)
        totals[0] = bool(self.stop)
        if len(x):
            metrics = image_metrics(x_hat, x)
            totals[1], totals[2] = len(x), loss.double() * len(x)
            for index, name in enumerate(TOTALS[2:], start=3):
                if name in metrics:
                    totals[index] = metrics[name].sum()
            if not bar.disable:  # reading the values waits for the device
                bar.set_postfix(loss=f"{loss.item():.3e}", psnr=f"{metrics['psnr'].mean().item():.2f}", refresh=False)
        return totals

    def means(self, split: str, totals: Sequence[float], seconds: float) -> dict[str, float]:
        images = totals[0]
        means = {name: total / images for name, total in zip(TOTALS[1:], totals[1:], strict=True)}
        means["bpppc"] = self.model.bpppc
        means["images_per_second"] = images / seconds
        return {name: means[name] for name in self.metrics_of[split]}

    def end_epoch(self, train: Mapping[str, float], val: Mapping[str, float]) -> None:
        """Count the epoch, log it, save it."""
        progress = self.progress
        learning_rate = self.optimizer.param_groups[0]["lr"]
        if self.scheduler:
            self.scheduler.step(val["loss"])
        progress.val_loss = val["loss"]
        improved = val["loss"] < progress.best_loss
        progress.epoch += 1
        progress.total_seconds += progress.seconds
        progress.step = progress.samples = 0
        progress.seconds, progress.totals = 0.0, [0.0] * len(TOTALS)
        if improved:
            progress.best_loss, progress.best_epoch, progress.stale_epochs = val["loss"], progress.epoch, 0
        else:
            progress.stale_epochs += 1
        if not self.process.is_main:
            return
        self.log.log_epoch(progress.epoch, progress.global_step, progress.total_seconds, learning_rate, train, val)
        self.log.log_image(progress.epoch, *self.example)
        # best before last: killed in between, the run goes on from the old last and writes best again.
        if improved:
            self.save("best")
        self.save("last")
        print(
            f"epoch {progress.epoch}/{self.args.epochs}"
            f"  train: loss {train['loss']:.4e}, PSNR {train['psnr']:.2f} dB, {train['images_per_second']:.1f} images/s"
            f"  val: loss {val['loss']:.4e}, PSNR {val['psnr']:.2f} dB{'  (best)' if improved else ''}",
            flush=True,
        )

    # -- what the main process writes -----------------------------------------------------------

    def begin(self) -> None:
        """Settings and log."""
        from training.log import RunLog
        from training.run_folder import record_start, shown
        from utils.environment import device_name

        facts = {
            "model": self.args.model,
            "bpppc": self.model.bpppc,
            "compression_ratio": self.model.compression_ratio,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "data": self.data,
        }
        start = {
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "arguments": vars(self.args),
            "device": device_name(self.process.device),
            "processes": self.process.world_size,
            "pixels_per_chunk": self.pixels_per_chunk(),
        }
        record_start(self.run_dir, facts, start)
        self.log = RunLog(self.run_dir, self.progress.epoch)
        print(f"{'Going on with' if self.resumed else 'Training in'} {shown(self.run_dir)}", flush=True)

    def pixels_per_chunk(self) -> int | None:
        """What the order of sums depends on beside the arguments; None where images go as a whole."""
        return self.model.pixels_per_chunk(self.process.device) if self.model.pixelwise else None

    def save(self, name: str) -> None:
        """Write `name`.pth.tar."""
        from training.run_folder import shown
        from utils.checkpoint import save_checkpoint
        from utils.environment import rng_state

        state = {
            "epoch": self.progress.epoch - 1,  # the last completed one, counted from 0 as in published runs
            "state_dict": self.model.state_dict(),
            "loss": self.progress.val_loss,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
            "rng": rng_state(),
            "arguments": vars(self.args),
            "data": self.data,
            "device_type": self.process.device.type,
            "pixels_per_chunk": self.pixels_per_chunk(),
        }
        path = self.run_dir / f"{name}.pth.tar"
        try:
            save_checkpoint(state, path)
        except OSError as error:
            raise ProjectError(
                f"{shown(path)} cannot be written: {error.strerror}; make room and go on with {self.last_good()}"
            ) from None
        self.saved_at = time.monotonic()

    def diverged(self, what: str, value) -> ProjectError:
        return ProjectError(
            f"the {what} is {float(value)} in epoch {self.progress.epoch + 1}, step {self.progress.step + 1}; "
            f"the last good checkpoint is {self.last_good()}; try a lower --learning-rate"
        )

    def last_good(self) -> str:
        """The checkpoint to go on with, for a message; only the main process knows the folder."""
        from training.run_folder import shown

        last = self.run_dir / "last.pth.tar" if self.process.is_main else None
        return shown(last) if last and last.exists() else "none yet"

    def say_stopped(self) -> None:
        from training.run_folder import shown

        self.log.close()
        command = [Path(sys.executable), Path(__file__).resolve(), "--checkpoint", self.run_dir / "last.pth.tar"]
        print(
            f"stopped in epoch {self.progress.epoch + 1} after step {self.progress.step}; go on with\n"
            f"    {shlex.join(word if isinstance(word, str) else shown(word) for word in command)}",
            flush=True,
        )

    def finish(self) -> None:
        """Keep the best epoch's weights as final.pth.tar, test them once, and show the result."""
        from training.run_folder import record_end, shown
        from utils.checkpoint import load_checkpoint, load_weights, save_checkpoint
        from utils.results import format_table

        best, final = self.run_dir / "best.pth.tar", self.run_dir / "final.pth.tar"
        state_dict = load_checkpoint(best)["state_dict"]
        load_weights(self.model, state_dict, best)
        save_checkpoint({"state_dict": state_dict}, final)
        progress = self.progress
        print(f"trained {progress.epoch} epochs, the best was epoch {progress.best_epoch}", flush=True)
        metrics = self.test() if self.test_set else None
        if metrics:
            self.log.log_hyperparameters(vars(self.args), metrics)
            print(f"test split, weights of epoch {progress.best_epoch}:\n{format_table(metrics)}")
        record_end(self.run_dir, {"epochs": progress.epoch, "best_epoch": progress.best_epoch, "test": metrics})
        print(f"final weights: {shown(final)}", flush=True)

    def test(self) -> dict[str, float]:
        """Mean metrics of the model over the test split."""
        from torch.utils.data import DataLoader

        from utils.evaluation import average, evaluate

        loader = DataLoader(self.test_set, self.args.val_batch_size, **self.loading())
        self.model.eval()

        def batches():
            with self.progress_bar("test", len(self.test_set)) as bar:
                for x in loader:
                    if self.stop:
                        raise Stopped
                    yield x
                    bar.update(len(x))

        return average(evaluate(self.model, batches(), self.process.device, self.args.precision))


def check_combination(args, model, process, transform, datasets: Sequence) -> None:
    """Refuse what could not work.

    Args:
        datasets: for training, validation and testing; the last may be None.

    Raises:
        UsageError: flags that do not fit each other, or the data.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from training.distributed import check_share
    from utils.devices import check_precision
    from utils.metrics import SSIM_MIN_SIZE

    check_precision(args.precision, process.device, quiet=not process.is_main)
    compiler = (os.environ.get("CXX") or "g++").split()[0]
    if args.compile and not shutil.which(compiler):
        raise UsageError(f"--compile needs a C++ compiler, and there is no {compiler}: install one, or name it in CXX")
    check_share(args.train_batch_size, process.world_size, "--train-batch-size")
    check_share(args.val_batch_size, process.world_size, "--val-batch-size")
    if transform and not transform.keeps_neighbors:
        breaks = f"--transform {args.transform} breaks the neighborhoods that"
        instead = f"use randomcrop_{transform.size}x{transform.size}"
        if not model.pixelwise:
            raise UsageError(f"{breaks} {args.model} codes: {instead}")
        if args.loss == "ssim":
            raise UsageError(f"{breaks} --loss ssim compares: {instead}")
    for dataset in filter(None, datasets):
        height, width = dataset.image_shape[1:]
        if args.loss == "ssim" and min(height, width) < SSIM_MIN_SIZE:
            raise UsageError(
                f"--loss ssim needs {SSIM_MIN_SIZE} pixels a side, {dataset.split} images have {height} x {width}"
            )
        try:
            model.check_size(torch.empty(1, *dataset.image_shape, device="meta"))
        except ValueError as error:
            raise UsageError(f"{dataset.split} images: {error}") from None
    has_batch_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
    if process.world_size > 1 and process.device.type == "cpu" and has_batch_norm:
        raise UsageError(
            f"{args.model} has batch norm, which torch cannot synchronize on CPUs: train it with one process"
        )


def shown_metrics(image_shape: Sequence[int], keeps_neighbors: bool) -> tuple[str, ...]:
    """The metrics that mean something for such images: SSIM needs neighbors, and enough of them."""
    from training.log import METRICS
    from utils.metrics import SSIM_MIN_SIZE

    has_ssim = keeps_neighbors and min(image_shape[1:]) >= SSIM_MIN_SIZE
    return tuple(name for name in METRICS if name != "ssim" or has_ssim)


if __name__ == "__main__":
    run_script(main)
