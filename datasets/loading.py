"""Load batches for a GPU by threads, straight into the memory from which they are copied to the GPU.

A torch DataLoader copies every patch twice more: into a batch, and from the process that read it. Reading files and
checking their values release Python's lock, so threads do both in parallel::

    files ─► batch (N, C, H, W), uint16 or float32, in pinned memory ─► the same on the GPU ─► reflectances, float32
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from datasets.enmap import SCALE
from datasets.hyspecnet11k import HySpecNet11k, Key


class ThreadLoader:
    """Load the batches of a data set by threads.

    Args:
        dataset: a split whose `transform` is None or a `PixelTransform`.
        batch_sampler: yields the keys of each batch; iterated anew for every epoch.
        device: device of the batches.
        num_workers: number of threads; 0 reads each batch when it is asked for.
        prefetch: batches that each thread reads ahead.
        pin_memory: whether to read files into pinned memory, which a GPU copies by itself.

    Attributes:
        dataset: as given.
    """

    def __init__(
        self,
        dataset: HySpecNet11k,
        batch_sampler: Iterable[Sequence[Key]],
        device: torch.device,
        num_workers: int,
        prefetch: int = 2,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = dataset
        self._batch_sampler = batch_sampler
        self._device = device
        self._ahead = num_workers * prefetch
        self._pin_memory = pin_memory
        self._threads = ThreadPoolExecutor(num_workers, "loader") if num_workers else None

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches (N, C, H, W) of reflectances, float32, on the device.

        Raises:
            DatasetError: a patch cannot be used.
        """
        for batch in self._read():
            yield reflectances(batch.to(self._device, non_blocking=True))

    def _read(self) -> Iterator[Tensor]:
        if self._threads is None:
            for keys in self._batch_sampler:
                yield self.dataset.read_batch(keys, self._pin_memory)
            return
        ahead: deque[Future[Tensor]] = deque()
        try:
            for keys in self._batch_sampler:
                ahead.append(self._threads.submit(self.dataset.read_batch, keys, self._pin_memory))
                if len(ahead) > self._ahead:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def reflectances(x: Tensor) -> Tensor:
    """Return a batch as float32 reflectances, on its device: uint16 digital numbers are divided by 10000."""
    if x.dtype != torch.uint16:
        return x
    # Divided by a tensor: for a number a GPU multiplies by its reciprocal, which gives other values. Digital numbers
    # fit into int16, which every device supports.
    return x.view(torch.int16).float() / torch.full((), float(SCALE), device=x.device)
