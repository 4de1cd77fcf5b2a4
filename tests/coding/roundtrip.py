"""Cubes to `.hsc` files in memory and back, as compress.py and decompress.py do."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from coding import codecs
from coding.base import Codec, CodecFactory
from coding.hsc.container import Reader
from coding.hsc.header import Header
from coding.hsc.tiling import Problems, Window, Written, compress_scene, decompress_scene
from coding.samples import Samples, SceneSamples
from datasets.base import SceneInfo


class ArrayScene:
    """A cube (C, H, W) in memory as a scene."""

    def __init__(self, cube: np.ndarray, nodata: float | None = None, masks: np.ndarray | None = None) -> None:
        bands, height, width = cube.shape
        self.masks = np.zeros((0, height, width), bool) if masks is None else masks
        self.cube, self.info = cube, SceneInfo(height, width, bands, cube.dtype.name, nodata, masks=len(self.masks))

    def read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        return self.cube[:, row : row + height, column : column + width]

    def read_masks(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        return self.masks[:, row : row + height, column : column + width]


def header_of(cube, codec="klt-cm", nodata=None, scale=10000.0, max_error=None, tile_size=16) -> Header:
    """Return the header of a file of `cube`, without the codec's parameters."""
    return Header(codec, {}, None, ArrayScene(cube, nodata).info, scale, {}, tile_size, max_error)


def samples_of(cube, header: Header) -> SceneSamples:
    return SceneSamples(ArrayScene(cube, header.scene.nodata), header)


def encode(
    cube: np.ndarray,
    header: Header,
    choose: Callable[[CodecFactory], Codec] | None = None,
    make_factory: Callable[[Samples], CodecFactory] | None = None,
    num_workers: int = 1,
) -> tuple[bytes, Written]:
    """Return the bytes of a file, and what `compress_scene` returns.

    Args:
        cube: (C, H, W).
        header: header of the file, without the codec's parameters and model.
        choose: takes the factory and returns a codec; by default the codec of the header's bound.
        make_factory: makes the codec factory; by default that of the registry.
        num_workers: number of threads.
    """
    factory = (make_factory or codecs[header.codec].make_factory)(samples_of(cube, header))
    if choose is None:
        assert factory.bounded is not None
        codec = factory.bounded(header.max_error)
    else:
        codec = choose(factory)
    scene, file = ArrayScene(cube, header.scene.nodata), io.BytesIO()
    written = compress_scene(scene, file, replace(header, model=factory.model), codec, num_workers)
    return file.getvalue(), written


def read(data: bytes) -> Reader:
    return Reader(io.BytesIO(data), "FILE")


def decode(data: bytes, codec: Codec | None = None, num_workers: int = 1) -> tuple[np.ndarray, Problems]:
    """Return the cube of a file, and the problems with its tiles.

    Args:
        data: the bytes of the file.
        codec: the codec; by default that of the registry.
        num_workers: number of threads.
    """
    reader = read(data)
    info = reader.header.scene
    cube = np.zeros((info.bands, info.height, info.width), info.dtype)

    def write(row, column, samples, _masks):
        cube[:, row : row + samples.shape[1], column : column + samples.shape[2]] = samples

    codec = codec or codecs[reader.header.codec].open(reader.header, reader.shared)
    return cube, decompress_scene(reader, codec, write, Window.whole(info), num_workers=num_workers)


def decoded(data: bytes, codec: Codec | None = None) -> np.ndarray:
    """Return the cube of a file; assert that there are no problems."""
    cube, problems = decode(data, codec)
    assert not problems.damaged and not problems.unguaranteed
    return cube
