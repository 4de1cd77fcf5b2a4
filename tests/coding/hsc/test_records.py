"""Records of every codec: gaps are kept, valid samples never become nodata, damage is noticed before decoding."""

import numpy as np
import pytest

from coding import codecs
from coding.base import BoundNotGuaranteed, Codec, CodingError, DamagedError, join_blocks
from coding.hsc.records import Parts, decode_record, encode_record
from coding.samples import Samples
from tests.coding import roundtrip

NAMES = [name for name in codecs if name != "learned"]  # its tests need a network


class Constant(Codec):
    """A codec that writes nothing and decodes one value."""

    def __init__(self, value, dtype="int16", guaranteed=True):
        self.value, self.dtype, self.guaranteed = value, dtype, guaranteed

    def encode(self, cube, valid):
        self.given = cube
        return b"bytes"

    def decode(self, data, valid):
        assert data == b"bytes"
        decoded = np.full(valid.shape, self.value, self.dtype)
        if not self.guaranteed:
            raise BoundNotGuaranteed(decoded)
        return decoded


def encoded(codec, cube, valid, nodata):
    return encode_record(codec, Parts(cube, valid, [nodata] * len(cube)))


def decode(codec, record, cube, nodata, has_bound):
    header = roundtrip.header_of(cube, nodata=nodata, max_error=0 if has_bound else None)
    return decode_record(codec, record, header, cube.shape[1:])


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
@pytest.mark.parametrize("nodata", [7.0, 0.0])
def test_samples_move_off_nodata_towards_the_original(dtype, nodata):
    cube = np.array([[[6, 9, 7, 8, 0, 3]]], dtype) if nodata else np.array([[[1, 2, 0, 5, 1, 1]]], dtype)
    valid = cube != nodata
    record, decoded = encoded(Constant(nodata, dtype), cube, valid, nodata)
    result = decode(Constant(nodata, dtype), record, cube, nodata, True).samples
    assert np.array_equal(result == nodata, ~valid)
    assert np.array_equal(result[valid], decoded[valid])
    assert (np.abs(result - cube.astype(float)) <= np.abs(nodata - cube.astype(float)))[valid].all()
    assert np.array_equal((result > nodata)[valid], (cube > nodata)[valid])
    step = np.abs(result[valid].astype(float) - nodata)
    assert (step == 1).all() if dtype != "float32" else (step < 1e-6).all()


@pytest.mark.parametrize(("dtype", "nodata"), [("int16", -32768), ("int16", 32767), ("uint16", 0), ("uint16", 65535)])
def test_samples_move_off_nodata_at_an_end_of_the_type(dtype, nodata):
    """There is only one direction, even if a damaged record says otherwise."""
    cube = np.full((1, 2, 4), 100, dtype)
    valid = np.ones(cube.shape, bool)
    codec = Constant(nodata, dtype)
    record, _ = encoded(codec, cube, valid, nodata)
    for moves in (record[2:3], b"\x00", b"\xff"):
        damaged = join_blocks([b"", moves]) + b"bytes"
        result = decode(codec, damaged, cube, nodata, True).samples
        assert (np.abs(result.astype(int) - nodata) == 1).all()


def test_the_codec_sees_no_gaps():
    cube = np.array([[[5, -1, 9]], [[-1, -1, -1]]], np.int16)
    codec = Constant(0)
    encoded(codec, cube, cube != -1, -1)
    assert codec.given.tolist() in ([[[5, 5, 9]], [[0, 0, 0]]], [[[5, 9, 9]], [[0, 0, 0]]])


def test_nan_and_infinity_do_not_reach_a_codec():
    cube = np.ones((1, 2, 3), np.float32)
    cube[0, 1, 1] = np.nan
    with pytest.raises(CodingError, match="samples must be finite, got NaN or infinity"):
        encoded(Constant(0, "float32"), cube, np.ones(cube.shape, bool), None)


def test_a_wrong_number_of_moves_is_damage_with_a_bound_only():
    """Without a bound, another machine may round otherwise, which must not stop a decoder."""
    cube = np.full((1, 2, 8), 5, np.int16)
    valid = np.ones(cube.shape, bool)
    record, _ = encoded(Constant(7), cube, valid, None)
    with pytest.raises(DamagedError, match="must have 2 bytes of moves off nodata, got 0"):
        decode(Constant(7), record, cube, 7, True)
    assert (decode(Constant(7), record, cube, 7, False).samples == 6).all()
    unguaranteed = decode(Constant(7, guaranteed=False), record, cube, 7, True)
    assert (unguaranteed.samples == 6).all() and "bound not guaranteed" in unguaranteed.problem
    # Without a nodata value no sample is moved, even if a damaged record says so.
    damaged = join_blocks([b"", b"\xff"]) + b"bytes"
    assert (decode(Constant(7), damaged, cube, None, False).samples == 7).all()


@pytest.mark.parametrize("record", [b"", b"\1", b"\0\xff\xff\xff\xff\xff\1ab", b"\0\xff\1ab", b"\1x\0"])
def test_damaged_records_are_refused(record):
    with pytest.raises(DamagedError) as caught:
        decode(Constant(0), record, np.zeros((1, 2, 3), np.int16), None, False)
    assert "\n" not in str(caught.value)


# -- every codec ----------------------------------------------------------------------------------


def cases():
    for name in NAMES:
        for dtype in ("int16", "uint16", "float32"):
            factory = codecs[name].make_factory(Samples(dtype, 10000.0))
            for mode, max_error in (("lossy", None), ("bounded", 3), ("lossless", 0)):
                if getattr(factory, mode):
                    yield pytest.param(name, dtype, mode, max_error, id=f"{name}-{dtype}-{mode}")


def holed(dtype, nodata):
    """Return a cube with gaps of several shapes, and with few different values, so that many are decoded as nodata."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:20, :18]
    cube = 600 + 40 * np.rint(2 * np.sin(y / 5) + 2 * np.cos(x / 4))[None] + 20 * np.arange(5)[:, None, None]
    cube = (cube + rng.integers(-1, 2, cube.shape)).astype(dtype)
    cube[cube == nodata] += 1
    cube[:, :5, 3:9] = nodata
    cube[2, 10:] = nodata
    cube[4] = nodata
    return cube


@pytest.mark.parametrize(("name", "dtype", "mode", "max_error"), cases())
def test_gaps_and_bounds_are_kept_with_any_number_of_threads(name, dtype, mode, max_error):
    nodata = 640
    cube = holed(dtype, nodata)
    header = roundtrip.header_of(cube, name, nodata, max_error=max_error, tile_size=10)

    def choose(factory):
        return getattr(factory, mode)(*{"lossy": (20.0,), "bounded": (max_error,), "lossless": ()}[mode])

    try:
        data, written = roundtrip.encode(cube, header, choose)
    except CodingError as error:
        assert dtype == "float32" and "samples must be " in str(error)
        return
    assert roundtrip.encode(cube, header, choose, num_workers=3)[0] == data
    decoded = roundtrip.decoded(data)
    valid = cube != nodata
    assert np.array_equal(decoded != nodata, valid)
    errors = np.abs(decoded.astype(np.float64) - cube)[valid]
    assert written.distortion.largest_error == pytest.approx(errors.max(), abs=1e-9)
    assert errors.max() <= (100 if max_error is None else max_error)


@pytest.mark.parametrize("name", NAMES)
def test_damage_never_reaches_a_codec(name, monkeypatch):
    """Cut or lengthened files and flipped bits are noticed by the file's or the tile's checksum."""
    cube = holed("int16", 640)[:3]
    factory = codecs[name].make_factory(Samples("int16", 10000.0))
    max_error = 0 if factory.lossless else None
    header = roundtrip.header_of(cube, name, 640, max_error=max_error, tile_size=10)
    data, _ = roundtrip.encode(cube, header, lambda f: f.lossless() if factory.lossless else f.lossy(20.0))
    reader = roundtrip.read(data)
    codec = codecs[name].open(reader.header, reader.shared)
    decode, given = type(codec).decode, []
    monkeypatch.setattr(type(codec), "decode", lambda *args: given.append(args[1]) or decode(*args))
    roundtrip.decode(data, codec)
    sound = set(given)
    rng = np.random.default_rng(2)
    damaged = [b"", data[:5], data[:20], data[:-1], data + b"\0"]
    for place in rng.integers(0, len(data), 40):
        damaged.append(data[:place] + bytes([data[place] ^ 1 << rng.integers(8)]) + data[place + 1 :])
    for content in damaged:
        with pytest.raises(DamagedError) as caught:
            roundtrip.decode(content, codec)
        assert "\n" not in str(caught.value)
    assert set(given) == sound


@pytest.mark.parametrize("name", NAMES)
def test_headers_that_a_codec_did_not_write_are_refused(name):
    cube = np.zeros((2, 8, 8), np.int16)
    for changes, words in (
        ({"parameters": {"step": 0}}, r"parameters\.step"),
        ({"parameters": {"more": 1}}, r"parameters\.more"),
        ({"model": {"name": "cae1d", "sha256": "0" * 64, "num_channels": 2}}, "neither a model"),
    ):
        header = roundtrip.header_of(cube, name)
        header = type(header)(**{**vars(header), **changes})
        with pytest.raises(DamagedError, match=words):
            codecs[name].open(header, b"")
    with pytest.raises(DamagedError, match="shared block"):
        codecs[name].open(roundtrip.header_of(cube, name), b"x")


def test_types_and_modes_that_a_codec_does_not_have_are_damage():
    floats, integers = np.zeros((2, 8, 8), np.float32), np.zeros((2, 8, 8), np.int16)
    with pytest.raises(DamagedError, match=r"samples must be .*int16 or uint16"):
        codecs["jpegls"].open(roundtrip.header_of(floats, "jpegls", max_error=0), b"")
    with pytest.raises(DamagedError, match="has no bounded mode"):
        codecs["jpegxl"].open(roundtrip.header_of(integers, "jpegxl", max_error=3), b"")
