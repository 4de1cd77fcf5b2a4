"""A network as a codec of cubes in memory, behind the interface that all codecs share."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np

from coding.base import Codec, CodingError, DamagedError, Family
from coding.classical.header import pack_cube_header, unpack_cube_header
from coding.hsc.container import Header, Reader
from coding.hsc.tiling import ArrayScene, Part, compress_scene, decompress_scene
from coding.learned.fit import COARSEST, DEFAULT_LOSS, FINEST, LearnedFit
from coding.learned.network import Network, load_network
from coding.learned.tiles import DEFAULT_CODER, open_tiles
from coding.rate_control import Wish
from datasets.base import DTYPES


@dataclass
class LearnedCodec(Codec):
    """Cubes of all the network's bands to the bytes of a `.hsc` file, which `decompress.py` reads too.

    Attributes:
        network: a model with its weights.
        wish: what the quantizer's step is to bring about.
        max_error: bound on the error of every sample, in the cube's own units; None for no bound.
        scale: sample value of reflectance 1.0.
        nodata: value of samples without data; None where all are valid.
        coder: of the quantized latents, one of `coding.planes.plane_coders`.
        tile_size: in pixels.
    """

    network: Network
    wish: Wish
    max_error: float | None = None
    scale: float = 1.0
    nodata: float | None = None
    coder: str = DEFAULT_CODER
    tile_size: int = 128

    def encode(self, cube: np.ndarray) -> bytes:
        """Cube (C, H, W) of int16, uint16 or float32 to bytes."""
        if cube.ndim != 3 or not cube.size or cube.dtype.name not in DTYPES:
            raise CodingError(f"a cube of {cube.dtype} and shape {cube.shape}, not (C, H, W) of {', '.join(DTYPES)}")
        network = self.network
        scene = ArrayScene(cube, self.nodata)
        header = Header(
            codec="learned",
            parameters={},
            model={"name": network.name, "sha256": network.sha256, "num_channels": network.num_bands},
            scene=scene.info,
            scale=self.scale,
            dropped={},
            tile_size=self.tile_size,
            max_error=self.max_error,
        )
        coder = LearnedFit(scene, header, network, self.coder, range(len(cube))).coder(self.wish)
        file = io.BytesIO()
        compress_scene(scene, file, replace(header, parameters=coder.parameters()), coder)
        return file.getvalue()

    def decode(self, data: bytes) -> np.ndarray:
        """The bytes of `encode` to a cube of its type.

        Raises:
            DamagedError: other bytes, or a tile whose bound is not guaranteed.
            CodingError: bytes of another network.
        """
        reader = Reader(io.BytesIO(data), "a learned codec's bytes")
        info = reader.header.scene
        cube = np.empty((info.bands, info.height, info.width), info.dtype)

        def write(row: int, column: int, samples: np.ndarray) -> None:
            cube[:, row : row + samples.shape[1], column : column + samples.shape[2]] = samples

        coder = open_tiles(reader.header, reader.shared, self.network)
        problems = decompress_scene(reader, coder, write, Part.whole(info))
        if problems.unguaranteed:
            raise DamagedError(problems.unguaranteed[0])
        return cube


@dataclass
class LatentCodec(Codec):
    """Cubes of all the network's bands to its latents as float32, which is how the published rates count them.

    Attributes:
        network: a model with its weights.
        scale: sample value of reflectance 1.0.
    """

    network: Network
    scale: float = 1.0

    def encode(self, cube: np.ndarray) -> bytes:
        header = pack_cube_header(cube)
        if len(cube) != self.network.num_bands:
            raise CodingError(f"{len(cube)} bands, and {self.network.name} takes {self.network.num_bands}")
        x = np.clip(cube.astype(np.float32) / np.float32(self.scale), 0, 1)
        return header + self.network.encode(x).astype("<f4").tobytes()

    def decode(self, data: bytes) -> np.ndarray:
        dtype, (bands, height, width), content = unpack_cube_header(data)
        size = self.network.latent_size(height, width)
        if bands != self.network.num_bands or len(content) != 4 * int(np.prod(size)):
            raise DamagedError(f"no latents of {self.network.name}")
        y = np.frombuffer(content, "<f4").astype(np.float32).reshape(size)
        x_hat = self.network.decode(y, height, width) * np.float32(self.scale)
        return x_hat if dtype == np.float32 else np.rint(np.clip(x_hat, 0, np.iinfo(dtype).max)).astype(dtype)


def learned_family(name: str, checkpoint: str, num_channels: int, coder: str, peak: float) -> Family:
    """A model of the registry with the weights of a file, as `LearnedCodec` with its latents quantized; `fixed` is
    `LatentCodec`.

    Args:
        coder: of the quantized latents, one of `coding.planes.plane_coders`.
        peak: sample value of reflectance 1.0. A step of 2^-8 of it is one of the quantizer's own units.
    """
    network = load_network(name, checkpoint, num_channels, "cpu")

    def lossy(step: float) -> Codec:
        own = step * 2.0**8 / peak
        if not FINEST <= own <= COARSEST:
            raise CodingError(f"a step of {own:g} is outside of what {name} is coded with")
        return LearnedCodec(network, Wish(step=own), None, peak, coder=coder)

    def bounded(max_error: float) -> Codec:
        return LearnedCodec(network, Wish(smallest=True), max_error, peak, coder=coder)

    def quantized() -> Codec:
        return LearnedCodec(network, Wish(loss=DEFAULT_LOSS), None, peak, coder=coder)

    return Family(lossy, bounded, lambda: bounded(0), lambda: LatentCodec(network, peak), quantized)
