"""Karhunen-Loeve transform along the bands; components coded as images by JPEG 2000, JPEG XL or SPERR, or as floats.

The classical way to code a hyperspectral image at high quality (Penna, Tillo, Magli and Olmo, IEEE TGRS 45(5), 2007,
doi 10.1109/TGRS.2007.894565): the transform removes the redundancy between bands, and an image codec that within a
component. All components have the same squared error, by reverse water-filling; see `coding.klt`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import cast

import imagecodecs
import numpy as np

from coding.base import SHORT, CodecFactory, CodingError, DamagedError, join_blocks, split_blocks
from coding.classical.codec import ANY, ClassicalCodec, Modes
from coding.classical.sperr import psnr_of
from coding.classical.streams import join_streams, split_streams
from coding.klt import Klt, fit_klt, principal_components, unpack_klt
from coding.klt_rates import klt_rates
from coding.planes import decode_planes, encode_planes
from coding.samples import Samples

_COMPONENTS_PER_IMAGE = 16  # for JPEG XL
_LEVELS_PER_STEP = 16  # JPEG 2000 is given integers, which are fractions of a step
_LEVEL_BITS = 26  # the most that imagecodecs takes; OpenJPEG's PSNR is relative to this depth
_MAX_LEVEL = 2**21  # beyond twice that, OpenJPEG's wavelet overflows


class _KltCodec(ClassicalCodec):
    """Base of codecs of KLT components. On images the squared error is 0.6 to 1.1 times step^2 / 12.

    It is smaller if the mean alone has a smaller error; rounding to integers adds 1 / 12.
    """

    modes = Modes(lossy=ANY)

    @classmethod
    def factory(cls, samples: Samples) -> CodecFactory:
        """Return the factory for `samples`."""
        return replace(super().factory(samples), rates=klt_rates)

    def encode_cube(self, cube: np.ndarray) -> bytes:
        assert self.step is not None  # there is no other mode
        klt, transform = fit_klt(cube, self.step**2 / 12)
        components = klt.forward(cube)
        return join_blocks([transform, self._encode(components) if components.size else b""])

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        transform, coded = split_blocks(data, 2)
        klt = unpack_klt(transform, shape[0], shape[1] * shape[2])
        planes = klt.basis.shape[1], *shape[1:]
        components = self._decode(coded, planes) if planes[0] else np.zeros(planes)
        if components.shape != planes:
            raise DamagedError(f"components must be of shape {planes}, got {components.shape}")
        return klt.inverse(components)

    def side_bytes(self, data: bytes) -> int:
        """See `Codec.side_bytes`: mean and basis."""
        return len(split_blocks(data, 2)[0])

    @abstractmethod
    def _encode(self, components: np.ndarray) -> bytes:
        """Encode components (K, H, W), float64, in steps; may raise errors of libraries."""

    @abstractmethod
    def _decode(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """Decode the bytes of `_encode`: components (K, H, W), in steps, each with a squared error of about 1 / 12."""


class KltJpegxl(_KltCodec):
    """KLT; components rounded to integer steps and coded without loss by JPEG XL (ISO/IEC 18181-1).

    JPEG XL learns its contexts from all samples of an image, which pays while these are alike: compared with images of
    16 components, one image of all components took up to 7 % more bytes, and one image per component up to 5 % more.
    """

    def _encode(self, components: np.ndarray) -> bytes:
        numbers = np.rint(components).astype(np.int64)
        starts = range(0, len(numbers), _COMPONENTS_PER_IMAGE)
        return join_streams([encode_planes(numbers[k : k + _COMPONENTS_PER_IMAGE], "jpegxl") for k in starts])

    def _decode(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        count = shape[0]
        sizes = [min(_COMPONENTS_PER_IMAGE, count - k) for k in range(0, count, _COMPONENTS_PER_IMAGE)]
        groups = zip(split_streams(data, len(sizes)), sizes, strict=True)
        return np.concatenate([decode_planes(stream, (size, *shape[1:])) for stream, size in groups])


class KltJpeg2000(_KltCodec):
    """KLT; components stacked vertically as one image of JPEG 2000 (ISO/IEC 15444-1): irreversible, 9/7.

    In one image, a single threshold truncates the coding of all components where a bit gains least: separate images
    took 10 % more bytes, channels of one image up to 4 % more. OpenJPEG computes with floats; on noise, their error is
    2^-15 of the largest value. Noisy components that exceed 2^12 steps therefore have a larger error than requested,
    and components that exceed 2^17 steps are refused.
    """

    def _encode(self, components: np.ndarray) -> bytes:
        numbers = np.rint(components * _LEVELS_PER_STEP)
        if np.abs(numbers).max() >= _MAX_LEVEL:
            raise CodingError(
                f"a step of {self.step:g} is too fine for JPEG 2000 on these samples: choose a larger one"
            )
        psnr = 20 * math.log10(2**_LEVEL_BITS - 1) - 10 * math.log10(_LEVELS_PER_STEP**2 / 12)
        return bytes(
            imagecodecs.jpeg2k_encode(
                numbers.astype(np.int32).reshape(-1, components.shape[2]),
                level=cast(int, psnr),  # the annotation is too narrow: any number will do
                codecformat="j2k",
                reversible=False,
                bitspersample=_LEVEL_BITS,
                numthreads=1,
            )
        )

    def _decode(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return imagecodecs.jpeg2k_decode(data, numthreads=1).reshape(shape) / _LEVELS_PER_STEP


class KltSperr(_KltCodec):
    """KLT; each component coded to a PSNR by SPERR (Li, Lindstrom and Clyne, doi 10.1109/IPDPS54959.2023.00104)."""

    def _encode(self, components: np.ndarray) -> bytes:
        streams = [
            imagecodecs.sperr_encode(component, psnr_of(1.0, np.ptp(component)), "psnr", header=False, numthreads=1)
            for component in components
        ]
        return join_streams(streams)

    def _decode(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return np.stack(
            [
                imagecodecs.sperr_decode(stream, shape=shape[1:], dtype=np.float64, header=False, numthreads=1)
                for stream in split_streams(data, shape[0])
            ]
        )


class PcaFloat32(ClassicalCodec):
    """Principal components as float32, as few as the step allows, without a quantizer or an entropy coder.

    This is dimensionality reduction alone, the linear counterpart of autoencoders that store float32 latents. Published
    rates of such models count the latents only (here: the components). This codec counts the mean and the basis as
    well, since the decoder needs them. The squared error is at most step^2 / 12 before rounding to integers.
    """

    modes = Modes(lossy=SHORT)

    def encode_cube(self, cube: np.ndarray) -> bytes:
        assert self.step is not None  # there is no other mode
        mean, variances, vectors = principal_components(cube)
        left = np.append(variances[::-1].cumsum()[::-1], 0)  # squared error after the first 0, 1, ..., C components
        count = int((left <= self.step**2 / 12 * len(cube)).argmax())
        klt = Klt(mean.astype("<f4"), vectors[:, :count].astype("<f4"), step=1)
        components = klt.forward(cube).astype("<f4")
        return klt.mean.tobytes() + klt.basis.tobytes() + components.tobytes()

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        bands, pixels = shape[0], shape[1] * shape[2]
        count, rest = divmod(len(data) - 4 * bands, 4 * (bands + pixels))
        if rest or not 0 <= count <= bands:
            raise DamagedError(f"{len(data)} bytes cannot be principal components of a cube of shape {shape}")
        mean, basis, components = np.split(np.frombuffer(data, "<f4"), [bands, bands * (1 + count)])
        klt = Klt(mean, basis.reshape(bands, count), step=1)
        return klt.inverse(components.reshape(count, *shape[1:]))
