"""Testing a model on images, under the protocol that the README states."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from utils.devices import autocast
from utils.metrics import image_metrics, psnr_from_mse


def evaluate(model: nn.Module, batches: Iterable[Tensor], device: torch.device, precision: str = "fp32") -> list[dict]:
    """Code every image to bytes and back, and measure it.

    Args:
        model: with `compress` and `decompress`, on `device`, in evaluation mode; it is given images in the
            type of its weights.
        batches: float32 tensors (N, C, H, W) in [0, 1] on the CPU.
        precision: of autocast, one of `utils.options.PRECISIONS`. Metrics are float32 or better against the
            float32 image whatever the model ran in.

    Returns:
        For each image `bpppc` (8 * bytes / values), `mse`, `psnr` (dB, peak 1), `ssim` (absent for sides
        under 11 pixels), `sa` (degrees), `encoding_time` and `decoding_time` (seconds: its batch's time,
        device synchronized, over the batch's images).
    """
    results: list[dict] = []
    warm = set()
    dtype = next(model.parameters()).dtype
    for x in batches:
        x = x.to(device)
        given = x.to(dtype)
        # Code is loaded and kernels are chosen before the clock runs: for the whole shape on a GPU, and a
        # last, shorter batch has one of its own.
        part = given if device.type == "cuda" else given[:1, :, :8, :8]
        with autocast(precision, device):
            if part.shape not in warm:
                model.decompress(**model.compress(part))
                warm.add(part.shape)
            coded, encoding_time = timed(lambda given=given: model.compress(given), device)
            decoded, decoding_time = timed(lambda coded=coded: model.decompress(**coded), device)
        with torch.no_grad():
            metrics = {key: value.tolist() for key, value in image_metrics(decoded["x_hat"].float(), x).items()}
        for index in range(len(x)):
            num_bytes = sum(len(strings[index]) for strings in coded["strings"])
            results.append(
                {
                    "bpppc": 8 * num_bytes / x[index].numel(),
                    **{key: values[index] for key, values in metrics.items()},
                    "encoding_time": encoding_time / len(x),
                    "decoding_time": decoding_time / len(x),
                }
            )
    return results


def average(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over images of every figure, and `psnr_pooled`, the PSNR of the mean MSE."""
    means = {key: sum(result[key] for result in results) / len(results) for key in results[0]}
    means["psnr_pooled"] = float(psnr_from_mse(torch.tensor(means["mse"], dtype=torch.float64)))
    return means


def timed(function: Callable, device: torch.device) -> tuple:
    """What `function` returns and the seconds it took, all of the device's work included."""
    _synchronize(device)
    start = time.perf_counter()
    value = function()
    _synchronize(device)
    return value, time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
