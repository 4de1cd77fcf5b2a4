"""Train a model on one split of HySpecNet-11k, or of patches in its layout.

one GPU        python train.py -m cae1d --devices 0
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
import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from datasets.transforms import TRANSFORMS
from models import aliases, models, unverified
from utils.errors import ProjectError, UsageError, run_script
from utils.options import (
    LOSSES,
    SCHEDULERS,
    HelpFormatter,
    given,
    natural_number,
    non_negative_float,
    positive_float,
    positive_int,
)

# torch and what needs it are imported where they are used: --help must not wait for them.

CHECKPOINT_INTERVAL = 600.0  # seconds between checkpoints within an epoch
PLATEAU = {"factor": 0.5, "patience": 20}  # --scheduler plateau, as in CompressAI's published trainings
# What a resumed run cannot change without being another run.
IDENTITY = {"model": "-m/--model", "num_channels": "--num-channels", "loss": "--loss", "seed": "--seed"}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=__doc__,
        formatter_class=HelpFormatter,
        epilog=f"models: {', '.join(models)}\n"
        f"by the names of their weight files: {', '.join(aliases)}\n"
        f"architecture not confirmed against published code: {', '.join(unverified)}",
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
    add("--seed", type=natural_number, default=10587, help="for initial weights, shuffling and random transforms")
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
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parse_args(argv)
    args.model = aliases.get(args.model, args.model)

    from utils.checkpoint import load_checkpoint
    from utils.distributed import is_worker, join, launch, leave, parse_devices
    from utils.signals import end_children

    path = Path(args.checkpoint) if args.checkpoint else None
    checkpoint = load_checkpoint(path) if path else None
    run_dir = None
    if checkpoint and "progress" in checkpoint:
        run_dir = path.resolve().parent
        if not (run_dir / "settings.json").is_file():
            raise UsageError(f"{path} is not in its run's folder (no settings.json beside it): put it back to go on")
        args = resume_args(args, given(build_parser(), argv), checkpoint["arguments"])

    devices = parse_devices(args.devices)
    if len(devices) > 1 and not is_worker():
        return launch(__file__, argv, len(devices))
    process = join(devices)
    try:
        return Training(args, process, checkpoint, path, run_dir).run()
    finally:
        end_children()
        leave(process)


def resume_args(args: argparse.Namespace, flags: Mapping, stored: Mapping) -> argparse.Namespace:
    """The arguments of a run that goes on: the stored ones, over them the flags given now.

    Raises:
        UsageError: a flag that would make it another run.
    """
    for name, flag in IDENTITY.items():
        wanted = aliases.get(flags[name], flags[name]) if name in flags else stored[name]
        if wanted != stored[name]:
            raise UsageError(
                f"{flag} {wanted}: the run of {args.checkpoint} has {stored[name]}; leave the flag out to go on "
                "with it, or give --checkpoint weights alone (final.pth.tar) to start a new run"
            )
    fixed = {name: stored[name] for name in (*IDENTITY, "checkpoint")}
    return argparse.Namespace(**{**vars(args), **stored, **flags, **fixed})


@dataclass
class Progress:
    """Where a run stands. All of it goes into a checkpoint."""

    epoch: int = 0  # epochs completed
    step: int = 0  # steps done of the epoch after them
    samples: int = 0  # samples seen in these steps, over all devices
    global_step: int = 0
    seconds: float = 0.0  # spent on the epoch's steps
    totals: list[float] = field(default_factory=lambda: [0.0] * len(TOTALS))
    val_loss: float = math.inf  # of the last completed epoch
    best_loss: float = math.inf
    best_epoch: int = 0
    stale_epochs: int = 0  # since the validation loss was last lowered


# What is summed over the images of an epoch.
TOTALS = ("images", "loss", "mse", "psnr", "ssim", "sa")


class Training:
    """One run: set up, and then `run`.

    Args:
        args: of `parse_args`.
        process: a `utils.distributed.Process`.
        checkpoint: to go on with, or with weights to start from; loaded from `path`.
        run_dir: of the run to go on with; None starts a new run.
    """

    def __init__(self, args, process, checkpoint: dict | None, path: Path | None, run_dir: Path | None):
        from datasets import HySpecNet11k
        from datasets.transforms import get_transform
        from utils.checkpoint import load_weights, weights_of
        from utils.environment import seed_everything, set_rng_state
        from utils.losses import losses

        self.args, self.process = args, process
        self.resumed = run_dir is not None
        self.progress = Progress(**checkpoint["progress"]) if self.resumed else Progress()

        transform = get_transform(args.transform)
        source = {"root_dir": args.dataset, "mode": args.mode, "num_channels": args.num_channels}
        train_set = HySpecNet11k(split="train", transform=transform, seed=args.seed, repeats=args.repeats, **source)
        val_set = HySpecNet11k(split="val", **source)
        self.data = {"train": train_set.fingerprint(), "val": val_set.fingerprint()}
        if self.resumed and checkpoint["data"] != self.data:
            raise UsageError(
                f"the {args.mode} split of {args.dataset} is not the one that the run of {path} was trained on"
            )

        seed_everything(args.seed)
        self.model = models[args.model](src_channels=args.num_channels)
        check_combination(args, self.model, process, transform, train_set.image_shape, val_set.image_shape)
        if checkpoint:
            load_weights(self.model, weights_of(checkpoint, path), path)
        self.wrap_model()
        self.criterion = losses[args.loss]()
        self.make_optimizer(checkpoint if self.resumed else None)
        if self.resumed:
            set_rng_state(checkpoint["rng"])

        self.train_loader = self.loader(train_set, args.train_batch_size, shuffle=True)
        self.val_loader = self.loader(val_set, args.val_batch_size, shuffle=False)
        self.metrics_of = {
            "train": shown_metrics(train_set.image_shape, transform is None or transform.keeps_neighbours),
            "val": shown_metrics(val_set.image_shape, True),
        }
        if process.is_main:
            self.run_dir = run_dir or new_run_dir(args)

    # -- set-up ---------------------------------------------------------------------------------

    def wrap_model(self) -> None:
        """Put the model on its device; `self.network` is what to call in training."""
        from torch.nn import SyncBatchNorm
        from torch.nn.parallel import DistributedDataParallel

        device, several = self.process.device, self.process.world_size > 1
        if several and device.type == "cuda":
            self.model = SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.network = self.model = self.model.to(device)
        if several:
            self.network = DistributedDataParallel(self.model, device_ids=[device] if device.type == "cuda" else None)

    def make_optimizer(self, checkpoint: dict | None) -> None:
        import torch

        args = self.args
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=args.learning_rate)
        self.scheduler = None
        if args.scheduler == "plateau":
            self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, **PLATEAU)
        if checkpoint:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            if args.learning_rate != checkpoint["arguments"]["learning_rate"]:
                self.set_learning_rate(args.learning_rate)
            if self.scheduler and checkpoint["scheduler"]:
                self.scheduler.load_state_dict(checkpoint["scheduler"])

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def loader(self, dataset, batch_size: int, shuffle: bool):
        import torch
        from torch.utils.data import DataLoader

        from datasets.sampling import EpochBatchSampler
        from utils.signals import ignore_signals

        sampler = EpochBatchSampler(
            len(dataset),
            batch_size,
            shuffle=shuffle,
            seed=self.args.seed,
            rank=self.process.rank,
            world_size=self.process.world_size,
        )
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=self.args.num_workers,
            persistent_workers=self.args.num_workers > 0,
            pin_memory=self.process.device.type == "cuda",
            worker_init_fn=ignore_signals,
            # A generator of its own: the default one would move on with every epoch begun, and a
            # resumed run begins its epoch twice.
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    # -- the loop -------------------------------------------------------------------------------

    def run(self) -> int:
        """Train until the run is done, or a signal comes; returns the exit status."""
        from utils.logging import RunLog
        from utils.signals import StopRequest

        if self.resumed and self.process.is_main:
            self.refuse_finished()
        self.log = None
        if self.process.is_main:
            self.write_settings()
            self.log = RunLog(self.run_dir, self.progress.epoch)
            print(f"{'Going on with' if self.resumed else 'Training in'} {shown(self.run_dir)}", flush=True)
        self.saved_at = time.monotonic()
        with StopRequest("ending after this step, then saving") as self.stop:
            while not self.done():
                train = self.train_epoch()
                val = self.validate() if train is not None else None
                if val is None:
                    return self.stopped()
                self.end_epoch(train, val)
        if self.process.is_main:
            self.finish()
            self.log.close()
        return 0

    def done(self) -> bool:
        patience = self.args.early_stopping
        stopped_early = patience is not None and self.progress.stale_epochs >= patience
        return self.progress.epoch >= self.args.epochs or stopped_early

    def train_epoch(self) -> dict[str, float] | None:
        """Take the steps that remain of this epoch; its mean metrics, or None if a signal came."""
        import torch
        from torch.nn.utils import clip_grad_norm_

        args, progress, process = self.args, self.progress, self.process
        if args.scheduler == "cosine":
            self.set_learning_rate(args.learning_rate * (1 + math.cos(math.pi * progress.epoch / args.epochs)) / 2)
        self.network.train()
        started = time.monotonic() - progress.seconds
        for x, size in self.batches(self.train_loader, "train", progress.samples):
            x_hat = self.network(x)["x_hat"]
            # A rank without a sample in a short last batch takes part all the same, with no gradient.
            loss = self.criterion(x_hat, x) if len(x) else x_hat.sum()
            totals = process.sum(self.totals(loss, x_hat, x))
            if not torch.isfinite(totals[2]):
                raise self.diverged("training loss", totals[2] / size)

            self.optimizer.zero_grad()
            # DistributedDataParallel averages gradients over ranks, whose shares may differ in size.
            (loss * (len(x) * process.world_size / size)).backward()
            if args.clip_max_norm > 0:
                clip_grad_norm_(self.model.parameters(), args.clip_max_norm)
            self.optimizer.step()

            stop, *sums = totals.tolist()
            progress.totals = [a + b for a, b in zip(progress.totals, sums, strict=True)]
            progress.step += 1
            progress.global_step += 1
            progress.samples += size
            progress.seconds = time.monotonic() - started
            if stop:
                return None
            if time.monotonic() - self.saved_at >= CHECKPOINT_INTERVAL:
                self.save("last")
        return self.means("train", progress.totals, progress.seconds)

    def validate(self) -> dict[str, float] | None:
        """Mean metrics over the validation split, or None if a signal came."""
        import torch

        self.model.eval()
        started = time.monotonic()
        epoch_totals = [0.0] * len(TOTALS)
        self.example = None
        with torch.no_grad():
            for x, _size in self.batches(self.val_loader, "val"):
                x_hat = self.model(x)["x_hat"] if len(x) else x
                loss = self.criterion(x_hat, x) if len(x) else x.sum()
                stop, *sums = self.process.sum(self.totals(loss, x_hat, x)).tolist()
                if stop:
                    return None
                epoch_totals = [a + b for a, b in zip(epoch_totals, sums, strict=True)]
                if self.example is None and len(x):
                    self.example = x[0].cpu(), x_hat[0].cpu()
        means = self.means("val", epoch_totals, time.monotonic() - started)
        if not math.isfinite(means["loss"]):
            raise self.diverged("validation loss", means["loss"])
        return means

    def batches(self, loader, split: str, samples_seen: int = 0):
        """This rank's share of each batch that remains of the epoch, and the batch's size over all ranks."""
        from tqdm import tqdm

        sampler = loader.batch_sampler
        sampler.set_position(self.progress.epoch, samples_seen)
        sizes = sampler.batch_sizes()
        self.bar = tqdm(
            total=sampler.num_samples,
            initial=samples_seen,
            desc=f"{split} {self.progress.epoch + 1}/{self.args.epochs}",
            unit="image",
            leave=False,
            disable=not (self.process.is_main and sys.stdout.isatty()),
        )
        with self.bar:
            # Without a batch left an iterator would still start its workers.
            for x, size in zip(loader if sizes else (), sizes, strict=True):
                yield x[: sampler.share(size)].to(self.process.device, non_blocking=True), size
                self.bar.update(size)

    def totals(self, loss, x_hat, x):
        """A tensor of this rank's sums over its images: whether a signal came, then `TOTALS`."""
        import torch

        from utils.metrics import image_metrics

        totals = torch.zeros(1 + len(TOTALS), dtype=torch.float64, device=x.device)
        totals[0] = bool(self.stop)
        if len(x):
            metrics = image_metrics(x_hat.detach(), x)
            totals[1], totals[2] = len(x), loss.detach().double() * len(x)
            for index, name in enumerate(TOTALS[2:], start=3):
                if name in metrics:
                    totals[index] = metrics[name].sum()
            if not self.bar.disable:  # reading the values waits for the device
                shown_psnr = metrics["psnr"].mean().item()
                self.bar.set_postfix(loss=f"{loss.item():.3e}", psnr=f"{shown_psnr:.2f}", refresh=False)
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
        progress.step = progress.samples = 0
        progress.seconds, progress.totals = 0.0, [0.0] * len(TOTALS)
        if improved:
            progress.best_loss, progress.best_epoch, progress.stale_epochs = val["loss"], progress.epoch, 0
        else:
            progress.stale_epochs += 1
        if not self.process.is_main:
            return
        self.log.log_epoch(progress.epoch, progress.global_step, learning_rate, train, val)
        self.log.log_image(progress.epoch, *self.example)
        # best before last: killed in between, the run goes on from the old last and writes best again.
        if improved:
            self.save("best")
        self.save("last")
        print(
            f"epoch {progress.epoch}/{self.args.epochs}  train: loss {train['loss']:.4e}, PSNR {train['psnr']:.2f} dB, "
            f"{train['images_per_second']:.1f} images/s  val: loss {val['loss']:.4e}, PSNR {val['psnr']:.2f} dB"
            + ("  (best)" if improved else ""),
            flush=True,
        )

    # -- checkpoints and endings ----------------------------------------------------------------

    def save(self, name: str) -> None:
        """Write `name`.pth.tar; on the main process only."""
        from utils.checkpoint import save_checkpoint
        from utils.environment import rng_state

        if not self.process.is_main:
            return
        state = {
            "epoch": self.progress.epoch - 1,  # the last completed one, counted from 0 as in published runs
            "state_dict": self.model.state_dict(),
            "loss": self.progress.val_loss,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "progress": asdict(self.progress),
            "rng": rng_state(),
            "arguments": vars(self.args),
            "data": self.data,
        }
        path = self.run_dir / f"{name}.pth.tar"
        try:
            save_checkpoint(state, path)
        except OSError as error:
            raise ProjectError(
                f"{shown(path)} cannot be written: {error.strerror}; make room and go on with {self.last_good()}"
            ) from None
        self.saved_at = time.monotonic()

    def stopped(self) -> int:
        """A signal came: save and say how to go on."""
        if self.process.is_main:
            self.save("last")
            self.log.close()
            last = shlex.quote(shown(self.run_dir / "last.pth.tar"))
            progress = self.progress
            print(
                f"stopped in epoch {progress.epoch + 1} after step {progress.step}; go on with\n"
                f"    python train.py --checkpoint {last}",
                flush=True,
            )
        return 128 + (self.stop.signum or signal.SIGTERM)

    def diverged(self, what: str, value) -> ProjectError:
        where = f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}"
        return ProjectError(
            f"the {what} is {float(value)} in {where}; the last good checkpoint is {self.last_good()}; "
            "try a lower --learning-rate"
        )

    def last_good(self) -> str:
        """The checkpoint to go on with, for a message; only the main process knows the folder."""
        last = self.run_dir / "last.pth.tar" if self.process.is_main else None
        return shown(last) if last and last.exists() else "none yet"

    def finish(self) -> None:
        """Test the best epoch's weights once, keep them as final.pth.tar, and show the result."""
        from utils.checkpoint import load_checkpoint, load_weights, save_checkpoint
        from utils.results import format_table

        best = self.run_dir / "best.pth.tar"
        state_dict = load_checkpoint(best)["state_dict"]
        load_weights(self.model, state_dict, best)
        save_checkpoint({"state_dict": state_dict}, self.run_dir / "final.pth.tar")
        progress = self.progress
        print(f"trained {progress.epoch} epochs, the best was epoch {progress.best_epoch}")
        metrics = self.test()
        if metrics:
            self.log.log_hyperparameters(vars(self.args), metrics)
            print(f"test split, weights of epoch {progress.best_epoch}:\n{format_table(metrics)}")
        self.write_settings(finished={"epochs": progress.epoch, "best_epoch": progress.best_epoch, "test": metrics})
        print(f"final weights: {shown(self.run_dir / 'final.pth.tar')}", flush=True)

    def test(self) -> dict[str, float] | None:
        """Mean metrics of the model over the test split; None where the data set has none."""
        from torch.utils.data import DataLoader

        from datasets import HySpecNet11k
        from utils.errors import DatasetError
        from utils.evaluation import average, evaluate

        args = self.args
        try:
            test_set = HySpecNet11k(args.dataset, args.mode, "test", num_channels=args.num_channels)
        except DatasetError as error:
            print(f"not tested: {error}", file=sys.stderr)
            return None
        self.model.eval()
        return average(evaluate(self.model, DataLoader(test_set, args.val_batch_size), self.process.device))

    def refuse_finished(self) -> None:
        """UsageError if the run has done all it was to do."""
        settings = json.loads((self.run_dir / "settings.json").read_text(encoding="utf-8"))
        finished = settings.get("finished")
        if self.done() and finished and finished["epochs"] == self.progress.epoch:
            early = self.progress.epoch < self.args.epochs
            more = "a larger --early-stopping" if early else "a larger --epochs"
            raise UsageError(
                f"the run in {shown(self.run_dir)} has finished after {self.progress.epoch} epochs; "
                f"give {more} to train on"
            )

    def write_settings(self, finished: Mapping | None = None) -> None:
        """settings.json: what the run was started with, each time it went on, and how it ended."""
        from utils.environment import device_name, git_commit, versions
        from utils.results import write_json

        path = self.run_dir / "settings.json"
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        start = {
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "arguments": vars(self.args),
            "device": device_name(self.process.device),
            "processes": self.process.world_size,
            "versions": versions(),
            "git_commit": git_commit(),
        }
        settings = {
            "run": self.run_dir.name,
            "model": self.args.model,
            "bpppc": self.model.bpppc,
            "compression_ratio": self.model.compression_ratio,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "data": self.data,
            "starts": stored.get("starts", []) + ([] if finished else [start]),
            "finished": finished,
        }
        write_json(path, settings)


def check_combination(args, model, process, transform, train_shape: Sequence[int], val_shape: Sequence[int]) -> None:
    """Refuse, before anything is written, what could not work.

    Raises:
        UsageError: flags that do not fit each other, or the data.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from utils.distributed import per_process
    from utils.metrics import SSIM_MIN_SIZE

    per_process(args.train_batch_size, process, "--train-batch-size")
    per_process(args.val_batch_size, process, "--val-batch-size")
    if transform and not transform.keeps_neighbours:
        instead = f"use randomcrop_{transform.size}x{transform.size}"
        if not model.pixelwise:
            raise UsageError(
                f"--transform {args.transform} breaks the neighbourhoods that {args.model} codes: {instead}"
            )
        if args.loss == "ssim":
            raise UsageError(
                f"--transform {args.transform} breaks the neighbourhoods that --loss ssim compares: {instead}"
            )
    for split, shape in (("train", train_shape), ("val", val_shape)):
        if args.loss == "ssim" and min(shape[1:]) < SSIM_MIN_SIZE:
            raise UsageError(
                f"--loss ssim needs {SSIM_MIN_SIZE} pixels a side, {split} images have {shape[1]} x {shape[2]}"
            )
        try:
            model.check_size(torch.empty(1, *shape, device="meta"))
        except ValueError as error:
            raise UsageError(f"{split} images: {error}") from None
    has_batch_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
    if process.world_size > 1 and process.device.type == "cpu" and has_batch_norm:
        raise UsageError(
            f"{args.model} has batch norm, which torch cannot synchronise on CPUs: train it with one process"
        )


def shown_metrics(image_shape: Sequence[int], keeps_neighbours: bool) -> tuple[str, ...]:
    """The metrics that mean something for such images: SSIM needs neighbours, and enough of them."""
    from utils.logging import METRICS
    from utils.metrics import SSIM_MIN_SIZE

    has_ssim = keeps_neighbours and min(image_shape[1:]) >= SSIM_MIN_SIZE
    return tuple(name for name in METRICS if name != "ssim" or has_ssim)


def new_run_dir(args) -> Path:
    """Make the run's folder, named after its start and what it trains."""
    name = f"{datetime.now():%Y_%m_%d-%H_%M_%S}-{args.mode}-{args.model}-{args.loss}-{args.learning_rate}"
    save_dir = Path(args.save_dir)
    save_dir.mkdir(parents=True, exist_ok=True)
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        try:
            (save_dir / (name + suffix)).mkdir()
        except FileExistsError:  # another run began in the same second
            continue
        return (save_dir / (name + suffix)).resolve()
    raise ProjectError(f"{save_dir / name} and its successors exist already")


def shown(path: Path) -> str:
    """A path as a user would type it from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    run_script(main)
