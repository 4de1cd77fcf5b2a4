"""The splits of a data set, and loaders of their batches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from datasets.hyspecnet11k import HySpecNet11k, Key, refuse_overlap
from datasets.loading import ThreadLoader, batches_in_order
from datasets.transforms import PixelTransform, get_transform
from training.distributed import Process
from training.sampler import EpochBatchSampler
from utils.metrics import SSIM_MIN_SIZE


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
        loader: yields the images of this process, at least one per batch.
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
        self.loader = _loader(args, dataset, self.sampler, process)

    def batches(self, epoch: int, samples_seen: int = 0) -> Iterator[Batch]:
        """Yield the batches that remain of an epoch.

        Args:
            epoch: counted from 0.
            samples_seen: images of the epoch that are done already, over all processes.
        """
        self.sampler.set_position(epoch, samples_seen)
        sizes = self.sampler.batch_sizes()
        for x, size in zip(self.loader, sizes, strict=True):
            share = self.sampler.share(size)
            # DistributedDataParallel averages gradients over processes, whose shares may differ in size.
            weight = share * self.process.world_size / size
            yield Batch(x[:share], size, weight)


def image_loader(args: argparse.Namespace, dataset: HySpecNet11k, process: Process) -> ThreadLoader:
    """Return a loader of all images in order, not shared among processes."""
    return _loader(args, dataset, batches_in_order(dataset, args.val_batch_size), process)


def _loader(
    args: argparse.Namespace, dataset: HySpecNet11k, batches: Iterable[Sequence[Key]], process: Process
) -> ThreadLoader:
    return ThreadLoader(dataset, batches, process.device, args.num_workers, args.prefetch, args.pin_memory)
