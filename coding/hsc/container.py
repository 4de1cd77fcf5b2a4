"""The `.hsc` file: a header, side information, a tile index, and one record of bytes for each tile.

The codec named in the header defines the content of a record. docs/format.md specifies the layout. Every byte of a file
has a fixed value or is covered by a CRC-32, so damage is always detected. The index precedes the records, so the tiles
before the cut can be read from a truncated file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import IO, NoReturn

import numpy as np

from coding.base import CodingError, DamagedError
from coding.hsc.header import (
    MAX_HEADER_BYTES,
    Header,
    deflate_header,
    header_from_json,
    header_to_json,
    inflate_header,
)
from datasets.base import SceneInfo

MAGIC = b"\x89HSC\r\n\x1a\n"
"""As in PNG, a transfer as text, or through 7 bits, alters it."""
VERSION = 5

MAX_SHARED_BYTES = 2**30
MAX_FILE_BYTES = 2**63

_VERSION = struct.Struct("<I")
_FRAME = struct.Struct("<QI")  # precedes each block: its length, its CRC-32
_ENTRY = np.dtype([("offset", "<u8"), ("length", "<u8"), ("crc", "<u4")])


class DamagedTile(DamagedError):
    """A tile cannot be read; other tiles are not affected.

    Attributes:
        number: number of the tile.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, number)  # pickling passes `args` to the constructor again
        self.number = number

    def __str__(self) -> str:
        return self.args[0]


@contextlib.contextmanager
def open_file(path: str | os.PathLike) -> Iterator[Reader]:
    """Open a `.hsc` file; yield its `Reader`.

    Raises:
        DamagedError: there is no such file, or `Reader` cannot open it.
    """
    if not os.path.exists(path):
        raise DamagedError(f"{path}: no such file")
    if os.path.isdir(path):
        raise DamagedError(f"{path} is a folder: name a .hsc file")
    with open(path, "rb") as file:
        yield Reader(file, str(path))


class Writer:
    """Writes a `.hsc` file record by record, so that it does not have to fit in memory.

    Args:
        file: an empty, seekable binary file; nothing else may use it until `finish` returns.
        header: header of the file.
        shared: side information of the codec for all tiles.

    Raises:
        CodingError: the header or `shared` breaks a rule or a limit of the format.
    """

    def __init__(self, file: IO[bytes], header: Header, shared: bytes = b"") -> None:
        try:
            text = header_to_json(header)
            header_from_json(text)
        except ValueError as error:
            raise CodingError(f"a .hsc file cannot hold this scene: {error}") from error
        stored = deflate_header(text)
        for what, content, limit in (
            ("header", text, MAX_HEADER_BYTES),
            ("deflated header", stored, MAX_HEADER_BYTES),
            ("shared block", shared, MAX_SHARED_BYTES),
        ):
            if len(content) > limit:
                raise CodingError(f"a .hsc file cannot hold this scene: {what} of {len(content)} bytes, limit {limit}")
        self._file = file
        self._index = np.zeros(header.tile_count, _ENTRY)
        file.write(MAGIC + _VERSION.pack(VERSION))
        self._write_block(stored)
        self._write_block(shared)
        self._index_offset = file.tell()
        # Zeros are not a valid index: until `finish`, the file cannot be opened.
        file.write(bytes(_FRAME.size + self._index.nbytes))

    def add(self, number: int, payload: bytes) -> None:
        """Write the record of a tile. Tiles may be added in any order.

        Raises:
            ValueError: there is no such tile, or it was added before.
        """
        if not 0 <= number < len(self._index):
            raise ValueError(f"tile {number} of {len(self._index)}, counted from 0")
        if self._index[number]["offset"]:  # no record has an offset of 0
            raise ValueError(f"tile {number} was added before")
        self._index[number] = self._file.tell(), len(payload), _record_crc(number, payload)
        self._file.write(payload)

    def finish(self) -> None:
        """Write the index, which makes the file valid.

        Raises:
            ValueError: a tile was not added.
        """
        missing = np.flatnonzero(self._index["offset"] == 0)
        if missing.size:
            raise ValueError(f"{missing.size} of {len(self._index)} tiles were not added, the first is {missing[0]}")
        self._file.seek(self._index_offset)
        self._write_block(self._index.tobytes())

    def _write_block(self, content: bytes) -> None:
        self._file.write(_FRAME.pack(len(content), zlib.crc32(content)))
        self._file.write(content)


class Reader:
    """Reads a `.hsc` file: all but the records when it is opened, then the records one by one.

    A damaged length never causes more bytes to be read than the file has. A Reader moves the position of its file, so
    each thread and each process needs its own.

    Args:
        file: a seekable binary file.
        name: name of the file in messages.

    Attributes:
        header: the header.
        shared: side information of the codec.

    Raises:
        DamagedError: not a `.hsc` file, another version of the format, damage before the records, or bytes after them.
            A file that ends within its records can be opened.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._size = file.seek(0, 2)
        file.seek(0)
        self._read_magic()
        stored = self._read_block("header", MAX_HEADER_BYTES)
        try:
            self.header = header_from_json(inflate_header(stored))
        except ValueError as error:
            self._fail(str(error))
        self._header_bytes = file.tell()
        self.shared = self._read_block("shared block", MAX_SHARED_BYTES)
        self._read_index()

    def tile(self, number: int) -> bytes:
        """Return the record of a tile.

        Raises:
            DamagedTile: the record is damaged, or the file ends before or within it.
            ValueError: there is no tile of that number.
        """
        self.header.window(number)  # raises for -1, which would index the last tile
        offset, length, crc = self._index[number].item()
        if offset + length > self._size:
            raise self.damaged_tile(number, f"the file ends {_count(offset + length - self._size, 'byte')} too early")
        self._file.seek(offset)
        payload = self._file.read(length)
        if _record_crc(number, payload) != crc:
            raise self.damaged_tile(number, "its checksum does not match")
        return payload

    def damaged_tile(self, number: int, reason: str) -> DamagedTile:
        """Return an error that names a tile, its place, and what is wrong with it."""
        return DamagedTile(f"{self.tile_name(number)} is damaged: {reason}", number)

    def tile_name(self, number: int) -> str:
        """Return the name of a tile in messages: file, number and place."""
        row, column, height, width = self.header.window(number)
        return f"{self._name}: tile {number} (row {row}, column {column}, {height} x {width} pixels)"

    def info(self) -> str:
        """Describe the file for people: lines of a label and a value, without a line end after the last."""
        header, scene = self.header, self.header.scene
        tiles_bytes = self._end - self._records_offset
        bits = 8 * self._end / (scene.height * scene.width * len(header.coded_bands))
        lines = {
            "codec": header.codec,
            "parameters": json.dumps(header.parameters, sort_keys=True),
            "model": "none",
            "size": f"{scene.height} x {scene.width} pixels, {_count(scene.bands, 'band')} of {scene.dtype}",
            "nodata": _nodata_text(scene),
            "masks": {0: "none", 1: "one for all bands"}.get(scene.masks, "one per band"),
            "CRS": _crs_name(scene.crs),
            "scale": f"{_digits(header.scale)} is reflectance 1.0",
            "dropped": "; ".join(f"{why}: {_ranges(bands)}" for why, bands in header.dropped.items()) or "none",
            "alpha": _ranges(header.exact) or "none",
            "tiles": f"{header.tile_rows} x {header.tile_columns} of {header.tile_size} x {header.tile_size} pixels",
            "max error": "no bound" if header.max_error is None else _digits(header.max_error),
            "bytes": f"{self._end}: header {self._header_bytes}, shared {len(self.shared)}, tiles {tiles_bytes}, "
            f"index {self._end - self._header_bytes - len(self.shared) - tiles_bytes}",
            "rate": f"{bits:.4g} bits per sample of the {_count(len(header.coded_bands), 'coded band')}",
        }
        if header.model:
            model = header.model
            channels = _count(model["num_channels"], "channel")
            lines["model"] = f"{model['name']}, {channels}, SHA-256 {model['sha256'][:12]}..."
        if self._end > self._size:
            cut = np.count_nonzero(self._index["offset"] + self._index["length"] > self._size)
            missing = _count(self._end - self._size, "byte")
            lines["damaged"] = f"the file ends {missing} too early: {_count(cut, 'tile')} cut off"
        return "\n".join(f"{label:<12}{text}" for label, text in lines.items())

    def _fail(self, reason: str) -> NoReturn:
        raise DamagedError(f"{self._name}: {reason}")

    def _read(self, length: int, what: str) -> bytes:
        if length > self._size - self._file.tell():
            self._fail(f"the file ends inside its {what}")
        return self._file.read(length)

    def _read_magic(self) -> None:
        magic = self._file.read(len(MAGIC))
        if magic != MAGIC:
            self._fail(
                "begins like a .hsc file that was altered, by a transfer as text for instance: fetch it again"
                if magic[1:4] == MAGIC[1:4]
                else "is no .hsc file; a bare CCSDS 123 stream needs decompress.py --raw"
            )
        (version,) = _VERSION.unpack(self._read(_VERSION.size, "version number"))
        if version != VERSION:
            advice = "update it"
            if version < VERSION:
                advice = "compress the scene again" if version else "there is no such version, the file is damaged"
            self._fail(f"format version {version}, this program reads version {VERSION}: {advice}")

    def _read_block(self, what: str, limit: int) -> bytes:
        length, crc = _FRAME.unpack(self._read(_FRAME.size, what))
        if length > limit:
            self._fail(f"{what} of {length} bytes, expected at most {limit}")
        content = self._read(length, what)
        if zlib.crc32(content) != crc:
            self._fail(f"{what} is damaged: its checksum does not match")
        return content

    def _read_index(self) -> None:
        count = self.header.tile_count
        content = self._read_block("tile index", count * _ENTRY.itemsize)
        if len(content) != count * _ENTRY.itemsize:
            self._fail(f"tile index of {len(content)} bytes, expected {count * _ENTRY.itemsize} for {count} tiles")
        self._index = np.frombuffer(content, _ENTRY)
        self._records_offset = self._file.tell()

        # Records, ordered by offset, must leave no gaps and not overlap. A sum that wraps around is smaller than its
        # offset, so it never matches the next one.
        ordered = self._index[np.lexsort((self._index["length"], self._index["offset"]))]
        starts, lengths = ordered["offset"], ordered["length"]
        if starts[0] != self._records_offset or (starts[:-1] + lengths[:-1] != starts[1:]).any():
            self._fail("tile index is damaged: records overlap or leave gaps")
        self._end = int(starts[-1]) + int(lengths[-1])
        if self._end >= MAX_FILE_BYTES:
            self._fail(f"tile index is damaged: records end at byte {self._end}")
        if self._end < self._size:
            extra = _count(self._size - self._end, "byte")
            self._fail(f"{extra} too many: cut the file to {self._end} bytes if you know where they are from")


def print_info(path: str) -> int:
    """Print a description of a `.hsc` file."""
    with open_file(path) as reader:
        print(reader.info())
    return 0


def _record_crc(number: int, payload: bytes) -> int:
    """Return the CRC-32 of a tile's number and record; with the number, swapped records are noticed."""
    return zlib.crc32(payload, zlib.crc32(number.to_bytes(8, "little")))


# -- values as text -------------------------------------------------------------------------------


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _nodata_text(scene: SceneInfo) -> str:
    if not scene.band_nodata:
        return "none" if scene.nodata is None else _digits(scene.nodata)
    values = list(dict.fromkeys("none" if value is None else _digits(value) for value in scene.band_nodata))
    return "by band: " + ", ".join(values[:3]) + (", ..." if len(values) > 3 else "")


def _digits(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def _ranges(bands: tuple[int, ...]) -> str:
    """Format band numbers: 1, 2, 3, 7 as "1-3, 7"."""
    runs: list[list[int]] = []
    for band in sorted(bands):
        if runs and band == runs[-1][-1] + 1:
            runs[-1][1:] = [band]
        else:
            runs.append([band])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _crs_name(crs: str | None) -> str:
    """Return the name in a WKT such as `PROJCS["WGS 84 / UTM zone 33N",...`."""
    if crs is None:
        return "none"
    match = re.match(r'\s*\w+\s*\[\s*"([^"]{1,60})"', crs)
    return match[1] if match and match[1].isprintable() else "without a short name"
