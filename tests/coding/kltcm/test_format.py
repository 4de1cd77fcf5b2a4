"""docs/format.md suffices to decode `klt-cm`: a plain decoder written from it decodes what the codec does."""

import json
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from coding.hsc.header import Header, header_to_json
from coding.hsc.masks import fill_gaps, fill_values
from coding.hsc.records import Parts, decode_record, encode_record
from coding.kltcm.codec import KltCm
from coding.kltcm.coefficients import encode_coefficients
from coding.kltcm.trellis import NEXT_STATE
from coding.numbers import Numbers, numbers_of
from coding.prediction.regression import regressors
from datasets.base import SceneInfo
from tests.coding.kltcm import plain_decoder
from tests.coding.prediction.resampled import resampled_noise

FORMAT = Path(__file__).resolve().parents[3] / "docs/format.md"


def smooth_cube(shape, dtype, seed=0, noise=6.0):
    """Return mixtures of three spectra by smooth fields; one field is the square of another."""
    generator = np.random.default_rng(seed)
    fields = generator.standard_normal((3, *shape[1:]))
    for axis in (1, 2):
        for _ in range(3):
            fields = (fields + np.roll(fields, 1, axis)) / 2
    fields /= fields.std(axis=(1, 2), keepdims=True) + 1e-3
    fields[2] = fields[0] ** 2
    wavelengths = np.linspace(0, 3, shape[0])
    spectra = np.stack([np.sin(wavelengths + 1), np.cos(2 * wavelengths), 0.3 * np.sin(3 * wavelengths)])
    cube = 5000 + 300 * np.einsum("kc,khw->chw", spectra, fields) + generator.normal(0, noise, shape)
    return (cube / 10000 if dtype == "float32" else np.rint(cube)).astype(dtype)


def noisy_cube(shape, dtype, deviation, seed=0):
    return np.random.default_rng(seed).normal(0, deviation, shape).astype(dtype)


def with_gaps(cube, nodata, seed=0):
    """Return the cube with nodata at a third of its samples and in a whole band, and its mask."""
    valid = np.random.default_rng(seed).random(cube.shape) > 0.3
    valid[len(cube) // 2] = False
    return np.where(valid, cube, np.array(nodata, cube.dtype)), valid


def fields_of(codec, info, exact=()):
    """Return the fields of the header's text that a decoder of a tile reads."""
    max_error = None if codec.numbers.bound is None else float(codec.numbers.bound)
    header = Header("klt-cm", dict(codec.parameters), None, info, 1.0, {}, 64, max_error, exact)
    return json.loads(header_to_json(header))


def decode_both(cube, step=None, bound=None, divisor=1, nodata=None, valid=None):
    """Return the encoder's decoded cube, the plain decoder's, and the codec's bytes."""
    dtype = cube.dtype.name
    valid = np.ones(cube.shape, bool) if valid is None else valid
    codec = KltCm(Numbers(dtype, divisor, bound), step)
    record, expected = encode_record(codec, Parts(cube, valid, [nodata] * len(cube)))
    info = SceneInfo(*cube.shape[1:], len(cube), dtype, nodata)
    decoded, _ = plain_decoder.decode_record(fields_of(codec, info), record, cube.shape[1:])
    expected = np.where(valid, expected, fill_values(info))
    return expected, np.array(decoded), plain_decoder.first_block(plain_decoder.first_block(record)[1])[1]


def used_factors(data):
    """Return the number of components, and how many factors of features are not 0."""
    transform, components = plain_decoder.blocks(data, 2)
    _, count = struct.unpack_from("<fI", transform)
    factors, _ = plain_decoder.blocks(components, 2)
    number = sum(plain_decoder.features_of(k) for k in range(count - 1))
    return count, np.count_nonzero(plain_decoder.array(factors, count, number))


SHAPES = [(1, 1, 1), (3, 1, 5), (3, 5, 1), (2, 64, 2), (2, 3, 3), (1, 7, 9), (5, 2, 40), (4, 33, 4)]
"""Unusual shapes: without wavelet levels, with all five, with sides of 1."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bound", [0, 3])
def test_small_tiles_with_a_bound(shape, bound):
    expected, decoded, _ = decode_both(smooth_cube(shape, "int16"), bound=bound)
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", [2.0, 40.0])
def test_small_tiles_without_a_bound(shape, step):
    expected, decoded, _ = decode_both(smooth_cube(shape, "int16"), step=step)
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize("bound", [0, 3, 20000])
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_numbers(dtype, bound):
    expected, decoded, _ = decode_both(smooth_cube((10, 20, 23), dtype), bound=bound)
    assert np.array_equal(decoded, expected)


def test_numbers_that_have_neighbors_in_other_bands():
    cube = smooth_cube((6, 28, 28), "int16", noise=20.0)
    assert max(regressor[1] for regressor in regressors(5, 28 * 28)[0].tolist()) == 1
    expected, decoded, _ = decode_both(cube, bound=0)
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize("bound", [0, 3])
@pytest.mark.parametrize("share", [0, 0.03])
def test_numbers_of_resampled_tiles(bound, share):
    cube = resampled_noise((9, 26, 32), 8 * [(0, 0)] + [(0.3, 0.1)], deviation=60).astype(np.int16)
    valid = np.broadcast_to(np.random.default_rng(0).random(cube.shape[1:]) >= share, cube.shape)
    expected, decoded, data = decode_both(np.where(valid, cube, np.int16(-999)), bound=bound, nodata=-999, valid=valid)
    phases, _ = plain_decoder.first_block(data[8:])
    assert len(phases) > 8, "frequencies and displacements"
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize("bound", [0, 2])
def test_numbers_of_so_many_pixels_that_weights_settle(bound):
    """The step of weights shrinks after 2^9 pixels of a class, 2^12 of a tile, and after twice as many again."""
    generator = np.random.default_rng(0)
    cube = generator.normal(0, 9, (2, 66, 64)).astype(np.int16)
    cube[1] = cube[0] * np.where(np.arange(66) < 33, 1, -1)[:, None] + generator.normal(0, 3, (66, 64))
    expected, decoded, _ = decode_both(cube, bound=bound)
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize(("divisor", "bound"), [(1, 0), (16, 5)])
def test_numbers_that_are_large_and_hard_to_predict(divisor, bound):
    cube = np.rint(np.random.default_rng(0).uniform(-2e6, 2e6, (3, 9, 9))) / divisor
    expected, decoded, _ = decode_both(cube.astype(np.float32), bound=bound, divisor=divisor)
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize(("band", "pixels"), [(0, 1000), (5, 31), (5, 64), (5, 300), (9, 700), (12, 5000), (40, 9000)])
def test_regressors(band, pixels):
    places, kinds = regressors(band, pixels)
    stated = plain_decoder.regressors(band, pixels)
    assert stated == [(*place, kind) for place, kind in zip(places.tolist(), kinds.tolist(), strict=True)]


@pytest.mark.parametrize("step", [2.0, 40.0])
def test_components_that_are_predicted_from_one_another(step):
    cube = smooth_cube((10, 20, 23), "uint16")
    expected, decoded, data = decode_both(cube, step=step)
    assert used_factors(data)[1] > 0
    assert np.array_equal(decoded, expected)


def test_features_of_all_kinds():
    """Each of the last components follows from one kind of feature, taken from the last components that have it."""
    planes = np.random.default_rng(0).normal(0, 40, (14, 16, 16))
    unit = planes / 40
    right, below = np.roll(unit, -1, 2), np.roll(unit, -1, 1)
    planes[8], planes[9] = 30 * unit[5] * unit[0], 30 * unit[5] ** 2
    planes[10], planes[11] = 10 * unit[2] ** 3, 15 * (right - np.roll(unit, 1, 2))[7]
    planes[12] = 15 * (below + np.roll(unit, 1, 1) - 2 * unit)[7]
    planes[13] = 15 * (right + np.roll(unit, 1, 2) - 2 * unit)[7] + 15 * (below - np.roll(unit, 1, 1))[6]
    data, expected = encode_coefficients(planes)
    factors = plain_decoder.array(plain_decoder.blocks(data, 2)[0], 14, 56)
    # Where the features of each component end. Its products come last, before its cube if it has one.
    ends = [sum(plain_decoder.features_of(i) for i in range(k + 1)) for k in range(8)]
    wanted = {8: ends[5] - 6, 9: ends[5] - 1, 10: ends[2] - 1, 11: ends[6], 12: ends[6] + 3, 13: ends[6] + 2}
    assert all(factors[k][j] for k, j in wanted.items())
    assert np.allclose(plain_decoder.decode_components(data, *planes.shape), expected, rtol=1e-9, atol=1e-9)


def test_more_components_than_have_places_of_their_own():
    expected, decoded, data = decode_both(noisy_cube((56, 8, 8), "float32", 40.0), step=10.0)
    assert used_factors(data)[0] > 48
    assert np.allclose(decoded, expected, rtol=1e-6, atol=0)


def test_components_that_are_large():
    expected, decoded, _ = decode_both(noisy_cube((4, 6, 7), "float32", 1e4), step=0.01)
    assert np.allclose(decoded, expected, rtol=1e-6, atol=0)


def test_tiles_without_components():
    expected, decoded, data = decode_both(np.full((3, 5, 6), 1234, np.int16), step=10.0)
    assert not plain_decoder.blocks(data, 2)[1]
    assert np.array_equal(decoded, expected)


def float_cubes():
    """Yield floats that are no rounded decimals."""
    generator = np.random.default_rng(0)
    cube = smooth_cube((3, 9, 12), "float64") / 1e4 - 0.45 + generator.normal(0, 1e-4, (3, 9, 12))
    special = cube.copy()
    special.ravel()[:4] = 0.0, -0.0, 1e-42, -3e38
    yield "float32-special", special.astype(np.float32)
    special.ravel()[:4] = 0.0, -0.0, 5e-324, -1e308
    yield "float64-special", special
    yield "float16", (cube * 20).astype(np.float16)
    yield "float64-of-float32", cube.astype(np.float32).astype(np.float64)
    clipped = np.clip(cube, np.quantile(cube, 0.3), np.quantile(cube, 0.9))
    yield "float32-frequent", clipped.astype(np.float32)
    mixed = cube.astype(np.float32)
    mixed[generator.random(cube.shape) < 0.2] = -0.0
    yield "float32-zeros", mixed
    yield "float64-coarse", np.ldexp(np.rint(np.ldexp(cube, 12)), -12) * (1 + np.arange(3) * 2.0**10)[:, None, None]
    integers = np.rint(cube * 10000)
    yield "float32-lines", (integers * 0.0123 - np.array([0.4, 0, 3])[:, None, None]).astype(np.float32)
    yield "float64-lines", integers / 37.7
    yield "float16-flat", np.full((2, 4, 5), 1.5, np.float16)


FLOATS = dict(float_cubes())


@pytest.mark.parametrize("share", [0, 0.3])
@pytest.mark.parametrize("name", FLOATS)
def test_floats_by_their_bits(name, share):
    cube = FLOATS[name]
    valid = np.random.default_rng(1).random(cube.shape) >= share
    codec = KltCm(Numbers(cube.dtype.name, 0, 0))
    data = codec.encode(fill_gaps(cube, valid), valid)
    for decoded in (
        codec.decode(data, valid),
        np.array(plain_decoder.decode_tile(codec.parameters, cube.dtype.name, data, valid.tolist()), cube.dtype),
    ):
        assert np.array_equal(decoded[valid].view(np.uint8), cube[valid].view(np.uint8))


def other_cubes():
    """Yield the name of a case, samples of the other types, and a bound."""
    generator = np.random.default_rng(0)
    for dtype in ("uint8", "int8", "int32", "uint32"):
        limits = np.iinfo(dtype)
        for bound in (0, 3):
            yield f"{dtype}-{bound}", generator.integers(limits.min, limits.max, (3, 8, 9), dtype, endpoint=True), bound
    yield "uint32-offset", (smooth_cube((3, 8, 9), "float64") + 3e9).astype(np.uint32), 0
    decimals = np.round(smooth_cube((3, 8, 9), "float64") / 1e4, 3)
    for dtype in ("float16", "float32", "float64"):
        yield f"{dtype}-decimals", decimals.astype(dtype), 0
        yield f"{dtype}-bound", (decimals * 3.21).astype(dtype), 0.01
    yield "float64-short", decimals.astype(np.float32).astype(np.float64), 0
    yield "float32-negative-zeros", np.round(decimals - decimals.mean(), 2).astype(np.float32) * np.float32(-1), 0


OTHERS = {name: rest for name, *rest in other_cubes()}


@pytest.mark.parametrize("name", OTHERS)
def test_other_types(name):
    cube, bound = OTHERS[name]
    valid = np.random.default_rng(1).random(cube.shape) < 0.9
    codec = KltCm(numbers_of(cube.dtype.name, bound, [cube], codes_bits=True))
    data, expected = codec.encode_and_decode(cube, valid)
    plain = plain_decoder.decode_tile(codec.parameters, cube.dtype.name, data, valid.tolist())
    for decoded in (codec.decode(data, valid), np.array(plain, cube.dtype)):
        assert np.array_equal(decoded.view(np.uint8), expected.view(np.uint8))
    assert np.abs(expected.astype(np.float64) - cube)[valid].max() <= bound * (1 + 1e-6) + 1e-7
    if bound == 0:
        assert np.array_equal(expected[valid].view(np.uint8), cube[valid].view(np.uint8))


@pytest.mark.parametrize("nodata", [-999, 5000, 32767])
@pytest.mark.parametrize("coding", [{"bound": 2}, {"bound": 40}, {"step": 8.0}])
def test_gaps_and_samples_that_would_be_nodata(nodata, coding):
    cube, valid = with_gaps(smooth_cube((6, 9, 11), "int16"), nodata)
    cube[valid & (cube == nodata)] += 1
    expected, decoded, _ = decode_both(cube, nodata=float(nodata), valid=valid, **coding)
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize("bound", [40, 1000])
def test_numbers_that_move_off_nodata(bound):
    cube = np.rint(noisy_cube((4, 9, 11), "float64", 100.0)).astype(np.int16)
    _, decoded, _ = decode_both(cube, bound=bound)
    nodata = int(np.bincount(decoded.ravel() + 2**15).argmax()) - 2**15
    cube[cube == nodata] += 1
    codec = KltCm(Numbers("int16", 1, bound))
    record, expected = encode_record(codec, Parts(cube, np.ones(cube.shape, bool), [float(nodata)] * 4))
    info = SceneInfo(*cube.shape[1:], len(cube), "int16", float(nodata))
    decoded = np.array(plain_decoder.decode_record(fields_of(codec, info), record, cube.shape[1:])[0])
    moved = plain_decoder.first_block(plain_decoder.first_block(record)[1])[0]
    assert 0 < np.unpackbits(np.frombuffer(moved, np.uint8)).mean() < 1, "up and down"
    assert (decoded != nodata).all() and np.array_equal(decoded, expected)


@pytest.mark.parametrize("nodata", [None, float("nan"), 0.5])
@pytest.mark.parametrize("coding", [{"bound": 0, "divisor": 10000}, {"bound": 20, "divisor": 10000}, {"step": 1e-3}])
def test_floats(nodata, coding):
    cube = smooth_cube((6, 9, 11), "float32")
    cube = (np.rint(cube * 10000).astype(np.float32) / np.float32(10000)).astype(np.float32)
    cube, valid = with_gaps(cube, math.nan if nodata is None else nodata)
    cube[valid & (cube == np.float32(0.5))] = 0.75
    expected, decoded, _ = decode_both(cube, nodata=nodata, valid=valid, **coding)
    if "bound" in coding:
        assert np.array_equal(decoded, expected.astype(np.float64), equal_nan=True)
    else:
        assert np.allclose(decoded, expected, rtol=1e-6, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("nodata", [-7, -(2**15), 2**15 - 1])
def test_samples_without_a_bound_at_nodata(nodata):
    """All samples are valid, but decoded as nodata, so all of them must move off it."""
    expected, decoded, _ = decode_both(np.full((2, 3, 4), nodata, np.int16), step=0.5, nodata=float(nodata))
    assert (decoded != nodata).all() and np.array_equal(decoded, expected)


@pytest.mark.parametrize("nodata", [0.0, 1.5, -1.5])
def test_floats_without_a_bound_at_nodata(nodata):
    expected, decoded, _ = decode_both(np.full((2, 4, 4), nodata, np.float32), step=0.5, nodata=nodata)
    assert np.array_equal(decoded, expected.astype(np.float64))


@pytest.mark.parametrize("num_masks", [0, 1, 5])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("coding", [{"bound": 0, "divisor": 10000}, {"bound": 20, "divisor": 10000}, {"step": 1e-3}])
def test_masks_alpha_bands_and_special_values(num_masks, many, coding):
    """Five bands: alpha, no nodata, nodata -1, nodata 0 and not a number, with values that no codec takes."""
    rng = np.random.default_rng(0)
    cube = np.concatenate([rng.integers(0, 3, (1, 9, 11)), smooth_cube((4, 9, 11), "float32")]).astype(np.float32)
    cube[1:] = np.rint(cube[1:] * 10000) / np.float32(10000)
    nodata = None, None, -1.0, 0.0, math.nan
    for band in (2, 3, 4):
        cube[band, :3] = nodata[band]
    patterns = rng.integers(0x7FC00000, 0x7FFFFFFF, cube.shape, np.uint32).view(np.float32)
    cube[1, 4:6] = patterns[1, 4:6] if many else np.inf
    cube[2, 1:5, 2:7] = patterns[2, 1:5, 2:7] if many else np.nan
    cube[3, 2, :4] = -0.0
    cube[3, 7, 7:], cube[4, 8] = patterns[3, 0, 0], -np.inf
    cube[4, :, 3] = -np.float32(np.nan)

    codec = KltCm(Numbers("float32", coding.get("divisor", 1), coding.get("bound")), coding.get("step"))
    info = SceneInfo(9, 11, 5, "float32", band_nodata=nodata, masks=num_masks)
    max_error = coding["bound"] / 10000 if "bound" in coding else None
    header = Header("klt-cm", dict(codec.parameters), None, info, 1.0, {}, 64, max_error, (1,))
    parts = Parts.of(cube, rng.random((num_masks, 9, 11)) > 0.2, header)
    record, expected = encode_record(codec, parts)
    decoded = decode_record(codec, record, header, (9, 11))
    plain, masks = plain_decoder.decode_record(fields_of(codec, info, (1,)), record, (9, 11))
    plain = np.array(plain).astype(np.float32)
    assert np.allclose(plain, decoded.samples, rtol=1e-6, atol=1e-9, equal_nan=True)
    assert np.array_equal(np.reshape(masks, parts.masks.shape), parts.masks)
    assert np.array_equal(decoded.masks, parts.masks) and np.array_equal(decoded.samples[0], cube[0])

    shown = np.broadcast_to(parts.shown, parts.cube.shape)
    for samples in (plain, decoded.samples):
        coded, original = samples[1:], cube[1:]
        assert np.array_equal(coded[parts.valid], np.float32(expected)[parts.valid]) or "step" in coding
        missing = ~parts.valid & shown
        assert np.array_equal(coded[missing].view(np.uint32), original[missing].view(np.uint32))
        hidden = np.broadcast_to(np.float32([0, -1, 0, np.nan])[:, None, None], coded.shape)[~shown]
        assert np.array_equal(coded[~shown], hidden, equal_nan=True)


def test_bytes_after_a_stream_are_damage():
    codec = KltCm(Numbers("int16", 1, 0))
    cube = smooth_cube((3, 6, 7), "int16")
    data = codec.encode(cube, np.ones(cube.shape, bool))
    with pytest.raises(plain_decoder.Damaged):
        plain_decoder.decode_tile(codec.parameters, "int16", data + bytes(8), np.ones(cube.shape, bool).tolist())


def test_documented_trellis_is_that_of_the_codec():
    rows = re.findall(r"^\| (\d+) \| (\d) \| (\d+) \| (\d+) \|$", FORMAT.read_text(), re.MULTILINE)
    assert [(int(state), int(quantizer)) for state, quantizer, *_ in rows] == [
        (state, state // 8) for state in range(16)
    ]
    assert [[int(after) for after in row[2:]] for row in rows] == NEXT_STATE.tolist()


def test_documented_checks_match_the_tables():
    """The values and checksums by which readers of the text can check their tables."""
    text = FORMAT.read_text().replace("\n", " ")
    values, places = re.search(r"squash is ([-\d, ]+) at ([-\d, ]+),", text).groups()
    assert [plain_decoder.SQUASH[3072 + int(x)] for x in places.split(",")] == [int(p) for p in values.split(",")]
    assert f"together are {sum(plain_decoder.SQUASH)};" in text
    values, places = re.search(r"stretch is ([-\d, ]+) at ([-\d, ]+);", text).groups()
    assert [plain_decoder.STRETCH[int(i)] for i in places.split(",")] == [int(x) for x in values.split(",")]
    checksums = [int(digits, 16) for digits in re.findall("CRC-32 (?:is )?0x([0-9A-F]{8})", text)]
    packed = struct.pack("<6145H", *plain_decoder.SQUASH), struct.pack("<4096h", *plain_decoder.STRETCH)
    assert [zlib.crc32(table) for table in packed] == checksums
