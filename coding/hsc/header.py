"""The header of a `.hsc` file: its fields, their validation, and its JSON text."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import reprlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coding.base import DamagedError, deflate, inflate
from coding.numbers import MAX_BOUND, MAX_DIVISOR
from datasets.base import DTYPES, FLOATS, INTEGER_RANGES, GroundControlPoint, SceneInfo, as_sample

MIN_TILE_SIZE, MAX_TILE_SIZE = 8, 1024  # pixels
MAX_SIDE = 2**24  # pixels
MAX_BANDS = 65535
MAX_TILE_SAMPLES = 2**26
MAX_TILES = 2**22
MAX_HEADER_BYTES = 2**22
"""Limit of the header's text and of its stored form: parsing hostile JSON takes 20 times its size in memory."""
FREE_HEADER_BYTES, MAX_HEADER_RATIO = 2**16, 32
"""Header text longer than FREE_HEADER_BYTES + MAX_HEADER_RATIO x its stored bytes counts as a decompression bomb."""
MAX_GCPS = 2**16
INTERLEAVES = ("bsq", "bil", "bip")
MAX_LABEL_LENGTH = 64  # characters
MAX_NESTING = 16

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # for which JSON has no numbers


@dataclasses.dataclass(frozen=True)
class Header:
    """What a decoder must know besides the records, the shared block and the weights.

    Tiles are squares numbered from 0 in raster order; those at the right and lower edges are cut to the scene.

    Attributes:
        codec: name of the codec in the registry.
        parameters: parameters of the codec, plain JSON values.
        model: None, or a dictionary of `name`, `sha256` (64 hex digits, see `coding.learned.network.weights_sha256`)
            and `num_channels`.
        scene: metadata of the scene. A field with one item for each band may also be empty.
        scale: sample value of reflectance 1.0, above 0.
        dropped: 1-based numbers of the bands that are not coded, by reason.
        tile_size: side of a tile in pixels, 8 to 1024.
        max_error: bound on the error of every valid sample, in the samples' units; None without a bound.
        exact: 1-based numbers of alpha bands, which are stored without the codec.
    """

    codec: str
    parameters: dict[str, Any]
    model: dict[str, Any] | None
    scene: SceneInfo
    scale: float
    dropped: dict[str, tuple[int, ...]]
    tile_size: int
    max_error: float | None
    exact: tuple[int, ...] = ()

    @property
    def tile_rows(self) -> int:
        """Number of rows of tiles."""
        return -(-self.scene.height // self.tile_size)

    @property
    def tile_columns(self) -> int:
        """Number of columns of tiles."""
        return -(-self.scene.width // self.tile_size)

    @property
    def tile_count(self) -> int:
        """Number of tiles."""
        return self.tile_rows * self.tile_columns

    def window(self, number: int) -> tuple[int, int, int, int]:
        """Return the row and column of a tile's first pixel, its height and its width.

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
        """0-based indices of the bands that are neither dropped nor exact."""
        others = {band - 1 for bands in (self.exact, *self.dropped.values()) for band in bands}
        return tuple(index for index in range(self.scene.bands) if index not in others)


# -- parameters of codecs -------------------------------------------------------------------------

Rules = Mapping[str, Callable[[Any], bool]]
"""Name of a parameter -> function that says whether a value is valid."""


def check_parameters(header: Header, rules: Rules) -> None:
    """Validate the parameters of a codec.

    Raises:
        DamagedError: a parameter is missing, unknown, or breaks its rule.
    """
    for name in sorted(header.parameters.keys() | rules.keys()):
        value = header.parameters.get(name)
        if name not in rules or name not in header.parameters or not rules[name](value):
            raise DamagedError(f"header field {_short('parameters.' + name)} is {_short(value)}, which is not valid")


def check_plain(header: Header, shared: bytes) -> None:
    """Validate that a file has neither a model nor a shared block, for codecs that need none.

    Raises:
        DamagedError: the file has one of them.
    """
    if shared or header.model is not None:
        raise DamagedError(f"the header names {header.codec}, which has neither a model nor a shared block")


def is_step(value: Any, most: float = 2.0**128) -> bool:
    """Return whether `value` is a number above 0 and below `most`."""
    return _is_number(value) and 0 < value < most


def is_divisor(value: Any) -> bool:
    """Return whether `value` is a divisor of `coding.numbers.Numbers`."""
    return type(value) is int and 1 <= value <= MAX_DIVISOR


def is_bound(value: Any) -> bool:
    """Return whether `value` is a bound of `coding.numbers.Numbers`."""
    return type(value) is int and 0 <= value <= MAX_BOUND


# -- the header as deflated JSON ------------------------------------------------------------------


def _max_text_bytes(stored_bytes: int) -> int:
    return min(MAX_HEADER_BYTES, FREE_HEADER_BYTES + MAX_HEADER_RATIO * stored_bytes)


def deflate_header(text: bytes) -> bytes:
    """Return the stored form of a header's text."""
    stored = deflate(text)
    if len(text) <= _max_text_bytes(len(stored)):
        return stored
    # Huffman coding alone stores at least a bit for each byte, a ratio of at most 8.
    compressor = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return compressor.compress(text) + compressor.flush()


def inflate_header(stored: bytes) -> bytes:
    """Return the text of a stored header.

    Raises:
        ValueError: the stored header is damaged, or its text is too long.
    """
    try:
        return inflate(stored, limit=_max_text_bytes(len(stored)))
    except DamagedError as error:
        raise ValueError(f"header is damaged: {error}") from None


def header_to_json(header: Header) -> bytes:
    """Return the header's text, UTF-8; equal headers have equal text.

    Raises:
        ValueError: JSON or UTF-8 cannot represent a value.
    """
    fields = dataclasses.asdict(header)
    scene = fields["scene"]
    scene["nodata"] = _nodata_field(scene["nodata"])
    scene["band_nodata"] = [_nodata_field(value) for value in scene["band_nodata"]]
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _nodata_field(nodata: float | None) -> float | str | None:
    return nodata if nodata is None or math.isfinite(nodata) else str(float(nodata))


def header_from_json(text: bytes) -> Header:
    """Return the header that a text describes, validated field by field.

    Raises:
        ValueError: the text is not a header; the message is one line and names the field.
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
        exact=_exact(fields["exact"], scene.bands),
        tile_size=_whole(fields["tile_size"], "tile_size", MIN_TILE_SIZE, MAX_TILE_SIZE),
        max_error=None if fields["max_error"] is None else _number(fields["max_error"], "max_error"),
    )
    dropped = {band for bands in header.dropped.values() for band in bands}
    is_some_coded = len(dropped | set(header.exact)) < scene.bands
    _check(is_some_coded, "dropped", header.dropped, f"at least one of the {scene.bands} bands to be coded")
    _check(not dropped & set(header.exact), "exact", header.exact, "bands that are not dropped")
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
    masks, interleave = fields["masks"], fields["interleave"]
    _check(dtype in DTYPES, "scene.dtype", dtype, f"one of {', '.join(DTYPES)}")
    _check(type(masks) is int and masks in (0, 1, bands), "scene.masks", masks, f"0, 1 or {bands}")
    _check(interleave in INTERLEAVES, "scene.interleave", interleave, f"one of {', '.join(INTERLEAVES)}")

    def for_each_band(name: str, check: Callable[[Any, str], Any]) -> tuple:
        return _tuple(fields[name], f"scene.{name}", (0, bands), check)

    return SceneInfo(
        height=_whole(fields["height"], "scene.height", 1, MAX_SIDE),
        width=_whole(fields["width"], "scene.width", 1, MAX_SIDE),
        bands=bands,
        dtype=dtype,
        nodata=_nodata(fields["nodata"], "scene.nodata", dtype),
        band_nodata=for_each_band("band_nodata", functools.partial(_nodata, dtype=dtype)),
        masks=masks,
        crs=_text_or_none(fields["crs"], "scene.crs"),
        transform=None if transform is None else _tuple(transform, "scene.transform", (6,), _number),
        gcps=_tuple(fields["gcps"], "scene.gcps", range(MAX_GCPS + 1), _gcp),
        gcps_crs=_text_or_none(fields["gcps_crs"], "scene.gcps_crs"),
        descriptions=for_each_band("descriptions", _text_or_none),
        tags=_domains(fields["tags"], "scene.tags"),
        band_tags=for_each_band("band_tags", _domains),
        scales=for_each_band("scales", _number),
        offsets=for_each_band("offsets", _number),
        units=for_each_band("units", _text_or_none),
        colors=for_each_band("colors", _label),
        color_tables=for_each_band("color_tables", _color_table),
        compression=None if compression is None else _label(compression, "scene.compression"),
        interleave=interleave,
    )


def _gcp(value: Any, field: str) -> GroundControlPoint:
    length = len(GroundControlPoint._fields)
    _check(isinstance(value, list) and len(value) == length, field, value, f"a list of length {length}")
    row, column, x, y, z = (_number(item, field) for item in value[:-2])
    return GroundControlPoint(row, column, x, y, z, _text(value[-2], field), _text(value[-1], field))


def _color_table(value: Any, field: str) -> tuple[tuple[int, ...], ...]:
    number = functools.partial(_whole, low=0, high=65535)
    return _tuple(value, field, range(65537), lambda entry, name: _tuple(entry, name, (5,), number))


def _domains(value: Any, field: str) -> dict[str, dict[str, str]]:
    return {_text(name, field): _tags(tags, f"{field}.{name}") for name, tags in _object(value, field).items()}


def _nodata(value: Any, field: str, dtype: str) -> float | None:
    if value is None:
        return None
    if dtype in FLOATS:
        if isinstance(value, str) and value in _NON_FINITE:
            return _NON_FINITE[value]
        expected = f"null, 'nan', 'inf', '-inf' or a number that {dtype} can hold"
    else:
        low, high = INTEGER_RANGES[dtype]
        expected = f"null or a whole number from {low} to {high}"
    fits = _is_number(value) and as_sample(value, dtype) is not None
    _check(fits, field, value, expected)
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
    dropped: dict[str, tuple[int, ...]] = {}
    seen: set[int] = set()
    for reason, bands in _object(value, "dropped").items():
        field = f"dropped.{_label(reason, 'dropped')}"
        dropped[reason] = _tuple(bands, field, range(1, num_bands + 1), band_number)
        new = set(dropped[reason]) - seen
        _check(len(new) == len(bands), field, bands, "each band once, under one reason")
        seen |= new
    return dropped


def _exact(value: Any, num_bands: int) -> tuple[int, ...]:
    exact = _tuple(value, "exact", range(num_bands), functools.partial(_whole, low=1, high=num_bands))
    _check(list(exact) == sorted(set(exact)), "exact", value, "rising band numbers")
    return exact


def _check(is_right: bool, field: str, value: Any, expected: str) -> None:
    if not is_right:
        raise ValueError(f"header field {_short(field)} is {_short(value)}, expected {expected}")


def _object(value: Any, field: str) -> dict[str, Any]:
    _check(isinstance(value, dict), field, value, "an object")
    return value


def _fields(value: Any, prefix: str, names: Sequence[str]) -> dict[str, Any]:
    """Validate that a JSON object has these fields and no others; return it."""
    fields = _object(value, prefix.rstrip(".") or "header")
    for name in sorted(fields.keys() ^ set(names)):
        raise ValueError(f"header field {_short(prefix + name)} is {'unknown' if name in fields else 'missing'}")
    return fields


def _tuple(value: Any, field: str, lengths: Sequence[int], check: Callable[[Any, str], Any]) -> tuple:
    """Validate a JSON list: its length is one of `lengths`, and `check` accepts its items. Return it as a tuple."""
    lengths_text = f"{lengths[0]} to {lengths[-1]}" if isinstance(lengths, range) else " or ".join(map(str, lengths))
    _check(isinstance(value, list) and len(value) in lengths, field, value, f"a list of length {lengths_text}")
    return tuple(check(item, f"{field}[{index}]") for index, item in enumerate(value))


def _tags(value: Any, field: str) -> dict[str, str]:
    return {_text(key, field): _text(text, f"{field}.{key}") for key, text in _object(value, field).items()}


def _text(value: Any, field: str) -> str:
    # JSON can escape half a surrogate pair, but it can neither be printed nor written to a GeoTIFF.
    is_text = isinstance(value, str) and not re.search("[\ud800-\udfff]", value)
    _check(is_text, field, value, "text")
    return value


def _text_or_none(value: Any, field: str) -> str | None:
    return None if value is None else _text(value, field)


def _label(value: Any, field: str) -> str:
    """Validate a text that fits into a line of a message; return it."""
    is_label = isinstance(value, str) and 1 <= len(value) <= MAX_LABEL_LENGTH and value.isprintable()
    _check(is_label, field, value, f"1 to {MAX_LABEL_LENGTH} printable characters")
    return value


def _whole(value: Any, field: str, low: int, high: int) -> int:
    is_whole = type(value) is int and low <= value <= high
    _check(is_whole, field, value, f"a whole number from {low} to {high}")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)  # isinstance would take True for an int


def _number(value: Any, field: str) -> float:
    _check(_is_number(value), field, value, "a number")
    return float(value)


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("an object names a field twice")
    return fields


def _json_integer(digits: str) -> int:
    if len(digits) > 20:  # more than 64 bits; the time of int() is quadratic in the length
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _json_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{_short(digits)} is not a finite number")
    return number


def _check_nesting(value: Any) -> None:
    """Refuse a header nested so deeply that printing or comparing it could exceed the recursion limit."""
    level = [value]
    for _ in range(MAX_NESTING):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    if any(isinstance(item, dict | list) for item in level):
        raise ValueError(f"header is nested deeper than {MAX_NESTING} levels")


def _short(value: Any) -> str:
    """Return a value of any size as text on one line, shortened."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 60
    return shortener.repr(value)
