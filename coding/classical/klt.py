"""Karhunen-Loeve transform along the bands, then the components as images: by JPEG 2000, JPEG XL, SPERR or as floats.

The classical way to code a hyperspectral image at high quality (Penna, Tillo, Magli and Olmo, IEEE TGRS 45(5), 2007,
doi 10.1109/TGRS.2007.894565): the transform takes the redundancy between the bands, a coder of images what is left
within a component. All components have one squared error, by reverse water-filling; see `coding.klt`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import cast

import imagecodecs
import numpy as np

from coding.base import CodingError, DamagedError, join_blocks, split_blocks
from coding.classical.codec import ANY, ClassicalCodec, Modes
from coding.classical.sperr import psnr_of
from coding.classical.streams import join_streams, split_streams
from coding.klt import Klt, fit_klt, principal_components, unpack_klt
from coding.planes import decode_planes, encode_planes

_GROUP = 16  # components in an image of JPEG XL
_FRACTION = 16  # whole numbers in a step, for JPEG 2000
_BITS = 26  # of these numbers, the most that imagecodecs takes: OpenJPEG measures errors against it
_LARGEST = 2**21  # of these numbers: beyond twice that, OpenJPEG's wavelet overflows


class _KltCodec(ClassicalCodec):
    """Base of codecs of components. On images the squared error is 0.6 to 1.1 times step^2 / 12.

    It is less where the mean alone errs less, and rounding to integers adds 1 / 12.
    """

    modes = Modes(lossy=ANY)

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

    @abstractmethod
    def _encode(self, components: np.ndarray) -> bytes:
        """Encode components (K, H, W), float64, in steps; errors of libraries pass through."""

    @abstractmethod
    def _decode(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """Return the components (K, H, W) of `_encode`, in steps, with a squared error of about 1 / 12 in each."""


class KltJpegxl(_KltCodec):
    """KLT, components rounded to whole steps and coded without loss by JPEG XL (ISO/IEC 18181-1).

    JPEG XL learns its contexts from all samples of an image, which pays as long as they are alike: one image of all
    components took up to 7 % more bytes than images of 16 each, an image of each component up to 5 % more.
    """

    def _encode(self, components: np.ndarray) -> bytes:
        numbers = np.rint(components).astype(np.int64)
        return join_streams([encode_planes(numbers[k : k + _GROUP], "jpegxl") for k in range(0, len(numbers), _GROUP)])

    def _decode(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        count = shape[0]
        sizes = [min(_GROUP, count - k) for k in range(0, count, _GROUP)]
        groups = zip(split_streams(data, len(sizes)), sizes, strict=True)
        return np.concatenate([decode_planes(stream, (size, *shape[1:])) for stream, size in groups])


class KltJpeg2000(_KltCodec):
    """KLT, components one below the other as one image of JPEG 2000 (ISO/IEC 15444-1, Part 1): irreversible, 9/7.

    In one image a single threshold ends the coding of all components where a bit gains least; images of their own took
    a tenth more bytes, channels of one image up to 4 %. OpenJPEG works with floats whose error, in noise, is
    2^-15 of the largest: components of noise have a larger error than asked for where they exceed 2^12 steps, and those
    that exceed 2^17 are refused.
    """

    def _encode(self, components: np.ndarray) -> bytes:
        numbers = np.rint(components * _FRACTION)
        if np.abs(numbers).max() >= _LARGEST:
            raise CodingError(
                f"a step of {self.step:g} is too fine for JPEG 2000 on these samples: ask for a larger one"
            )
        psnr = 20 * math.log10(2**_BITS - 1) - 10 * math.log10(_FRACTION**2 / 12)
        return bytes(
            imagecodecs.jpeg2k_encode(
                numbers.astype(np.int32).reshape(-1, components.shape[2]),
                level=cast(int, psnr),  # takes any number, whatever its annotation says
                codecformat="j2k",
                reversible=False,
                bitspersample=_BITS,
                numthreads=1,
            )
        )

    def _decode(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return imagecodecs.jpeg2k_decode(data, numthreads=1).reshape(shape) / _FRACTION


class KltSperr(_KltCodec):
    """KLT, each component an image of SPERR (Li, Lindstrom and Clyne, doi 10.1109/IPDPS54959.2023.00104), to a PSNR."""

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
    """Principal components as float32, the fewest whose error is small enough: no quantizer, no entropy coder.

    What dimensionality reduction alone gives, and the linear counterpart of autoencoders that store float32 latents.
    Published rates of such models count the latents, here the components, alone. Here the mean and the basis count as
    well, for the decoder knows nothing of the image. The squared error is at most step^2 / 12 before integers are
    rounded.
    """

    modes = Modes(lossy=ANY)

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
            raise DamagedError(f"{len(data)} bytes hold no principal components of a cube of {shape}")
        mean, basis, components = np.split(np.frombuffer(data, "<f4"), [bands, bands * (1 + count)])
        klt = Klt(mean, basis.reshape(bands, count), step=1)
        return klt.inverse(components.reshape(count, *shape[1:]))
