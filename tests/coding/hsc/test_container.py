"""Made-up headers and arbitrary records, joined and split as docs/format.md says."""

import copy
import dataclasses
import io
import json
import math
import pickle
import random
import re
import struct
import time
import tracemalloc
import zlib
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coding.base import CodingError, DamagedError
from coding.hsc.container import DamagedTile, Reader, Writer
from coding.hsc.header import Header
from datasets.base import GroundControlPoint, SceneInfo


def a_scene(**changes) -> SceneInfo:
    values: dict[str, Any] = {
        "height": 17,
        "width": 20,
        "bands": 3,
        "dtype": "int16",
        "nodata": -32768.0,
        "crs": "LOCAL_CS",
        "transform": (30.0, 0.0, 5.5, 0.0, -30.0, 6.0),
        "descriptions": ("B1", None, "µ"),
        "tags": {"": {"a": "b"}, "RPC": {"LINE_OFF": "7"}},
        "band_tags": ({"IMAGERY": {"w": "418"}}, {}, {}),
        "scales": (1e-4, 1.0, 2.0),
        "offsets": (0.0, 0.5, -1.0),
        "units": ("%", None, "µm"),
        "compression": "lzw",
        "masks": 1,
        "gcps": (GroundControlPoint(0.5, 1.5, 10.0, 50.0, 0.0, "1", ""),),
        "gcps_crs": "LOCAL_CS",
        "colors": ("gray", "undefined", "alpha"),
        "color_tables": (((0, 255, 255, 255, 255),), (), ()),
    }
    return SceneInfo(**values | changes)


def a_header(**changes) -> Header:
    values: dict[str, Any] = {
        "codec": "learned",
        "parameters": {"q": [1, 0.5, None]},
        "model": {"name": "cae1d", "sha256": "0123456789abcdef" * 4, "num_channels": 2},
        "scene": a_scene(),
        "scale": 10000.0,
        "dropped": {"water vapour": (2,)},
        "tile_size": 16,
        "max_error": 5.0,
        "exact": (3,),
    }
    return Header(**values | changes)


PAYLOADS = [b"first record", b"", b"third", b"x" * 9]
SHARED = b"side information"


def write(header=None, payloads=PAYLOADS, shared=SHARED, order=(2, 0, 3, 1)) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, header or a_header(), shared)
    for number in order:
        writer.add(number, payloads[number])
    writer.finish()
    return file.getvalue()


def read(data: bytes) -> Reader:
    return Reader(io.BytesIO(data), "FILE")


NO_ITEMS: dict[str, list] = {
    name: [] for name in ("descriptions", "band_tags", "scales", "offsets", "units", "colors", "color_tables")
}
"""Scene fields that would have to change with the number of bands."""


class Parts(NamedTuple):
    header: bytes  # deflated
    shared: bytes
    entries: list[tuple[int, int, int]]
    records: bytes


def split(data: bytes) -> Parts:
    blocks, position = [], 12
    for _ in range(3):
        (length,) = struct.unpack_from("<Q", data, position)
        blocks.append(data[position + 12 : position + 12 + length])
        position += 12 + length
    return Parts(blocks[0], blocks[1], list(struct.iter_unpack("<QQI", blocks[2])), data[position:])


def pack(text: bytes) -> bytes:
    """Return a header's text, stored as docs/format.md says."""
    stored = zlib.compress(text, 9)
    return stored if len(text) <= 2**16 + 32 * len(stored) else zlib.compress(text, 0)


def block(content: bytes) -> bytes:
    return struct.pack("<QI", len(content), zlib.crc32(content)) + content


def index_of(entries) -> bytes:
    return b"".join(struct.pack("<QQI", *entry) for entry in entries)


def join(parts: Parts, old_start: int | None = None) -> bytes:
    """Return a file with correct lengths and checksums; offsets of records that began at `old_start` are adjusted."""
    start = 12 + 36 + len(parts.header) + len(parts.shared) + 20 * len(parts.entries)
    shift = 0 if old_start is None else start - old_start
    entries = [((offset + shift) % 2**64, length, crc) for offset, length, crc in parts.entries]
    head = b"\x89HSC\r\n\x1a\n\5\0\0\0" + block(parts.header) + block(parts.shared)
    return head + block(index_of(entries)) + parts.records


GOOD = write()
START = min(offset for offset, *_ in split(GOOD).entries)  # of the records
HEADER = zlib.decompress(split(GOOD).header)
FIELDS = json.loads(HEADER)


def with_stored_header(stored: bytes) -> bytes:
    return join(split(GOOD)._replace(header=stored), old_start=START)


def with_header(text: bytes) -> bytes:
    return with_stored_header(pack(text))


def with_fields(fields) -> bytes:
    return with_header(json.dumps(fields).encode())


def with_entries(*entries) -> bytes:
    return join(split(GOOD)._replace(entries=list(entries)))


def with_value(path: str, value) -> bytes:
    fields = copy.deepcopy(FIELDS)
    *parents, last = path.split(".")
    place = fields
    for name in parents:
        place = place[name]
    place[last] = value
    return with_fields(fields)


def refusal(data: bytes) -> str:
    """Return the message with which a file is refused."""
    with pytest.raises(DamagedError) as info:
        read(data)
    message = str(info.value)
    assert message.startswith("FILE: ") and "\n" not in message and len(message) < 300
    return message.removeprefix("FILE: ")


def damaged_tiles(data: bytes) -> set[int]:
    """Return the tiles that are reported as damaged; assert that the others and the header are unchanged."""
    reader, damaged = read(data), set()
    assert reader.header == a_header() and reader.shared == SHARED
    for number, payload in enumerate(PAYLOADS):
        try:
            assert reader.tile(number) == payload
        except DamagedTile as error:
            assert error.number == number
            assert str(error).startswith(f"FILE: tile {number} (row ") and "\n" not in str(error)
            damaged.add(number)
    return damaged


# What is written is read

text = st.text(max_size=5)
labels = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=5)
numbers = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | integers | numbers | text,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(text, values, max_size=3),
    max_leaves=4,
)
NODATA = {
    "int16": st.integers(-32768, 32767),
    "uint16": st.integers(0, 65535),
    "uint8": st.integers(0, 255),
    "float32": st.floats(width=32, allow_nan=False) | st.just(-3.4028235e38),
    "float64": st.floats(allow_nan=False),
}


@st.composite
def headers(draw) -> Header:
    bands = draw(st.integers(1, 5))
    dropped = draw(st.lists(st.integers(1, bands), unique=True, max_size=bands - 1))
    cut = draw(st.integers(0, len(dropped)))
    others = sorted(set(range(1, bands + 1)) - set(dropped))
    reasons = draw(st.lists(labels, unique=True, min_size=2, max_size=2))
    tags = st.dictionaries(text, st.dictionaries(text, text, max_size=2), max_size=2)
    points = st.builds(GroundControlPoint, *[numbers] * 5, text, text)
    entries = st.lists(st.tuples(*[st.integers(0, 65535)] * 5), max_size=2).map(tuple)
    dtype = draw(st.sampled_from(sorted(NODATA)))
    scene = SceneInfo(
        height=draw(st.integers(1, 60)),
        width=draw(st.integers(1, 60)),
        bands=bands,
        dtype=dtype,
        nodata=draw(st.none() | NODATA[dtype]),
        band_nodata=draw(st.just(()) | st.tuples(*[st.none() | NODATA[dtype]] * bands)),
        masks=draw(st.sampled_from((0, 1, bands))),
        gcps=tuple(draw(st.lists(points, max_size=2))),
        gcps_crs=draw(st.none() | text),
        crs=draw(st.none() | text),
        transform=draw(st.none() | st.tuples(*[numbers] * 6)),
        descriptions=draw(st.just(()) | st.tuples(*[st.none() | text] * bands)),
        tags=draw(tags),
        band_tags=draw(st.just(()) | st.tuples(*[tags] * bands)),
        scales=draw(st.just(()) | st.tuples(*[numbers] * bands)),
        offsets=draw(st.just(()) | st.tuples(*[numbers] * bands)),
        units=draw(st.just(()) | st.tuples(*[st.none() | text] * bands)),
        colors=draw(st.just(()) | st.tuples(*[labels] * bands)),
        color_tables=draw(st.just(()) | st.tuples(*[entries] * bands)),
        compression=draw(st.none() | labels),
        interleave=draw(st.sampled_from(("bsq", "bil", "bip"))),
    )
    model = {"name": draw(labels), "sha256": f"{draw(st.integers(0, 2**256 - 1)):064x}", "num_channels": bands}
    return Header(
        codec=draw(labels),
        parameters=draw(st.dictionaries(text, json_values, max_size=2)),
        model=draw(st.sampled_from((None, model))),
        scene=scene,
        scale=draw(st.floats(0, exclude_min=True, allow_infinity=False)),
        dropped={
            reason: tuple(part) for reason, part in zip(reasons, (dropped[:cut], dropped[cut:]), strict=True) if part
        },
        tile_size=draw(st.integers(8, 64)),
        max_error=draw(st.none() | st.floats(0, allow_infinity=False)),
        exact=tuple(sorted(draw(st.sets(st.sampled_from(others), max_size=len(others) - 1)))) if others else (),
    )


@settings(max_examples=60, deadline=None)
@given(headers(), st.binary(max_size=9), st.randoms(use_true_random=False))
def test_round_trip(header, shared, rng):
    payloads = [rng.randbytes(rng.randrange(9)) for _ in range(header.tile_count)]
    order = rng.sample(range(header.tile_count), header.tile_count)
    data = write(header, payloads, shared, order)
    reader = read(data)
    assert reader.header == header and reader.shared == shared
    assert all(reader.tile(number) == payloads[number] for number in order)
    assert reader.info()
    assert join(split(data)) == data, "the file is not as docs/format.md says"


def test_nodata_that_json_has_no_number_for():
    for nodata in (float("nan"), -float("nan"), math.inf, -math.inf):
        header = a_header(scene=a_scene(dtype="float32", nodata=nodata))
        read_back = read(write(header)).header.scene.nodata
        assert read_back == nodata or (math.isnan(read_back) and math.isnan(nodata))


def test_equal_headers_are_equal_bytes():
    """Keys are sorted, there are no spaces, and no character is escaped."""
    one = write(a_header(scene=a_scene(tags={"": {"a": "µ", "b": "1"}})))
    assert one == write(a_header(scene=a_scene(tags={"": {"b": "1", "a": "µ"}})))
    header = zlib.decompress(split(one).header)
    assert "µ".encode() in header
    assert header.decode() == json.dumps(json.loads(header), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_header_written_by_another_program():
    """White space, another order of fields, integers for floats and escapes give the same header."""
    fields = dict(reversed(FIELDS.items())) | {"scale": 10000, "max_error": 5}
    assert read(with_header(json.dumps(fields, indent=3).encode())).header == a_header()


def test_only_one_record_is_in_memory_at_a_time(tmp_path):
    """There are 64 records of 1 MiB, written and read."""
    header = a_header(scene=a_scene(height=64, width=64), tile_size=8)
    with open(tmp_path / "large.hsc", "w+b") as file:
        tracemalloc.start()
        writer = Writer(file, header)
        for number in range(64):
            writer.add(number, bytes([number]) * 2**20)
        writer.finish()
        reader = Reader(file, "FILE")
        assert all(reader.tile(number)[:1] == bytes([number]) for number in range(64))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 3 * 2**20


def test_empty_shared_block_and_records():
    reader = read(write(payloads=[b""] * 4, shared=b""))
    assert reader.shared == b"" and [reader.tile(number) for number in range(4)] == [b""] * 4


# Tiles


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(8, 100))
def test_windows_cover_every_pixel_once_in_raster_order(height, width, tile_size):
    header = a_header(scene=a_scene(height=height, width=width), tile_size=tile_size)
    number_of = np.full((height, width), -1)
    for number in range(header.tile_count):
        row, column, rows, columns = header.window(number)
        part = number_of[row : row + rows, column : column + columns]
        assert part.shape == (rows, columns) and rows and columns and (part == -1).all()
        part[:] = number
    expected = np.arange(height)[:, None] // tile_size * header.tile_columns + np.arange(width) // tile_size
    np.testing.assert_array_equal(number_of, expected)
    assert header.tile_count == header.tile_rows * header.tile_columns == number_of.max() + 1


def test_missing_tile_numbers_are_refused():
    for number in (-1, 4):
        for function in (a_header().window, read(GOOD).tile):
            with pytest.raises(ValueError, match=f"^tile {number} of 4, counted from 0$"):
                function(number)


def test_coded_bands_are_counted_from_0():
    header = a_header(scene=a_scene(bands=6), dropped={"water vapour": (2, 3), "noise": (6,)}, exact=(4,))
    assert header.coded_bands == (0, 4)


# What a Writer refuses


def test_writer_takes_each_tile_once():
    file = io.BytesIO()
    writer = Writer(file, a_header(), SHARED)
    writer.add(1, b"one")
    for number, message in ((1, "tile 1 was added before"), (-1, "tile -1 of 4"), (4, "tile 4 of 4")):
        with pytest.raises(ValueError, match=message):
            writer.add(number, b"other")
    with pytest.raises(ValueError, match="3 of 4 tiles were not added, the first is 0"):
        writer.finish()
    assert refusal(file.getvalue()) == "tile index of 0 bytes, expected 80 for 4 tiles"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tile_size": 4}, "header field 'tile_size' is 4, expected a whole number from 8 to 1024"),
        ({"scene": a_scene(nodata=0.5)}, "header field 'scene.nodata' is 0.5, expected null or a whole number from"),
        ({"scene": a_scene(crs="\udc80")}, "surrogates not allowed"),
        ({"parameters": {"x": math.nan}}, "not JSON compliant"),
        ({"parameters": {"x": "x" * 2**22}}, "limit 4194304"),
    ],
)
def test_invalid_headers_are_not_written(changes, expected):
    file = io.BytesIO()
    with pytest.raises(CodingError, match=r"^a \.hsc file cannot hold this scene: ") as info:
        Writer(file, a_header(**changes))
    assert expected in str(info.value) and "\n" not in str(info.value)
    assert not file.getvalue()


# Other files


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is no .hsc file"),
        (b"II*\0" + bytes(100), "is no .hsc file"),
        (GOOD.replace(b"\r\n", b"\n"), "begins like a .hsc file that was altered, by a transfer as text for instance"),
        (bytes(byte & 127 for byte in GOOD), "begins like a .hsc file that was altered"),
        (GOOD[:8] + b"\7" + GOOD[9:], "format version 7, this program reads version 5: update it"),
        (GOOD[:8] + b"\3" + GOOD[9:], "format version 3, this program reads version 5: compress the scene again"),
        (GOOD[:8] + b"\0" + GOOD[9:], "format version 0, this program reads version 5: there is no such version"),
        (GOOD + b"\0" * 3, f"3 bytes too many: cut the file to {len(GOOD)} bytes"),
    ],
)
def test_other_files_are_refused(data, expected):
    assert refusal(data).startswith(expected)


# Header fields

WRONG = {
    "codec": [None, 1, True, [], {}, "", "two\nlines", "\x1b[31m", "x" * 65, "\ud800"],
    "parameters": [None, 1, "q", [], True],
    "model": [1, "cae1d", [], True],
    "model.name": [None, 1, "", "two\nlines", "x" * 65],
    "model.sha256": [None, 1, "", "g" * 64, "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"],
    "model.num_channels": [None, 0, -1, 65536, 2.0, True, "2"],
    "scene": [None, 1, "x", []],
    "scene.height": [None, 0, -1, 2**24 + 1, 10**18, 17.0, True, "17", [17]],
    "scene.width": [None, 0, -1, 2**24 + 1, 10**18, 20.0, True, "20", [20]],
    "scene.bands": [None, 0, -1, 65536, 10**18, 3.0, True, "3"],
    "scene.dtype": [None, 1, "", "int64", "complex64", "INT16", "<i2", ["int16"], {}],
    "scene.nodata": [True, 0.5, -32769, 32768, 1e300, "nan", "0", [], {}],
    "scene.band_nodata": [None, 1, {}, [1], [1] * 4, [1, 2, 0.5], [1, 2, True], [1, 2, "nan"]],
    "scene.masks": [None, -1, 2, 4, True, 1.0, "1", []],
    "scene.crs": [1, True, [], {}, "\ud800"],
    "scene.transform": [1, True, "abcdef", {}, [], [1] * 5, [1] * 7, [1] * 5 + ["1"], [1] * 5 + [None], [True] * 6],
    "scene.gcps": [
        *(None, 1, {}, [1], [[]], [[0] * 7], [[0, 0, 0, 0, 0, "", 1]], [[0, 0, 0, 0, "0", "", ""]]),
        [[0, 0, 0, 0, True, "", ""]],
    ],
    "scene.gcps_crs": [1, True, [], {}, "\ud800"],
    "scene.descriptions": [None, "abc", {}, ["a"], ["a"] * 4, ["a", "b", 1], ["a", "b", True], ["\ud800"] * 3],
    "scene.tags": [None, "a", [], {"a": "b"}, {"a": None}, {"a": {"b": 1}}, {"a": {"b": ["c"]}}, {"": {"\ud800": "b"}}],
    "scene.band_tags": [None, "a", {}, [{}], [{}] * 4, [{}, {}, None], [{}, {}, {"a": "b"}], [[], [], []]],
    "scene.scales": [None, 1, "abc", {}, [1.0], [1.0] * 4, [1, 1, "1"], [1, 1, None], [1, 1, True]],
    "scene.offsets": [None, 1, "abc", {}, [1.0], [1.0] * 4, [1, 1, "1"], [1, 1, None], [1, 1, True]],
    "scene.units": [None, "abc", {}, ["a"], ["a"] * 4, ["a", "b", 1], ["\ud800"] * 3],
    "scene.colors": [None, "abc", {}, ["a"], ["a"] * 4, ["a", "b", 1], ["a", "b", None], ["a", "b", ""]],
    "scene.color_tables": [
        *(None, 1, {}, [[]], [[]] * 4, [[], [], [1]], [[], [], [[0] * 4]], [[], [], [[0, 0, 0, 0, 65536]]]),
        [[], [], [[0, 0, 0, 0, -1]]],
    ],
    "scene.interleave": [None, 1, "", "BSQ", []],
    "scene.compression": [1, True, [], "", "two\nlines", "x" * 65],
    "scale": [None, 0, -1, -0.0, True, "1", []],
    "dropped": [
        *(None, 1, [], [2], {"": [1]}, {"two\nlines": [1]}, {"r": 1}, {"r": []}, {"r": [0]}, {"r": [4]}, {"r": [-1]}),
        *({"r": [True]}, {"r": [1.0]}, {"r": ["1"]}, {"r": [1, 1]}, {"r": [1], "s": [1]}, {"r": [1, 2, 3]}),
        *({"r": [1, 2], "s": [3]}, {"r": [1] * 10}, {"r": [1, 2]}),
    ],
    "tile_size": [None, -3, 0, 7, 1025, 10**18, 16.0, True, "16"],
    "exact": [None, 1, {}, [0], [4], [3, 3], [3, 1], ["1"], [True], [2], [1, 2, 3]],
    "max_error": [-1, -1e-9, True, "0", [], {}],
}


def paths(fields: dict, prefix: str = "") -> list[str]:
    below = [path for name in ("model", "scene") if name in fields for path in paths(fields[name], f"{name}.")]
    return [prefix + name for name in fields] + below


def test_every_field_is_altered_below():
    assert sorted(WRONG) == sorted(paths(FIELDS))


@pytest.mark.parametrize("path", WRONG)
def test_wrong_header_fields_are_named(path):
    for value in WRONG[path]:
        message = refusal(with_value(path, value))
        assert re.match(rf"header field '{re.escape(path)}[.\['].* expected ", message), (value, message)


@pytest.mark.parametrize("path", WRONG)
def test_missing_header_fields_are_named(path):
    fields = copy.deepcopy(FIELDS)
    parent, _, name = path.rpartition(".")
    del (fields[parent] if parent else fields)[name]
    assert refusal(with_fields(fields)) == f"header field '{path}' is missing"


@pytest.mark.parametrize("path", ["extra", "model.extra", "scene.extra", "two\nlines", "x" * 1000])
def test_unknown_header_fields_are_named(path):
    message = refusal(with_value(path, 1))
    assert message.startswith("header field ") and message.endswith(" is unknown")
    assert len(path) > 60 or repr(path) in message


def test_message_about_a_field():
    message = "header field 'tile_size' is -3, expected a whole number from 8 to 1024"
    assert refusal(with_value("tile_size", -3)) == message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"bands": 4}, "header field 'scene.descriptions' is ['B1', None, 'µ'], expected a list of length 0 or 4"),
        ({"bands": 4, "descriptions": []}, "header field 'scene.band_tags' is "),
        (NO_ITEMS | {"bands": 1}, "header field 'dropped.water vapour[0]' is 2, expected a whole number from 1 to 1"),
        (NO_ITEMS | {"bands": 65535}, None),
        ({"dtype": "uint16"}, "header field 'scene.nodata' is -32768.0, expected null or a whole number from 0 to 65"),
        ({"dtype": "float32", "nodata": 1e300}, "header field 'scene.nodata' is 1e+300, expected null"),
        ({"dtype": "float32", "nodata": "NaN"}, "header field 'scene.nodata' is 'NaN', expected null"),
    ],
)
def test_fields_that_contradict_each_other(changes, expected):
    data = with_value("scene", FIELDS["scene"] | changes)
    if expected is None:
        assert read(data).header.scene.bands == changes["bands"]
    else:
        assert refusal(data).startswith(expected)


def test_tiles_must_be_neither_too_large_nor_too_many():
    fields = copy.deepcopy(FIELDS)
    fields["scene"] |= NO_ITEMS | {"bands": 1000}
    fields["tile_size"] = 260
    assert refusal(with_fields(fields)) == "header field 'tile_size' is 260, expected at most 259 for 1000 bands"
    fields["scene"] |= {"bands": 3, "height": 2**14 + 8, "width": 2**14}
    fields["tile_size"] = 8
    message = "header field 'tile_size' is 8, expected more: 4196352 tiles, limit 4194304"
    assert refusal(with_fields(fields)) == message


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        HEADER[:-1],
        HEADER + b"x",
        b"\xef\xbb\xbf" + HEADER,
        HEADER.replace(b"learned", b"learn\xff\xfe"),
        HEADER.replace(b":10000.0", b":NaN"),
        HEADER.replace(b":10000.0", b":-Infinity"),
        HEADER.replace(b":10000.0", b":1e999"),
        HEADER.replace(b":10000.0", b":" + b"9" * 21),
        HEADER.replace(b":10000.0", b":" + b"9" * 5000),
        HEADER.replace(b":10000.0", b":" + b"9" * 10**6),
        HEADER.replace(b":10000.0", b":0." + b"9" * 10**6 + b"e999"),
        HEADER.replace(b'"max_error"', b'"scale":1.0,"max_error"'),
        HEADER.replace(b"[1,0.5,null]", b"[" * 15 + b"]" * 15),
        HEADER.replace(b"[1,0.5,null]", b"[" * 900 + b"]" * 900),
        HEADER.replace(b"[1,0.5,null]", b"[" * 10**6 + b"]" * 10**6),
        HEADER.replace(b"[1,0.5,null]", b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
        b"[" * 10**6,
    ],
    ids=lambda header: header[:20].decode("latin-1") + f" {len(header)}",
)
def test_invalid_json_is_refused(header):
    start = time.monotonic()
    assert refusal(with_header(header)).startswith("header")
    assert time.monotonic() - start < 1


def test_json_at_its_limits_is_accepted():
    nested = HEADER.replace(b"[1,0.5,null]", b"[" * 14 + b"7" + b"]" * 14)
    assert read(with_header(nested)).header.tile_count == 4
    assert read(with_value("codec", "x" * 64)).header.codec == "x" * 64
    assert "18446744073709551615" in read(with_value("parameters", {"seed": 2**64 - 1})).info()


# The header, deflated

DEFLATED = split(GOOD).header


def test_header_takes_less_than_its_text():
    band_tags = [{"": {"wavelength": f"{418.42 + 5.1 * band:.2f}", "FWHM": "6.99"}} for band in range(224)]
    scene = a_scene(bands=224, **dict.fromkeys(NO_ITEMS, ()) | {"band_tags": tuple(band_tags)})
    data = write(a_header(scene=scene))
    stored = split(data).header
    assert len(stored) < len(zlib.decompress(stored)) / 4
    assert f": header {12 + 12 + len(stored)}, shared " in read(data).info()


def test_truncated_headers_are_refused():
    for size in range(len(DEFLATED)):
        assert refusal(with_stored_header(DEFLATED[:size])).startswith("header is damaged: ")


@pytest.mark.parametrize(
    "stored",
    [
        HEADER,
        zlib.compress(HEADER, wbits=-15),
        zlib.compress(HEADER, wbits=31),
        DEFLATED + b"\0",
        DEFLATED + DEFLATED,
        DEFLATED[:-4] + bytes(4),
        b"\x78\xbb" + DEFLATED,  # wants a preset dictionary
    ],
    ids=["plain", "raw", "gzip", "a byte behind", "twice", "Adler-32", "dictionary"],
)
def test_wrongly_deflated_headers_are_refused(stored):
    assert refusal(with_stored_header(stored)).startswith("header is damaged: ")


@pytest.mark.parametrize("level", range(10))
def test_header_deflated_by_another_program(level):
    assert damaged_tiles(with_stored_header(zlib.compress(HEADER, level))) == set()


def lengthened(text: bytes, blocks: int) -> bytes:
    """Return the deflated text with additional empty blocks of 5 bytes."""
    stored = zlib.compress(text, 9)
    stored = stored[:2] + b"\0\0\0\xff\xff" * blocks + stored[2:]
    assert zlib.decompress(stored) == text
    return stored


def test_text_is_limited_by_what_is_stored():
    text = HEADER.ljust(10**5)
    fewest = -(-(len(text) - 2**16 - 32 * len(lengthened(text, 0))) // (5 * 32))
    assert damaged_tiles(with_stored_header(lengthened(text, fewest))) == set()
    assert refusal(with_stored_header(lengthened(text, fewest - 1))).startswith("header is damaged: ")


def test_text_is_limited_whatever_is_stored():
    assert damaged_tiles(with_stored_header(lengthened(HEADER.ljust(2**22), 30_000))) == set()
    assert refusal(with_stored_header(lengthened(HEADER.ljust(2**22 + 1), 30_000))).startswith("header is damaged: ")


def test_decompression_bombs_take_little_memory():
    """The bomb has 97 kB, since zlib's ratio is at most 1032:1. The text that these allow is in memory twice."""
    bomb = zlib.compress(HEADER.ljust(10**8), 9)
    assert peak_of_refusal(with_stored_header(bomb)) < 2 * (2**16 + 32 * len(bomb)) + 2**20


def test_repetitive_headers_are_written_and_read():
    """With zlib's best ratio they would break the rule against bombs."""
    scene = a_scene(bands=65535, **dict.fromkeys(NO_ITEMS, ()) | {"descriptions": ("a band like any other",) * 65535})
    header = a_header(scene=scene, parameters={})
    stored = split(write(header)).header
    text = zlib.decompress(stored)
    assert len(text) > 2**16 + 32 * len(zlib.compress(text, 9))
    assert len(text) <= 2**16 + 32 * len(stored) and len(stored) < len(text)
    assert read(write(header)).header == header


def test_header_of_the_largest_size():
    room = 2**22 - len(zlib.decompress(split(write(a_header(parameters={"x": ""}))).header))
    header = a_header(parameters={"x": "x" * room})
    assert read(write(header)).header == header
    with pytest.raises(CodingError, match="header of 4194305 bytes, limit 4194304"):
        write(a_header(parameters={"x": "x" * (room + 1)}))


# The index


def test_record_in_another_tiles_place_is_noticed():
    a, b, *others = split(GOOD).entries
    assert damaged_tiles(with_entries(b, a, *others)) == {0, 1}


def test_records_leave_neither_gaps_nor_overlap():
    entries = split(GOOD).entries
    length = len(GOOD)
    for changed in (
        (START + 1, length - START - 1, 0),
        (START - 1, 5, 0),
        (0, length, 0),
        (length + 1, 0, 0),
        (length + 1, 2**40, 0),
        (2**64 - 1, 2**64 - 1, 0),
    ):
        for number in range(4):
            data = with_entries(*entries[:number], changed, *entries[number + 1 :])
            assert refusal(data) == "tile index is damaged: records overlap or leave gaps"
    shifted = [(offset + 1, length, crc) for offset, length, crc in entries]
    data = join(Parts(pack(HEADER), SHARED, shifted, b"?" + GOOD[START:]))
    assert refusal(data) == "tile index is damaged: records overlap or leave gaps"
    assert damaged_tiles(with_entries(*entries)) == set()


def test_records_end_before_the_largest_file_size():
    first, _, *others = split(GOOD).entries
    length = 2**63 - len(GOOD)
    assert damaged_tiles(with_entries(first, (len(GOOD), length - 1, 0), *others)) == {1}
    data = with_entries(first, (len(GOOD), length, 0), *others)
    assert refusal(data) == f"tile index is damaged: records end at byte {2**63}"


def test_an_index_of_another_length_is_refused():
    entries = split(GOOD).entries
    assert refusal(with_entries(*entries[:3])) == "tile index of 60 bytes, expected 80 for 4 tiles"
    assert refusal(with_entries(*entries, entries[0])) == "tile index of 100 bytes, expected at most 80"


# Damage


def test_truncation_damages_only_the_tiles_cut_off():
    ends = [offset + length for offset, length, _ in split(GOOD).entries]
    for size in range(len(GOOD)):
        if size < START:
            assert re.search(
                r"no \.hsc|altered|ends inside its (version|header|shared|tile index)", refusal(GOOD[:size])
            )
        else:
            cut = {number for number, end in enumerate(ends) if end > size}
            assert damaged_tiles(GOOD[:size]) == cut and cut
            assert f"damaged     the file ends {len(GOOD) - size} byte" in read(GOOD[:size]).info()


def test_message_about_a_tile():
    with pytest.raises(DamagedTile) as info:
        read(GOOD[:-4]).tile(3)
    where = "FILE: tile 3 (row 16, column 16, 1 x 4 pixels) is damaged: "
    assert str(info.value) == where + "the file ends 4 bytes too early"
    with pytest.raises(DamagedTile, match="its checksum does not match"):
        read(GOOD[:-1] + b"y").tile(3)
    assert str(read(GOOD).damaged_tile(3, "no latent")) == where + "no latent"


def test_damaged_tile_can_be_pickled():
    error = pickle.loads(pickle.dumps(read(GOOD).damaged_tile(3, "why")))
    assert type(error) is DamagedTile and error.number == 3 and str(error).endswith("is damaged: why")


def test_every_flipped_bit_is_noticed():
    """There is no padding: opening the file fails, or reading one tile."""
    owner = {
        at: number
        for number, (offset, length, _) in enumerate(split(GOOD).entries)
        for at in range(offset, offset + length)
    }
    for at in range(len(GOOD)):
        for bit in range(8):
            data = GOOD[:at] + bytes([GOOD[at] ^ 1 << bit]) + GOOD[at + 1 :]
            if at < START:
                refusal(data)
            else:
                assert damaged_tiles(data) == {owner[at]}


def framed(length: int, content: bytes = b"") -> bytes:
    return struct.pack("<QI", length, zlib.crc32(content)) + content


ENTRIES = split(GOOD).entries
HUGE_SCENE = {"height": 2**24, "width": 2**24, "bands": 65535} | NO_ITEMS


@pytest.mark.parametrize(
    "data",
    [
        GOOD[:12] + framed(2**63),
        GOOD[:12] + framed(2**22, pack(HEADER)),
        GOOD[:12] + framed(2**22 + 1, pack(HEADER)),
        GOOD[:12] + block(pack(HEADER)) + framed(2**30),
        GOOD[:12] + block(pack(HEADER)) + framed(2**64 - 1),
        GOOD[:12] + block(pack(HEADER)) + block(b"") + framed(2**62),
        with_value("scene", FIELDS["scene"] | HUGE_SCENE),
        with_fields(FIELDS | {"scene": FIELDS["scene"] | HUGE_SCENE, "tile_size": 64}),
        with_value("scene", FIELDS["scene"] | {"height": 2**24, "width": 64}),
        join(Parts(split(with_value("scene", FIELDS["scene"] | {"height": 2**24, "width": 64})).header, b"", [], b"")),
        with_stored_header(zlib.compress(HEADER + b" " * 10**6, 9)),
        *(with_entries(*ENTRIES[:3], (ENTRIES[3][0], length, 0)) for length in (2**40, 2**62, 2**64 - 1)),
        *(with_entries(*ENTRIES[:1], (offset, 2**40, 0), *ENTRIES[2:]) for offset in (len(GOOD), 2**63, 2**64 - 1)),
    ],
)
def test_absurd_sizes_allocate_nothing(data):
    assert peak_of_refusal(data) < 2**20


def peak_of_refusal(data: bytes) -> int:
    """Return the peak memory in bytes until the damage is found."""
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            reader = read(data)
            reader.info()
            for number in range(4):
                reader.tile(number)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


ODD_VALUES: tuple = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    7,
    8,
    255,
    65535,
    2**24,
    2**63,
    0.5,
    -0.0,
    1e308,
    "",
    "nan",
    "\0",
    "\n",
    "\ud800",
)
ODD_VALUES += ([], {}, [[]], [1, 2, 3], {"": ""}, {"a": [1]}, [None] * 3, [{}] * 3)
ODD_NUMBERS = (0, 1, 19, 20, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)


def places(value) -> list[tuple]:
    """Return (container, key) of everything within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in items for place in ((value, key), *places(child))]


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((0, 1, 1, 2, 8, 50)))
    piece = rng.choice((b"", rng.randbytes(1), rng.randbytes(4), data[end : end + 9], b"-", b"0", b"[", b'"', b"e9"))
    return data[:start] + piece + data[end:]


def mutated_fields(rng: random.Random) -> bytes:
    fields = copy.deepcopy(FIELDS)
    for _ in range(rng.choice((1, 1, 2, 3))):
        container, key = rng.choice(places(fields))
        if rng.random() < 0.15:
            del container[key]
        else:
            container[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return json.dumps(fields).encode()


def mutated_entries(rng: random.Random, entries: list) -> list:
    entries = [list(entry) for entry in entries]
    for _ in range(rng.choice((1, 2))):
        entry, field = rng.choice(entries), rng.choice((0, 0, 1, 1, 2))
        limit = 2**64 if field < 2 else 2**32
        entry[field] = rng.choice((rng.choice(ODD_NUMBERS), entry[field] + rng.randint(-9, 9))) % limit
    if rng.random() < 0.2:
        rng.shuffle(entries)
    return entries


def test_mutations_with_repaired_checksums_raise_nothing_else():
    rng, good = random.Random(4), split(GOOD)
    opened = delivered = 0
    for _ in range(4_000):
        parts, kind = good, rng.randrange(5)
        if kind == 0:
            parts = parts._replace(header=pack(mutated_bytes(rng, HEADER)))
        elif kind == 1:
            parts = parts._replace(header=pack(mutated_fields(rng)))
        elif kind == 2:
            parts = parts._replace(header=mutated_bytes(rng, parts.header))
        elif kind == 3:
            parts = parts._replace(entries=mutated_entries(rng, parts.entries))
        else:
            parts = parts._replace(shared=mutated_bytes(rng, SHARED), records=mutated_bytes(rng, parts.records))
        try:
            reader = read(join(parts, old_start=START))
        except DamagedError as error:
            assert str(error).startswith("FILE: ") and "\n" not in str(error)
            continue
        opened += 1
        assert "\n" not in reader.header.codec and reader.info()
        assert reader.header.window(reader.header.tile_count - 1)
        for number in range(min(4, reader.header.tile_count)):
            try:
                delivered += reader.tile(number) in PAYLOADS
            except DamagedTile as error:
                assert error.number == number and "\n" not in str(error)
    assert opened > 800 and delivered > 800, "mutations too wild to test anything behind the header"


# For people


def test_info():
    water = (*range(127, 142), *range(161, 168))
    scene = a_scene(
        height=1000,
        width=128,
        bands=224,
        crs='PROJCS["WGS 84 / UTM zone 33N",GEOGCS["WGS 84"]]',
        **dict.fromkeys(NO_ITEMS, ()),
    )
    model = {"name": "cae1d", "sha256": "0123456789abcdef" * 4, "num_channels": 202}
    dropped = {"water vapour": water, "noise": (224,)}
    header = a_header(scene=scene, model=model, dropped=dropped, tile_size=512, exact=(1,))
    header = dataclasses.replace(header, parameters={"quality": 1.5, "a": "é"})
    data = write(header, [b"x" * 10**6, b"y" * 10**6], order=(0, 1))
    head = len(data) - 2 * 10**6 - 2 * 20 - 24 - len(SHARED)
    assert read(data).info().splitlines() == [
        "codec       learned",
        'parameters  {"a": "\\u00e9", "quality": 1.5}',
        "model       cae1d, 202 channels, SHA-256 0123456789ab...",
        "size        1000 x 128 pixels, 224 bands of int16",
        "nodata      -32768",
        "masks       one for all bands",
        "CRS         WGS 84 / UTM zone 33N",
        "scale       10000 is reflectance 1.0",
        "dropped     noise: 224; water vapour: 127-141, 161-167",
        "alpha       1",
        "tiles       2 x 1 of 512 x 512 pixels",
        "max error   5",
        f"bytes       {len(data)}: header {head}, shared 16, tiles 2000000, index 64",
        f"rate        {8 * len(data) / (1000 * 128 * 200):.4g} bits per sample of the 200 coded bands",
    ]
    lines = read(data[:-1]).info().splitlines()
    assert lines[-1] == "damaged     the file ends 1 byte too early: 1 tile cut off"


def test_info_of_a_plain_scene():
    scene = SceneInfo(height=1, width=1, bands=1, dtype="float32", nodata=math.nan)
    header = Header("zstd", {}, None, scene, 1.0, {}, 8, None)
    lines = dict(line.split(maxsplit=1) for line in read(write(header, [b""], b"", [0])).info().splitlines())
    assert lines["model"] == lines["CRS"] == lines["dropped"] == "none"
    assert lines["size"] == "1 x 1 pixels, 1 band of float32"
    assert lines["masks"] == lines["alpha"] == "none"
    assert lines["nodata"] == "nan" and lines["max"] == "error   no bound" and lines["scale"].startswith("1 is")
    for crs in ("", 'PROJCS["\x1b[31m"]', f'PROJCS["{"x" * 61}"]', "EPSG:4326"):
        renamed = dataclasses.replace(header, scene=dataclasses.replace(scene, crs=crs))
        assert "CRS         without a short name\n" in read(write(renamed, [b""], b"", [0])).info()
