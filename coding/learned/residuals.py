"""Residuals of the codec `learned` with a bound: quantized differences between samples and their prediction.

The model's bands are predicted by its reconstruction (see `coding.learned.bounds`). Each other band is predicted by the
preceding band, or by 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coding import PLANE_CODERS
from coding.base import BoundNotGuaranteed, DamagedError
from coding.learned.bounds import MAX_GRID, choose_grid, quantize, round_as_listed, round_to_grid
from coding.numbers import Numbers
from coding.planes import decode_planes, encode_planes
from datasets.base import INTEGER_RANGES

CODER = next(iter(PLANE_CODERS))
NUM_BLOCKS = 4


@dataclass(frozen=True)
class ResidualCoder:
    """Codes the residuals of a scene's tiles.

    Attributes:
        numbers: map from samples to integers, with the bound on the error.
        unit: the number that stands for a reflectance of 1.
        model_bands: indices of the model's bands among the coded bands, in the model's order.
        extra_bands: indices of the other coded bands, rising.
    """

    numbers: Numbers
    unit: float
    model_bands: tuple[int, ...]
    extra_bands: tuple[int, ...]

    def encode(self, x_hat: np.ndarray, cube: np.ndarray, valid: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        """Encode the residuals of a tile.

        Args:
            x_hat: reconstruction by the model: reflectances (model's bands, H, W).
            cube: (C, H, W), all coded bands.
            valid: bool (C, H, W), False where there is no data.

        Returns:
            The `NUM_BLOCKS` blocks for `decode`, and the cube that `decode` returns.
        """
        numbers, bound, bands = self.numbers, self._bound, list(self.model_bands)
        targets = numbers.of(np.where(valid, cube, 0))
        prediction = self._predict(x_hat)
        grid = choose_grid(prediction, targets[bands], valid[bands], bound)
        rounded, listed = round_to_grid(prediction, grid)
        levels = quantize(self._wrap(targets[bands] - rounded), bound)
        levels[~valid[bands]] = 0
        decoded = np.zeros(cube.shape, np.int32)
        decoded[bands] = self._add(rounded, levels)
        extra, kinds = [], []
        for band in self.extra_bands:
            kind, level = self._encode_extra(targets, decoded, valid, band)
            kinds.append(kind)
            extra.append(level)
            decoded[band] = self._add(_extra_prediction(decoded, band, kind), level)
        decoded[~valid] = 0
        facts = grid.to_bytes(4, "little") + _checksum(decoded).to_bytes(4, "little")
        extra_planes = np.array(extra, np.int64).reshape(-1, *cube.shape[1:])
        coded_extra = bytes(kinds) + encode_planes(extra_planes, CODER)
        return [listed, facts, encode_planes(levels, CODER), coded_extra], numbers.samples(decoded)

    def decode(self, blocks: Sequence[bytes], x_hat: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return the cube (C, H, W) that `encode` encoded.

        Args:
            blocks: the blocks.
            x_hat: reconstruction by the model: reflectances (model's bands, H, W).
            valid: bool (C, H, W), as given to `encode`.

        Raises:
            DamagedError: the blocks are damaged.
            BoundNotGuaranteed: the decoded numbers differ from the encoder's; the error holds the cube.
        """
        listed, facts, residuals, extra = blocks
        shape, bands, num_extra = valid.shape, list(self.model_bands), len(self.extra_bands)
        if len(facts) != 8 or len(extra) < num_extra:
            raise DamagedError("the bytes of a tile with a bound are damaged")
        grid, checksum = int.from_bytes(facts[:4], "little"), int.from_bytes(facts[4:], "little")
        if not 1 <= grid <= MAX_GRID:
            raise DamagedError(f"the grid must be from 1 to {MAX_GRID}, got {grid}")
        rounded = round_as_listed(self._predict(x_hat), grid, listed)
        decoded = np.zeros(shape, np.int32)
        decoded[bands] = self._add(rounded, decode_planes(residuals, (len(bands), *shape[1:])))
        extra_levels = decode_planes(extra[num_extra:], (num_extra, *shape[1:]))
        for band, kind, level in zip(self.extra_bands, extra[:num_extra], extra_levels, strict=True):
            decoded[band] = self._add(_extra_prediction(decoded, band, kind), level)
        decoded[~valid] = 0
        samples = self.numbers.samples(decoded)
        if _checksum(decoded) != checksum:
            raise BoundNotGuaranteed(samples)
        return samples

    def _predict(self, x_hat: np.ndarray) -> np.ndarray:
        """Return the model's bands as numbers, float64, clipped to their range and not rounded."""
        return self.numbers.clip(np.nan_to_num(x_hat.astype(np.float64) * self.unit))

    def _encode_extra(
        self, targets: np.ndarray, decoded: np.ndarray, valid: np.ndarray, band: int
    ) -> tuple[int, np.ndarray]:
        """Return the better prediction of an extra band, 0 (by 0) or 1 (by the preceding band), and its levels."""
        candidates = []
        for kind in (0, 1):
            residual = self._wrap(targets[band] - _extra_prediction(decoded, band, kind))
            level = quantize(np.where(valid[band], residual, 0), self._bound)
            roughness = int(np.abs(np.diff(level, axis=0)).sum() + np.abs(np.diff(level, axis=1)).sum())
            candidates.append((roughness, kind, level))
        _, kind, level = min(candidates, key=lambda candidate: candidate[:2])
        return kind, level

    @property
    def _bound(self) -> int:
        assert self.numbers.bound is not None  # residuals are coded with a bound only
        return self.numbers.bound

    @property
    def _wraps(self) -> bool:
        """Whether residuals are modulo 2^16: lossless residuals of integers would otherwise need 17 bits."""
        return self.numbers.bound == 0 and self.numbers.dtype in INTEGER_RANGES

    def _wrap(self, residual: np.ndarray) -> np.ndarray:
        return (residual + 2**15) % 2**16 - 2**15 if self._wraps else residual

    def _add(self, prediction: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Return the numbers that a prediction and quantized residuals decode to."""
        value = prediction + levels.astype(np.int64) * (2 * self._bound + 1)
        if self._wraps:
            low = int(self.numbers.clip(np.array(-(2**40))))
            return (value - low) % 2**16 + low
        return self.numbers.clip(value)


def _extra_prediction(decoded: np.ndarray, band: int, kind: int) -> np.ndarray:
    return decoded[band - 1] if kind and band else np.zeros_like(decoded[band])


def _checksum(numbers: np.ndarray) -> int:
    return zlib.crc32(numbers.astype("<i4", copy=False).data)
