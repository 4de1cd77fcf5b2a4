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
        number: number of the codec in streams, 1 to 127; never changed, never reused.
        factory: "module:attribute" of a function that takes `Samples` and the codec's options as keywords, and returns
            a `CodecFactory`.
        opener: "module:attribute" of a function that takes a file's `Header` and shared bytes (and, if the codec has
            weights, the keywords `checkpoint` and `device`), and returns the `Codec` that decodes the file's tiles.
        is_compared: whether `benchmark.py rd` compares the codec by default.
        has_weights: whether the codec needs the weights of a model.
        stream_reader: "module:attribute" of a function that decodes the codec's bytes without a file around them; empty
            if no standard defines these bytes.
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
            CodingError: the codec cannot code such samples.
        """
        return _load(self.factory)(samples, **options)

    def open(self, header: Header, shared: bytes, **weights: Any) -> Codec:
        """Return the codec that decodes the tiles of a file.

        Raises:
            DamagedError: this codec did not write the header or the shared bytes.
            CodingError: the weights are not those that the file was coded with.
        """
        return _load(self.opener)(header, shared, **weights)

    def read_stream(self, data: bytes) -> np.ndarray:
        """Return the cube (C, H, W) of a bare stream, decoded by `stream_reader`.

        Raises:
            DamagedError: `data` is damaged, or not such a stream.
        """
        return _load(self.stream_reader)(data)


def _load(location: str) -> Any:
    module, _, attribute = location.partition(":")
    return attrgetter(attribute)(importlib.import_module(module))


def _classical(number: int, location: str, **settings: Any) -> Entry:
    """Return the entry of a class in `coding.classical`."""
    path = f"coding.classical.{location}"
    return Entry(number, f"{path}.factory", f"{path}.open", **settings)


_CCSDS123_READER = "coding.classical.ccsds123.image:decode"

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
    "ccsds123": _classical(16, "ccsds123.codec:Ccsds123Codec", stream_reader=_CCSDS123_READER),
    "ccsds123-tuned": _classical(18, "ccsds123.codec:Ccsds123TunedCodec", stream_reader=_CCSDS123_READER),
    "factorized": _classical(17, "factorized:Factorized", is_compared=False),
    "learned": Entry(
        2, "coding.learned.factory:make_factory", "coding.learned.codec:open_codec", is_compared=False, has_weights=True
    ),
}
"""Codec name, as in the header of a file -> entry."""

COMPARED = tuple(name for name, entry in codecs.items() if entry.is_compared)
"""Names of the codecs that `benchmark.py rd` compares by default."""

PLANE_CODERS = {"context": "klt-cm", "jpegxl": "jpegxl", "factorized": "factorized"}
"""Coder of quantized latents, as `--coder` takes it, the default first -> name of the codec that implements it."""

MODEL_CODER = "model"
"""Value of `--coder` for a model's own entropy model and steps, the default for models that have one."""
