"""The file `.hsc`: a header, side information, a tile index, and one record of bytes for each tile.

What a record's bytes mean is the business of the codec that the header names. docs/format.md holds the layout for
readers in other languages. Every byte of a file is known by its value or covered by a CRC-32, so damage is never
silent; and as the index comes before the records, a file that was cut still gives the tiles before the cut.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import reprlib
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NoReturn

import numpy as np

from coding.base import CodingError, DamagedError, deflate, inflate
from datasets.base import DTYPES, INTEGER_RANGES, SceneInfo

MAGIC = b"\x89HSC\r\n\x1a\n"
"""As in PNG: a transfer as text, or through 7 bits, changes it."""
VERSION = 1

MIN_TILE_SIZE, MAX_TILE_SIZE = 8, 1024  # pixels
MAX_SIDE = 2**24  # pixels
MAX_BANDS = 65535
MAX_TILE_SAMPLES = 2**26
MAX_TILES = 2**22
MAX_HEADER_BYTES = 2**22
"""Of the header's text, and as it is stored. Parsing hostile JSON takes 20 times its size."""
FREE_HEADER_BYTES, MAX_HEADER_RATIO = 2**16, 32
"""Header text of more than FREE_HEADER_BYTES + MAX_HEADER_RATIO x its stored bytes is a decompression bomb."""
MAX_SHARED_BYTES = 2**30
MAX_FILE_BYTES = 2**63
MAX_LABEL_LENGTH = 64  # characters
MAX_NESTING = 16

_VERSION = struct.Struct("<I")
_FRAME = struct.Struct("<QI")  # before each block: its length, its CRC-32
_ENTRY = np.dtype([("offset", "<u8"), ("length", "<u8"), ("crc", "<u4")])

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # for which JSON has no numbers
_FLOAT32_END = 2.0**128 - 2.0**103  # from here on, numbers round to infinity


class DamagedTile(DamagedError):
    """One tile that cannot be read; the others are not touched by it.

    Attributes:
        number: of the tile.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, number)  # both, or the error would not survive the way out of a worker process
        self.number = number

    def __str__(self) -> str:
        return self.args[0]


@dataclasses.dataclass(frozen=True)
class Header:
    """What a decoder must know beside the records and the weights.

    Tiles are squares numbered from 0 in raster order; those at the right and lower edge are cut to the scene.

    Attributes:
        codec: its name in the registry.
        parameters: the codec's own, plain JSON values.
        model: None, or a dictionary of `name`, `sha256` (over the sorted tensors, 64 hex digits) and
            `num_channels`.
        scene: the scene's metadata. What has one item for each band may also be empty.
        scale: sample value of reflectance 1.0, above 0.
        dropped: the bands that are not coded, by reason: 1-based numbers.
        tile_size: side of a tile in pixels, from 8 to 1024.
        max_error: bound on the error of every valid sample, in the scene's own units; None without one.
    """

    codec: str
    parameters: dict[str, Any]
    model: dict[str, Any] | None
    scene: SceneInfo
    scale: float
    dropped: dict[str, tuple[int, ...]]
    tile_size: int
    max_error: float | None

    @property
    def tile_rows(self) -> int:
        return -(-self.scene.height // self.tile_size)

    @property
    def tile_columns(self) -> int:
        return -(-self.scene.width // self.tile_size)

    @property
    def tile_count(self) -> int:
        return self.tile_rows * self.tile_columns

    def window(self, number: int) -> tuple[int, int, int, int]:
        """Row and column of the first pixel of a tile, its height and its width.

        Raises:
            ValueError: there is no tile of that number.
        """
        if not 0 <= number < self.tile_count:
            raise ValueError(f"tile {number} of {self.tile_count}, counted from 0")
        row, column = (self.tile_size * index for index in divmod(number, self.tile_columns))
        height = min(self.tile_size, self.scene.height - row)
        width = min(self.tile_size, self.scene.width - column)
        return row, column, height, width

    @property
    def coded_bands(self) -> tuple[int, ...]:
        """0-based indices of the bands that are not dropped."""
        dropped = {band - 1 for bands in self.dropped.values() for band in bands}
        return tuple(index for index in range(self.scene.bands) if index not in dropped)


class Writer:
    """Writes one `.hsc` file, record by record, so that the whole need not fit in memory.

    Args:
        file: empty, binary and seekable; the Writer's alone until `finish`.
        header: what the reader will get.
        shared: side information of the codec that all tiles need.

    Raises:
        CodingError: the header breaks a rule or a limit of the format.
    """

    def __init__(self, file: BinaryIO, header: Header, shared: bytes = b"") -> None:
        try:
            text = _to_json(header)
            _from_json(text)
        except ValueError as error:
            raise CodingError(f"no .hsc file can hold this scene: {error}") from error
        stored = _deflate_header(text)
        for what, content, limit in (
            ("header", text, MAX_HEADER_BYTES),
            ("deflated header", stored, MAX_HEADER_BYTES),
            ("shared block", shared, MAX_SHARED_BYTES),
        ):
            if len(content) > limit:
                raise CodingError(f"no .hsc file can hold this scene: {what} of {len(content)} bytes, limit {limit}")
        self._file = file
        self._index = np.zeros(header.tile_count, _ENTRY)
        file.write(MAGIC + _VERSION.pack(VERSION))
        self._write_block(stored)
        self._write_block(shared)
        self._index_offset = file.tell()
        # What lies there until `finish` is no valid index.
        file.write(bytes(_FRAME.size + self._index.nbytes))

    def add(self, number: int, payload: bytes) -> None:
        """Write the record of one tile. Tiles come in any order, each once.

        Raises:
            ValueError: no such tile, or one that was added before.
        """
        if not 0 <= number < len(self._index):
            raise ValueError(f"tile {number} of {len(self._index)}, counted from 0")
        if self._index[number]["offset"]:  # 0 is before any record
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
    """Reads a `.hsc` file: on opening all but the records, which are read and checked one by one.

    A length is compared with the file's size before that many bytes are read. A Reader moves its file's
    position: threads and processes need one each.

    Args:
        file: binary and seekable.
        name: what error messages call the file.

    Attributes:
        header: the header.
        shared: side information of the codec.

    Raises:
        DamagedError: this is no `.hsc` file, one of a later version, or one that is damaged before its records
            or goes on behind them. A file that ends early among its records is opened.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._size = file.seek(0, 2)
        file.seek(0)
        self._read_magic()
        stored = self._read_block("header", MAX_HEADER_BYTES)
        try:
            self.header = _from_json(_inflate_header(stored))
        except ValueError as error:
            self._fail(str(error))
        self._header_bytes = file.tell()
        self.shared = self._read_block("shared block", MAX_SHARED_BYTES)
        self._read_index()

    def tile(self, number: int) -> bytes:
        """The record of one tile.

        Raises:
            DamagedTile: it is not what was written, or the file ends before it does.
            ValueError: there is no tile of that number.
        """
        self.header.window(number)  # so that -1 is not the last tile
        offset, length, crc = self._index[number].item()
        if offset + length > self._size:
            raise self.damaged_tile(number, f"the file ends {_count(offset + length - self._size, 'byte')} too early")
        self._file.seek(offset)
        payload = self._file.read(length)
        if _record_crc(number, payload) != crc:
            raise self.damaged_tile(number, "its checksum does not match")
        return payload

    def damaged_tile(self, number: int, reason: str) -> DamagedTile:
        """The error, not raised, that says of one tile where it is and what is wrong with it."""
        return DamagedTile(f"{self.tile_name(number)} is damaged: {reason}", number)

    def tile_name(self, number: int) -> str:
        """How messages call a tile: by file, number and place."""
        row, column, height, width = self.header.window(number)
        return f"{self._name}: tile {number} (row {row}, column {column}, {height} x {width} pixels)"

    def info(self) -> str:
        """What the file holds, for people: several lines without a line end at the last."""
        header, scene = self.header, self.header.scene
        tiles_bytes = self._end - self._records_offset
        bits = 8 * self._end / (scene.height * scene.width * len(header.coded_bands))
        lines = {
            "codec": header.codec,
            "parameters": json.dumps(header.parameters, sort_keys=True),
            "model": "none",
            "size": f"{scene.height} x {scene.width} pixels, {_count(scene.bands, 'band')} of {scene.dtype}",
            "nodata": "none" if scene.nodata is None else _digits(scene.nodata),
            "CRS": _crs_name(scene.crs),
            "scale": f"{_digits(header.scale)} is reflectance 1.0",
            "dropped": "; ".join(f"{why}: {_ranges(bands)}" for why, bands in header.dropped.items()) or "none",
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
                else "is no .hsc file"
            )
        (version,) = _VERSION.unpack(self._read(_VERSION.size, "version number"))
        if version != VERSION:
            advice = "update it" if version > VERSION else "there is no such version, the file is damaged"
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

        # In the order of their offsets, records follow each other without gap or overlap. Sums of 64 bits
        # that wrap around are no match: they would be smaller than the offset before.
        ordered = self._index[np.lexsort((self._index["length"], self._index["offset"]))]
        starts, lengths = ordered["offset"], ordered["length"]
        if starts[0] != self._records_offset or (starts[:-1] + lengths[:-1] != starts[1:]).any():
            self._fail("tile index is damaged: records overlap or leave gaps")
        self._end = int(starts[-1]) + int(lengths[-1])
        if self._end >= MAX_FILE_BYTES:
            self._fail(f"tile index is damaged: records end at byte {self._end}")
        if self._end < self._size:
            extra = _count(self._size - self._end, "byte")
            self._fail(f"{extra} too many: cut it to {self._end} if you know where they are from")


def _record_crc(number: int, payload: bytes) -> int:
    """Over the tile's number too, so that a record in another tile's place is noticed."""
    return zlib.crc32(payload, zlib.crc32(number.to_bytes(8, "little")))


# The header as deflated JSON


def _max_text_bytes(stored_bytes: int) -> int:
    return min(MAX_HEADER_BYTES, FREE_HEADER_BYTES + MAX_HEADER_RATIO * stored_bytes)


def _deflate_header(text: bytes) -> bytes:
    stored = deflate(text)
    if len(text) <= _max_text_bytes(len(stored)):
        return stored
    # Without matches each byte takes at least one bit, which is never a bomb.
    compressor = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return compressor.compress(text) + compressor.flush()


def _inflate_header(stored: bytes) -> bytes:
    """The header's text.

    Raises:
        ValueError: it is no deflated text, or one that is too long.
    """
    try:
        return inflate(stored, limit=_max_text_bytes(len(stored)))
    except DamagedError as error:
        raise ValueError(f"header is damaged: {error}") from None


def _to_json(header: Header) -> bytes:
    fields = dataclasses.asdict(header)
    nodata = header.scene.nodata
    if nodata is not None and not math.isfinite(nodata):
        fields["scene"]["nodata"] = str(float(nodata))
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _from_json(text: bytes) -> Header:
    """The header, checked field by field.

    Raises:
        ValueError: with one line that names the field.
    """
    try:
        value = json.loads(
            text.decode(),
            object_pairs_hook=_json_object,
            parse_int=_json_integer,
            parse_float=_json_float,
            parse_constant=_json_float,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"header is no valid JSON: {error}") from None
    _check_nesting(value)

    fields = _fields(value, "", [field.name for field in dataclasses.fields(Header)])
    scene = _scene(fields["scene"])
    header = Header(
        codec=_label(fields["codec"], "codec"),
        parameters=_object(fields["parameters"], "parameters"),
        model=None if fields["model"] is None else _model(fields["model"]),
        scene=scene,
        scale=_number(fields["scale"], "scale"),
        dropped=_dropped(fields["dropped"], scene.bands),
        tile_size=_whole(fields["tile_size"], "tile_size", MIN_TILE_SIZE, MAX_TILE_SIZE),
        max_error=None if fields["max_error"] is None else _number(fields["max_error"], "max_error"),
    )
    _check(header.scale > 0, "scale", header.scale, "a number above 0")
    _check(header.max_error is None or header.max_error >= 0, "max_error", header.max_error, "null or at least 0")
    largest = math.isqrt(MAX_TILE_SAMPLES // scene.bands)
    _check(header.tile_size <= largest, "tile_size", header.tile_size, f"at most {largest} for {scene.bands} bands")
    few_enough = header.tile_count <= MAX_TILES
    _check(few_enough, "tile_size", header.tile_size, f"more: {header.tile_count} tiles, limit {MAX_TILES}")
    return header


def _scene(value: Any) -> SceneInfo:
    fields = _fields(value, "scene.", [field.name for field in dataclasses.fields(SceneInfo)])
    bands = _whole(fields["bands"], "scene.bands", 1, MAX_BANDS)
    dtype, transform, compression = fields["dtype"], fields["transform"], fields["compression"]
    _check(dtype in DTYPES, "scene.dtype", dtype, f"one of {', '.join(DTYPES)}")

    def for_each_band(name: str, check: Callable[[Any, str], Any]) -> tuple:
        return _tuple(fields[name], f"scene.{name}", (0, bands), check)

    return SceneInfo(
        height=_whole(fields["height"], "scene.height", 1, MAX_SIDE),
        width=_whole(fields["width"], "scene.width", 1, MAX_SIDE),
        bands=bands,
        dtype=dtype,
        nodata=_nodata(fields["nodata"], dtype),
        crs=_text_or_none(fields["crs"], "scene.crs"),
        transform=None if transform is None else _tuple(transform, "scene.transform", (6,), _number),
        descriptions=for_each_band("descriptions", _text_or_none),
        tags=_tags(fields["tags"], "scene.tags"),
        band_tags=for_each_band("band_tags", _tags),
        scales=for_each_band("scales", _number),
        offsets=for_each_band("offsets", _number),
        units=for_each_band("units", _text_or_none),
        compression=None if compression is None else _label(compression, "scene.compression"),
    )


def _nodata(value: Any, dtype: str) -> float | None:
    if value is None:
        return None
    if dtype == "float32":
        if isinstance(value, str) and value in _NON_FINITE:
            return _NON_FINITE[value]
        fits = _is_number(value) and abs(value) < _FLOAT32_END
        expected = "null, 'nan', 'inf', '-inf' or a number that float32 can hold"
    else:
        low, high = INTEGER_RANGES[dtype]
        fits = _is_number(value) and low <= value <= high and value == int(value)
        expected = f"null or a whole number from {low} to {high}"
    _check(fits, "scene.nodata", value, expected)
    return float(value)


def _model(value: Any) -> dict[str, Any]:
    fields = _fields(value, "model.", ("name", "sha256", "num_channels"))
    _label(fields["name"], "model.name")
    digest = _text(fields["sha256"], "model.sha256")
    _check(re.fullmatch("[0-9a-f]{64}", digest) is not None, "model.sha256", digest, "64 lower-case hex digits")
    _whole(fields["num_channels"], "model.num_channels", 1, MAX_BANDS)
    return fields


def _dropped(value: Any, num_bands: int) -> dict[str, tuple[int, ...]]:
    band_number = functools.partial(_whole, low=1, high=num_bands)
    dropped, seen = {}, set()
    for reason, bands in _object(value, "dropped").items():
        field = f"dropped.{_label(reason, 'dropped')}"
        dropped[reason] = _tuple(bands, field, range(1, num_bands + 1), band_number)
        new = set(dropped[reason]) - seen
        _check(len(new) == len(bands), field, bands, "each band once, under one reason")
        seen |= new
    _check(len(seen) < num_bands, "dropped", value, f"at least one of the {num_bands} bands to be left")
    return dropped


def _check(is_right: bool, field: str, value: Any, expected: str) -> None:
    if not is_right:
        raise ValueError(f"header field {_short(field)} is {_short(value)}, expected {expected}")


def _object(value: Any, field: str) -> dict[str, Any]:
    _check(isinstance(value, dict), field, value, "an object")
    return value


def _fields(value: Any, prefix: str, names: Sequence[str]) -> dict[str, Any]:
    """A JSON object that has these fields and no others."""
    fields = _object(value, prefix.rstrip(".") or "header")
    for name in sorted(fields.keys() ^ set(names)):
        raise ValueError(f"header field {_short(prefix + name)} is {'unknown' if name in fields else 'missing'}")
    return fields


def _tuple(value: Any, field: str, lengths: Sequence[int], check: Callable[[Any, str], Any]) -> tuple:
    """A JSON list of one of these lengths, whose items `check` checks."""
    lengths_text = f"{lengths[0]} to {lengths[-1]}" if isinstance(lengths, range) else " or ".join(map(str, lengths))
    _check(isinstance(value, list) and len(value) in lengths, field, value, f"a list of length {lengths_text}")
    return tuple(check(item, f"{field}[{index}]") for index, item in enumerate(value))


def _tags(value: Any, field: str) -> dict[str, str]:
    return {_text(key, field): _text(text, f"{field}.{key}") for key, text in _object(value, field).items()}


def _text(value: Any, field: str) -> str:
    # Half a surrogate pair can be written in JSON, as an escape, but neither printed nor put into a GeoTIFF.
    is_text = isinstance(value, str) and not re.search("[\ud800-\udfff]", value)
    _check(is_text, field, value, "text")
    return value


def _text_or_none(value: Any, field: str) -> str | None:
    return None if value is None else _text(value, field)


def _label(value: Any, field: str) -> str:
    """Text that may appear within a line."""
    is_label = isinstance(value, str) and 1 <= len(value) <= MAX_LABEL_LENGTH and value.isprintable()
    _check(is_label, field, value, f"1 to {MAX_LABEL_LENGTH} printable characters")
    return value


def _whole(value: Any, field: str, low: int, high: int) -> int:
    is_whole = type(value) is int and low <= value <= high
    _check(is_whole, field, value, f"a whole number from {low} to {high}")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)  # True is an int to isinstance


def _number(value: Any, field: str) -> float:
    _check(_is_number(value), field, value, "a number")
    return float(value)


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("an object names a field twice")
    return fields


def _json_integer(digits: str) -> int:
    if len(digits) > 20:  # more than 64 bits; the time that int() takes grows with the square of the length
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _json_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{_short(digits)} is not a finite number")
    return number


def _check_nesting(value: Any) -> None:
    """What is too deep fails here, not later when it is printed or compared by recursion."""
    level = [value]
    for _ in range(MAX_NESTING):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    if any(isinstance(item, dict | list) for item in level):
        raise ValueError(f"header is nested deeper than {MAX_NESTING} levels")


# Values as text


def _short(value: Any) -> str:
    """One line that shows a value of any size."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 60
    return shortener.repr(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _digits(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def _ranges(bands: tuple[int, ...]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    runs: list[list[int]] = []
    for band in sorted(bands):
        if runs and band == runs[-1][-1] + 1:
            runs[-1][1:] = [band]
        else:
            runs.append([band])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _crs_name(crs: str | None) -> str:
    """The name in a WKT, which begins like PROJCS["WGS 84 / UTM zone 33N",..."""
    if crs is None:
        return "none"
    match = re.match(r'\s*\w+\s*\[\s*"([^"]{1,60})"', crs)
    return match[1] if match and match[1].isprintable() else "without a short name"
