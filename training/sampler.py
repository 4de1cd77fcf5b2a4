"""The order of samples in an epoch, in batches for each rank, from any position of the epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class EpochBatchSampler:
    """Sample batches of `(epoch, index)` keys of `HySpecNet11k`, for a loader.

    The order of an epoch depends on (seed, epoch) alone, not on the batch size or the number of ranks: a
    run can resume from any sample of an epoch on other hardware and still sees every sample once. The key
    contains the epoch because the data set, which several threads read, does not know it. Call `set_position`
    before every epoch.

    A global batch is split by stride: rank r gets `batch[r::world_size]`. A rank whose share of a short
    last batch is empty gets a placeholder, the first key of the batch, so that all ranks take the same
    number of steps; its `share` is then 0.

    Args:
        num_samples: length of the data set.
        batch_size: samples per step over all ranks together. The last batch of an epoch may be shorter.
        shuffle: whether to draw a new permutation in each epoch, or keep the order of the data set.
        seed: non-negative.
        rank: number of this process, counted from 0.
        world_size: number of processes.

    Raises:
        ValueError: the number of samples, the batch size or the rank is out of range.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_samples < 1 or batch_size < 1:
            raise ValueError(f"samples and batch size must be at least 1, got {num_samples} and {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be from 0 to {world_size - 1}, got {rank}")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.set_position(0)

    def set_position(self, epoch: int, samples_seen: int = 0) -> None:
        """Set the epoch to iterate next, and how many of its samples, over all ranks, are done already.

        Raises:
            ValueError: `samples_seen` is negative or larger than the epoch.
        """
        if not 0 <= samples_seen <= self.num_samples:
            raise ValueError(f"samples seen must be from 0 to {self.num_samples}, got {samples_seen}")
        self.epoch = epoch
        self.samples_seen = samples_seen

    def batch_sizes(self) -> list[int]:
        """Return the sizes, over all ranks, of the batches that remain of the epoch."""
        starts = range(self.samples_seen, self.num_samples, self.batch_size)
        return [min(self.batch_size, self.num_samples - start) for start in starts]

    def share(self, n: int) -> int:
        """Return this rank's number of samples in a global batch of `n`; 0 if it gets a placeholder."""
        return len(range(self.rank, n, self.world_size))

    def __len__(self) -> int:
        """Return the number of batches that remain of the epoch, the same on all ranks."""
        return len(self.batch_sizes())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order = self._order(epoch)
        position = self.samples_seen
        for size in self.batch_sizes():
            batch = order[position : position + size]
            yield [(epoch, index) for index in batch[self.rank :: self.world_size] or batch[:1]]
            position += size

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.num_samples))
        # Without the spawn key this would be the random stream of the data set for index 0, because
        # SeedSequence pads short entropy with zeros.
        sequence = np.random.SeedSequence((self.seed, epoch), spawn_key=(0,))
        return np.random.default_rng(sequence).permutation(self.num_samples).tolist()
