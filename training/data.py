"""The splits of a data set, and loaders of their batches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from datasets.hyspecnet11k import HySpecNet11k, refuse_overlap
from datasets.loading import ThreadLoader
from datasets.transforms import PixelTransform, get_transform
from training.distributed import Process
from training.sampler import EpochBatchSampler
from utils.metrics import SSIM_MIN_SIZE
from utils.processes import ignore_signals


@dataclass(frozen=True)
class Splits:
    """The data sets of a run; `test` is None where there is no such split."""

    train: HySpecNet11k
    val: HySpecNet11k
    test: HySpecNet11k | None

    def facts(self) -> dict[str, dict]:
        """Return the facts about the data that must be the same when the run is resumed."""
        return {
            name: {"sha256": dataset.fingerprint(), "shape": list(dataset.file_shape)}
            for name, dataset in (("train", self.train), ("val", self.val))
        }


def open_splits(args: argparse.Namespace, quiet: bool) -> Splits:
    """Open the splits that the arguments of train.py name.

    Args:
        args: arguments of train.py.
        quiet: print no notes.

    Raises:
        DatasetError: the training or validation split is missing or damaged, or the test split is damaged, or a patch
            is in two of them and the arguments do not allow it.
    """
    source = {"root_dir": args.dataset, "mode": args.mode, "num_channels": args.num_channels}
    transform = get_transform(args.transform)
    train = HySpecNet11k(split="train", transform=transform, seed=args.seed, repeats=args.repeats, **source)
    val = HySpecNet11k(split="val", **source)
    path = Path(args.dataset) / "splits" / args.mode / "test.csv"
    note = None if args.allow_overlap else refuse_overlap(path.parent)
    if note and not quiet:
        print(f"note: {note}", file=sys.stderr)
    if path.exists():
        return Splits(train, val, HySpecNet11k(split="test", **source))
    if not quiet:  # now and not after days of training
        print(f"{path}: no such file, the result will not be tested", file=sys.stderr)
    return Splits(train, val, None)


class Batch(NamedTuple):
    """A batch of all processes, and the share of this one.

    Attributes:
        x: (N, C, H, W) in [0, 1], this process's images on its device; N may be 0.
        size: number of images of all processes.
        weight: factor of this process's mean loss; the mean over processes then equals the mean over the batch.
    """

    x: Tensor
    size: int
    weight: float


class SplitLoader:
    """Load the batches of a split from any position of an epoch.

    Args:
        args: arguments of train.py.
        dataset: the split.
        process: this process, which gets its share of each batch.
        batch_size: images in a batch, over all processes.
        shuffle: whether to draw a new order in each epoch.

    Attributes:
        loader: torch's DataLoader; for a GPU a ThreadLoader.
        num_images: images in an epoch.
        has_ssim: whether the images have an SSIM: they keep neighbors together and are large enough.
    """

    def __init__(
        self, args: argparse.Namespace, dataset: HySpecNet11k, process: Process, batch_size: int, shuffle: bool
    ) -> None:
        self.process = process
        self.num_images = len(dataset)
        transform = dataset.transform
        keeps_neighbors = not isinstance(transform, PixelTransform) or transform.keeps_neighbors
        self.has_ssim = keeps_neighbors and min(dataset.image_shape[1:]) >= SSIM_MIN_SIZE
        self.sampler = EpochBatchSampler(
            len(dataset),
            batch_size,
            shuffle=shuffle,
            seed=args.seed,
            rank=process.rank,
            world_size=process.world_size,
        )
        # Its own generator: the default one advances with every epoch begun, and a resumed run begins its epoch
        # twice.
        generator = torch.Generator().manual_seed(args.seed)
        self.loader: DataLoader | ThreadLoader = (
            ThreadLoader(dataset, self.sampler, process.device, args.num_workers, args.prefetch, args.pin_memory)
            if process.device.type == "cuda"
            else DataLoader(
                dataset,
                batch_sampler=self.sampler,
                persistent_workers=args.persistent_workers and args.num_workers > 0,
                generator=generator,
                **_loading(args),
            )
        )

    def batches(self, epoch: int, samples_seen: int = 0) -> Iterator[Batch]:
        """Yield the batches that remain of an epoch.

        Args:
            epoch: counted from 0.
            samples_seen: images of the epoch that are done already, over all processes.
        """
        self.sampler.set_position(epoch, samples_seen)
        sizes = self.sampler.batch_sizes()
        # An iterator starts its workers even if no batch is left.
        for x, size in zip(self.loader if sizes else (), sizes, strict=True):
            share = self.sampler.share(size)
            # DistributedDataParallel averages gradients over processes, whose shares may differ in size.
            weight = share * self.process.world_size / size
            yield Batch(x[:share].to(self.process.device, non_blocking=True), size, weight)


def image_loader(args: argparse.Namespace, dataset: HySpecNet11k, process: Process) -> DataLoader | ThreadLoader:
    """Return a loader of all images in order, not shared among processes."""
    if process.device.type == "cuda":
        batches = BatchSampler(SequentialSampler(dataset), args.val_batch_size, drop_last=False)
        return ThreadLoader(dataset, batches, process.device, args.num_workers, args.prefetch, args.pin_memory)
    return DataLoader(dataset, args.val_batch_size, **_loading(args))


def _loading(args: argparse.Namespace) -> dict:
    return {
        "num_workers": args.num_workers,
        "prefetch_factor": args.prefetch if args.num_workers else None,
        "worker_init_fn": ignore_signals,
    }
