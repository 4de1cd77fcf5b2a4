"""Load batches by threads, each file straight into its place in a batch.

A torch DataLoader copies every patch twice more: into a batch, and from the process that read it, through shared
memory. Reading files and checking their values release Python's lock, so threads do both in parallel::

    files ─► batch (N, C, H, W), float32 ─► the model on the CPU
    files ─► batch, uint16 or float32, in pinned memory ─► the same on the GPU ─► reflectances, float32
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, SequentialSampler

from datasets.enmap import SCALE
from datasets.hyspecnet11k import Allocate, HySpecNet11k, Key


class ThreadLoader:
    """Load the batches of a data set by threads.

    Args:
        dataset: a split.
        batch_sampler: yields the keys of each batch; iterated anew for every epoch.
        device: device of the batches.
        num_workers: number of threads; 0 reads each batch when it is asked for.
        prefetch: batches that each thread reads ahead.
        pin_memory: whether to read files for a GPU into pinned memory, which it copies by itself.

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
        pin_memory: bool = True,
    ) -> None:
        self.dataset = dataset
        self._batch_sampler = batch_sampler
        self._device = device
        self._ahead = num_workers * prefetch
        self._is_gpu = device.type != "cpu"
        self._pins = pin_memory and self._is_gpu
        self._threads = ThreadPoolExecutor(num_workers, "loader") if num_workers else None

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches (N, C, H, W) of reflectances, float32, on the device.

        Raises:
            DatasetError: a patch cannot be used.
        """
        memory = _Memory()
        try:
            yield from map(self._to_device, self._read(_pinned if self._pins else memory.tensor))
        finally:
            memory.close()

    def _to_device(self, batch: Tensor) -> Tensor:
        return reflectances(batch.to(self._device, non_blocking=True))

    def _read(self, allocate: Allocate) -> Iterator[Tensor]:
        read = partial(self.dataset.read_batch, allocate=allocate, keep_digital_numbers=self._is_gpu)
        if self._threads is None:
            yield from map(read, self._batch_sampler)
            return
        ahead: deque[Future[Tensor]] = deque()
        try:
            for keys in self._batch_sampler:
                ahead.append(self._threads.submit(read, keys))
                if len(ahead) > self._ahead:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


class _Memory:
    """The memory of the batches of an epoch, used again as soon as nothing refers to its batch any more.

    The system clears new memory page by page, which takes longer than to read a file from its cache.
    """

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._is_open = True

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a CPU tensor with any content."""
        num_bytes = math.prod(shape) * dtype.itemsize
        try:
            block = self._free.pop()
        except IndexError:
            block = torch.empty(num_bytes, dtype=torch.uint8)
        if len(block) < num_bytes:  # after a shorter batch
            block = torch.empty(num_bytes, dtype=torch.uint8)
        array = block[:num_bytes].view(dtype).view(shape).numpy()
        # All tensors that share the memory of the one returned keep `array` alive, `block` does not.
        weakref.finalize(array, self._give_back, block).atexit = False
        return torch.from_numpy(array)

    def close(self) -> None:
        """Keep no memory from now on."""
        self._is_open = False
        self._free.clear()

    def _give_back(self, block: Tensor) -> None:
        if self._is_open:
            self._free.append(block)


def _pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, pin_memory=True)  # torch uses pinned memory again by itself


def batches_in_order(dataset: HySpecNet11k, batch_size: int) -> BatchSampler:
    """Return the keys of all images of a split in its order, in batches for a `ThreadLoader`."""
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last=False)


def reflectances(x: Tensor) -> Tensor:
    """Return a batch as float32 reflectances, on its device: uint16 digital numbers are divided by 10000."""
    if x.dtype != torch.uint16:
        return x
    # Divided by a tensor: for a number a GPU multiplies by its reciprocal, which gives other values. Digital numbers
    # fit into int16, which every device supports.
    return x.view(torch.int16).float() / torch.full((), float(SCALE), device=x.device)
