"""Codecs: cube in, bytes out. `codecs` is the registry of all of them.

This package imports nothing heavy, so that `--help` of the scripts can list the names: the module of a codec is
imported when the codec is first used.
"""

from __future__ import annotations

import importlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from coding.base import Codec, CodecFactory
    from coding.hsc.header import Header
    from coding.samples import Samples


class Entry(NamedTuple):
    """A codec of the registry.

    Attributes:
        number: of the codec in streams, 1 to 127. Written down here, never changed and never given to another codec.
        factory: "module:attribute" of a function that takes `Samples`, and options of its own by name, and returns a
            `CodecFactory`.
        opener: "module:attribute" of a function that takes a file's `Header` and shared bytes, and by name the weights
            (`checkpoint`, `device`) if it needs some, and returns the `Codec` that decodes the file's tiles.
        is_compared: whether `benchmark.py rd` compares the codec if nothing else is asked for.
        has_weights: whether the codec needs a model.
        stream_reader: "module:attribute" of a function that decodes the codec's bytes on their own, where a standard
            says what is in them; else empty.
    """

    number: int
    factory: str
    opener: str
    is_compared: bool = True
    has_weights: bool = False
    stream_reader: str = ""

    def make_factory(self, samples: Samples, **options: Any) -> CodecFactory:
        """Return the codec's factory for `samples`.

        Raises:
            CodingError: the codec cannot take such samples.
        """
        return _load(self.factory)(samples, **options)

    def open(self, header: Header, shared: bytes, **weights: Any) -> Codec:
        """Return the codec that decodes the tiles of a file.

        Raises:
            DamagedError: a header or a shared block that this codec did not write.
            CodingError: other weights than those that the file was coded with.
        """
        return _load(self.opener)(header, shared, **weights)

    def read_stream(self, data: bytes) -> np.ndarray:
        """Decode the codec's bytes on their own, by its `stream_reader`; return the cube (C, H, W).

        Raises:
            DamagedError: other bytes.
        """
        return _load(self.stream_reader)(data)


def _load(location: str) -> Any:
    module, _, attribute = location.partition(":")
    return attrgetter(attribute)(importlib.import_module(module))


def _classical(number: int, location: str, **settings: Any) -> Entry:
    """Return the entry of a class in `coding.classical`."""
    path = f"coding.classical.{location}"
    return Entry(number, f"{path}.factory", f"{path}.open", **settings)


codecs: dict[str, Entry] = {
    "jpeg2000": _classical(3, "jpeg2000:Jpeg2000"),
    "jpeg2000-mc": _classical(4, "jpeg2000:Jpeg2000Components"),
    "htj2k": _classical(5, "jpeg2000:Htj2k"),
    "jpegxl": _classical(6, "jpegxl:JpegXl"),
    "jpegls": _classical(7, "jpegls:JpegLs"),
    "klt-jpeg2000": _classical(8, "klt:KltJpeg2000"),
    "klt-jpegxl": _classical(9, "klt:KltJpegxl"),
    "klt-sperr": _classical(10, "klt:KltSperr"),
    "klt-cm": Entry(1, "coding.kltcm.codec:KltCm.factory", "coding.kltcm.codec:KltCm.open"),
    "pca-float32": _classical(11, "klt:PcaFloat32"),
    "sperr": _classical(12, "sperr:Sperr"),
    "sz3": _classical(13, "sz3:Sz3"),
    "zfp": _classical(14, "zfp:Zfp"),
    "aec": _classical(15, "aec:Aec"),
    "ccsds123": _classical(16, "ccsds123:Ccsds123Codec", stream_reader="coding.classical.ccsds123:read_stream"),
    "factorized": _classical(17, "factorized:Factorized", is_compared=False),
    "learned": Entry(
        2, "coding.learned.factory:make_factory", "coding.learned.codec:open_codec", is_compared=False, has_weights=True
    ),
}
"""Name, as headers of files have it -> entry."""

COMPARED = tuple(name for name, entry in codecs.items() if entry.is_compared)
"""Names of the codecs that `benchmark.py rd` compares if nothing else is asked for."""

PLANE_CODERS = {"context": "klt-cm", "jpegxl": "jpegxl", "factorized": "factorized"}
"""Coder of a model's quantized latents, as `--coder` takes it, the default first -> the codec that does it."""
