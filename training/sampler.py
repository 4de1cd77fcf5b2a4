"""Which samples make up each batch of an epoch, on each rank, also from the middle of an epoch on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class EpochBatchSampler:
    """Batches of `(epoch, index)` keys for `DataLoader(dataset, batch_sampler=...)` and `HySpecNet11k`.

    The order of an epoch depends on (seed, epoch) alone, not on the batch size or the number of ranks: a
    run can go on from any sample of an epoch on other hardware and still sees every sample once. The epoch
    travels in the key because persistent DataLoader workers keep their copy of the data set, while this
    sampler lives in the main process. Every epoch needs its `set_position`.

    A global batch is split by stride: rank r gets `batch[r::world_size]`. A rank whose share of a short
    last batch is empty yields one placeholder, the batch's first key, so that all ranks take the same
    number of steps; `share` tells it that none of the samples is its own.

    Args:
        num_samples: length of the data set.
        batch_size: samples per step over all ranks together. The last batch of an epoch may be shorter.
        shuffle: a new permutation each epoch, or the data set's own order.
        seed: non-negative.
        rank, world_size: this process, and how many share the work.
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
            raise ValueError(f"{num_samples} samples in batches of {batch_size}: both must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}: must be at least 0 and below the number of ranks")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.set_position(0)

    def set_position(self, epoch: int, samples_seen: int = 0) -> None:
        """Say which epoch is iterated next, and how many of its samples, over all ranks, are done already."""
        if not 0 <= samples_seen <= self.num_samples:
            raise ValueError(f"{samples_seen} samples seen of an epoch of {self.num_samples}")
        self.epoch = epoch
        self.samples_seen = samples_seen

    def batch_sizes(self) -> list[int]:
        """Sizes, over all ranks, of the batches that remain of the epoch."""
        starts = range(self.samples_seen, self.num_samples, self.batch_size)
        return [min(self.batch_size, self.num_samples - start) for start in starts]

    def share(self, n: int) -> int:
        """How many of a global batch of `n` samples are this rank's; 0 where it gets a placeholder."""
        return len(range(self.rank, n, self.world_size))

    def __len__(self) -> int:
        """Batches that remain of the epoch, the same on all ranks."""
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
        # Without the spawn key this would be the stream from which the data set draws for index 0:
        # SeedSequence pads short entropy with zeros.
        sequence = np.random.SeedSequence((self.seed, epoch), spawn_key=(0,))
        return np.random.default_rng(sequence).permutation(self.num_samples).tolist()
