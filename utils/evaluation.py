"""Evaluation of a model on images, under the protocol in docs/protocol.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from utils.devices import autocast
from utils.metrics import image_metrics, psnr_from_mse

Result = TypeVar("Result")


class Model(Protocol):
    """A model that codes images to bytes through CompressAI's interface."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def compress(self, x: Tensor) -> dict: ...

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> dict: ...


def evaluate(model: Model, batches: Iterable[Tensor], device: torch.device, precision: str = "fp32") -> list[dict]:
    """Code every image to bytes and back, and measure it.

    Args:
        model: on `device`, in evaluation mode. Images are converted to the type of its weights.
        batches: float32 tensors (N, C, H, W) in [0, 1] on any device.
        device: of the model.
        precision: of autocast, one of `utils.options.PRECISIONS`. In all of them metrics are computed in float32 or
            better, against the float32 image.

    Returns:
        For each image `bpppc` (8 * bytes / values), `mse`, `psnr` (dB, peak 1), `ssim` (absent for sides
        under 11 pixels), `sa` (degrees), `encoding_time` and `decoding_time` (seconds: the time of its batch,
        device synchronized, divided by the images in the batch).
    """
    results: list[dict] = []
    warm_shapes = set()
    dtype = next(model.parameters()).dtype
    for x in batches:
        x = x.to(device)
        images = x.to(dtype)
        # First calls load code and choose kernels, and must not be timed. A GPU chooses kernels by shape, and the
        # last batch may be shorter.
        warm_up = images if device.type == "cuda" else images[:1, :, :8, :8]
        with autocast(precision, device):
            if warm_up.shape not in warm_shapes:
                model.decompress(**model.compress(warm_up))
                warm_shapes.add(warm_up.shape)
            coded, encoding_time = timed(partial(model.compress, images), device)
            decoded, decoding_time = timed(partial(model.decompress, **coded), device)
        seconds = {"encoding_time": encoding_time / len(x), "decoding_time": decoding_time / len(x)}
        results += [{**row, **seconds} for row in _measure(x, coded["strings"], decoded["x_hat"])]
    return results


@torch.no_grad()
def _measure(x: Tensor, strings: Sequence[Sequence[bytes]], x_hat: Tensor) -> list[dict]:
    """Return rate and distortion of each image of a batch."""
    metrics = {key: values.tolist() for key, values in image_metrics(x_hat.float(), x).items()}
    num_bytes = [sum(map(len, of_image)) for of_image in zip(*strings, strict=True)]
    return [
        {"bpppc": 8 * num_bytes[index] / image.numel(), **{key: values[index] for key, values in metrics.items()}}
        for index, image in enumerate(x)
    ]


def average(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over images of every metric, and `psnr_pooled`, the PSNR of the mean MSE in dB."""
    means = {key: sum(result[key] for result in results) / len(results) for key in results[0]}
    means["psnr_pooled"] = float(psnr_from_mse(torch.tensor(means["mse"], dtype=torch.float64)))
    return means


def timed(function: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """Call a function and return its result and the seconds that it took, including its work on `device`."""
    _synchronize(device)
    start = time.perf_counter()
    value = function()
    _synchronize(device)
    return value, time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
