"""One cube by a learned codec, with and without bounds, beside the codecs that lose nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.speed.measure import markdown_table
from coding import PLANE_CODERS
from coding.base import CodingError
from coding.hsc.tiling import measure, valid_mask
from coding.learned.codec import LearnedCodec
from coding.learned.fit import DEFAULT_LOSS
from coding.learned.network import Network
from coding.rate_control import Wish
from utils.evaluation import timed

BOUNDS = (0, 1, 5, 10, 20)
_HEADER = ("codec", "bpppc", "PSNR dB", "largest error", "encode MB/s", "decode MB/s")


@dataclass
class Row:
    """One way to code a cube.

    Attributes:
        codec: what it is.
        bpppc: bits per sample, everything included.
        psnr: in dB, peak 1; infinite without loss. Without a bound against the cube clipped to [0, scale].
        largest_error: against the cube itself, in its own units; None where it comes back as floats.
        encode_seconds, decode_seconds: of the whole.
    """

    codec: str
    bpppc: float
    psnr: float
    largest_error: float | None
    encode_seconds: float
    decode_seconds: float


def compare(cube: np.ndarray, network: Network, scale: float, nodata: float | None) -> Iterator[Row]:
    """Rows for an integer cube (C, H, W), of all bands that `network` takes."""
    valid = valid_mask(cube, nodata)

    def row(name: str, codec: LearnedCodec) -> Row:
        data, encode_seconds = _timed(lambda: codec.encode(cube))
        decoded, decode_seconds = _timed(lambda: codec.decode(data))
        found = measure(cube, decoded, valid, scale, codec.max_error is None)
        rate = 8 * len(data) / cube.size
        return Row(name, rate, found.psnr, found.largest_error, encode_seconds, decode_seconds)

    yield _published(cube, network, scale, valid)
    for coder in PLANE_CODERS:
        codec = LearnedCodec(network, Wish(loss=DEFAULT_LOSS), None, scale, nodata, coder)
        yield row(f"latents quantized, {coder}", codec)
    for bound in BOUNDS:
        name = "lossless" if bound == 0 else f"error at most {bound}"
        yield row(name, LearnedCodec(network, Wish(smallest=True), bound, scale, nodata))
    for name, encode, decode in _lossless():
        bands, encode_seconds = _timed(lambda encode=encode: [encode(band) for band in _unsigned(cube)])
        decoded, decode_seconds = _timed(lambda decode=decode, bands=bands: [decode(band) for band in bands])
        if not np.array_equal(decoded, _unsigned(cube)):
            raise CodingError(f"{name} has lost something")
        rate = 8 * sum(map(len, bands)) / cube.size
        yield Row(f"{name}, lossless", rate, math.inf, 0.0, encode_seconds, decode_seconds)


def comparison_table(rows: Iterable[Row], num_bytes: int) -> str:
    """The rows for a cube of `num_bytes` as a Markdown table; speeds are of these bytes, in MB/s."""
    megabytes = num_bytes / 1e6
    cells = [
        [
            row.codec,
            f"{row.bpppc:.3f}",
            f"{row.psnr:.2f}" if row.psnr < math.inf else "lossless",
            "–" if row.largest_error is None else f"{row.largest_error:g}",
            f"{megabytes / row.encode_seconds:.2f}",
            f"{megabytes / row.decode_seconds:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(_HEADER, cells)


def _published(cube: np.ndarray, network: Network, scale: float, valid: np.ndarray) -> Row:
    """The latents as float32, as the published rates count them."""
    x = np.clip(cube.astype(np.float32) / np.float32(scale), 0, 1)
    y, encode_seconds = _timed(lambda: network.encode(x))
    x_hat, decode_seconds = _timed(lambda: network.decode(y, *cube.shape[1:]))
    found = measure(np.where(valid, x, 0), x_hat, valid, 1.0, False)
    return Row("latents as float32", 8 * y.nbytes / cube.size, found.psnr, None, encode_seconds, decode_seconds)


def _timed(function: Callable) -> tuple:
    """What `function` returns, and the seconds it took."""
    return timed(function, torch.device("cpu"))


def _lossless():
    import imagecodecs

    yield "JPEG-LS", imagecodecs.jpegls_encode, imagecodecs.jpegls_decode
    yield "JPEG XL", lambda band: imagecodecs.jpegxl_encode(band, lossless=True, effort=7), imagecodecs.jpegxl_decode


def _unsigned(cube: np.ndarray) -> np.ndarray:
    return (cube.astype(np.int32) - np.iinfo(cube.dtype).min).astype(np.uint16)
