"""`klt-cm` on tiles and scenes: bounds, gaps, targets, and headers that it did not write."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coding import codecs
from coding.base import CodingError, DamagedError
from coding.hsc.container import Header, Reader
from coding.hsc.tiling import ArrayScene, Part, compress_scene, decompress_scene
from coding.kltcm.fit import KltFit, step_of_quality
from coding.kltcm.tiles import KltTiles
from coding.numbers import Numbers, number_of
from coding.rate_control import Wish, find_step


def header_of(scene, scale=10000.0, max_error=None, tile_size=16):
    return Header("klt-cm", {}, None, scene.info, scale, {}, tile_size, max_error)


def file_of(scene, header, wish):
    """The file, its header and the figures of the encoder."""
    coder = KltFit(scene, header).coder(wish)
    header = replace(header, parameters=coder.parameters())
    file = io.BytesIO()
    return file, header, compress_scene(scene, file, header, coder)


def decoded(file):
    reader = Reader(file, "a file")
    info = reader.header.scene
    cube = np.zeros((info.bands, info.height, info.width), info.dtype)

    def write(row, column, samples):
        cube[:, row : row + samples.shape[1], column : column + samples.shape[2]] = samples

    coder = codecs["klt-cm"](reader.header, reader.shared, None)
    problems = decompress_scene(reader, coder, write, Part.whole(info))
    assert not problems.damaged and not problems.unguaranteed
    return cube


SIDES = st.one_of(st.integers(1, 30), st.sampled_from([64, 100]))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(SIDES, SIDES),
    bands=st.sampled_from([1, 4, 31]),
    dtype=st.sampled_from(["int16", "uint16", "float32"]),
    bound=st.sampled_from([None, 0, 1, 5, 20, 300]),
    share=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    seed=st.integers(0, 99),
)
def test_bounds_hold_and_gaps_stay(make_cube, size, bands, dtype, bound, share, seed):
    cube = make_cube((bands, *size), dtype, seed)
    generator = np.random.default_rng(seed)
    nodata = {"int16": -32768, "uint16": 2000, "float32": float("nan")}[dtype]
    gaps = generator.random(size) < share
    cube[:, gaps] = nodata
    cube[generator.integers(bands), generator.random(size) < share / 2] = nodata
    unit = 1e-4 if dtype == "float32" else 1
    scene = ArrayScene(cube, nodata)
    header = header_of(scene, 10000 * unit, None if bound is None else bound * unit, int(generator.choice([16, 128])))
    wish = Wish(smallest=True) if bound is not None else Wish(step=12 * unit)
    file, _, found = file_of(scene, header, wish)
    result = decoded(file)
    valid = ~np.isnan(cube) if dtype == "float32" else cube != nodata
    assert np.array_equal(~np.isnan(result) if dtype == "float32" else result != nodata, valid)
    errors = np.abs(result.astype(np.float64) - cube)[valid]
    if bound is None:
        assert errors.size <= 1000 or np.square(errors).mean() < 3 * (12 * unit) ** 2
        assert math.isclose(found.squared_error, np.square(errors / header.scale).sum(), rel_tol=1e-3, abs_tol=1e-9)
    else:
        assert errors.max(initial=0) <= bound * unit * (1 + 1e-6) + 1e-7  # floats are rounded themselves


def test_a_valid_sample_never_comes_back_as_nodata():
    cube = np.random.default_rng(0).integers(0, 40, (3, 30, 30)).astype(np.int16)
    for nodata in (20, 0, 39):
        cube_with_gaps = np.where(cube == nodata, nodata + 1, cube).astype(np.int16)
        cube_with_gaps[:, :3] = nodata
        for max_error, wish in ((None, Wish(step=9.0)), (4, Wish(smallest=True))):
            scene = ArrayScene(cube_with_gaps, nodata)
            result = decoded(file_of(scene, header_of(scene, max_error=max_error), wish)[0])
            assert np.array_equal(result == nodata, cube_with_gaps == nodata)


def test_floats_of_any_kind(make_cube):
    """All come back to the bit, and within a bound that is not too fine; infinity is refused."""
    cube = make_cube(dtype="float32")
    scene = ArrayScene(cube)
    assert np.array_equal(decoded(file_of(scene, header_of(scene, 1.0, 0), Wish(smallest=True))[0]), cube)
    rough = (cube * np.float32(math.pi)).astype(np.float32)
    scene = ArrayScene(rough)
    result = decoded(file_of(scene, header_of(scene, 1.0, 1e-3), Wish(smallest=True))[0])
    assert 0 < np.abs(result - rough).max() <= 1e-3
    rough[2, 3, 4] = np.inf
    with pytest.raises(CodingError, match="infinity"):
        file_of(ArrayScene(rough), header_of(scene, 1.0), Wish(psnr=50))


@pytest.mark.parametrize("spread", [1.0, 1e-30, 1e30])
def test_floats_come_back_to_the_bit(make_cube, spread):
    generator = np.random.default_rng(0)
    cube = (make_cube((6, 40, 30)) * (spread / 3e3) + generator.normal(0, spread / 1e3, (6, 40, 30))).astype(np.float32)
    cube[0, :4, 0] = 0.0, -0.0, np.finfo(np.float32).max, -np.finfo(np.float32).tiny
    cube[:, 7:9, 3:] = np.nan
    scene = ArrayScene(cube, math.nan)
    file, header, _ = file_of(scene, header_of(scene, 1.0, 0), Wish(smallest=True))
    assert header.parameters["divisor"] == 0
    result = decoded(file)
    valid = ~np.isnan(cube)
    assert np.array_equal(result.view(np.int32)[valid], cube.view(np.int32)[valid])
    assert np.isnan(result[~valid]).all()
    assert len(file.getvalue()) < 0.85 * cube.nbytes
    with pytest.raises(DamagedError, match="divisor"):
        codecs["klt-cm"](replace(header, max_error=1.0, parameters={**header.parameters, "bound": 1}), b"", None)


@pytest.mark.parametrize("wish", [Wish(psnr=55.0), Wish(bpppc=2.0)])
def test_targets_are_met(make_cube, wish):
    scene = ArrayScene(make_cube((24, 64, 64)))
    _, header, found = file_of(scene, header_of(scene, tile_size=32), wish)
    if wish.psnr:
        assert found.psnr == pytest.approx(55, abs=0.3)
    else:
        assert 8 * found.num_bytes / scene.cube.size == pytest.approx(2, rel=0.1)
    assert header.parameters["bound"] is None


def test_qualities_halve_the_step_every_ten():
    assert step_of_quality(0, 10000) == pytest.approx(39.0625)
    assert step_of_quality(20, 1.0) == pytest.approx(2.0**-10)


@pytest.mark.parametrize(
    ("target", "step"), [(40, 2.0**-1.662), (10, 2.0**3.322), (500, 2.0**-10), (-500, 2.0**4), (12.7, 2.0**2.873)]
)
def test_steps_are_found_from_either_side(target, step):
    calls = []

    def psnr(step):
        calls.append(step)
        return 30 - 6.02 * math.log2(step)

    for first in (2.0**-9, 1.0, 2.0**3.9):
        calls.clear()
        found = find_step(psnr, target, 0.01, 2.0**-10, 2.0**4, first)
        assert found == pytest.approx(step, rel=0.01)
        assert len(calls) < 9


def test_steps_that_are_too_fine_are_left_out():
    found = find_step(lambda step: math.inf if step < 0.1 else -math.log2(step), 3.0, 0.01, 2.0**-10, 2.0**4, 1.0)
    assert found == pytest.approx(2.0**-3, rel=0.01)


def test_other_headers_are_refused(make_cube):
    scene = ArrayScene(make_cube())
    _, header, _ = file_of(scene, header_of(scene), Wish(step=9.0))
    for change in (
        {"step": 0},
        {"step": "9"},
        {"step": None},
        {"bound": 3},
        {"divisor": 0},
        {"divisor": 2.5},
    ):
        wrong = replace(header, parameters={**header.parameters, **change})
        with pytest.raises(DamagedError, match=f"parameters.{next(iter(change))}"):
            codecs["klt-cm"](wrong, b"", None)
    with pytest.raises(DamagedError, match="shared block"):
        codecs["klt-cm"](header, b"x", None)
    del header.parameters["divisor"]
    with pytest.raises(DamagedError, match="divisor"):
        codecs["klt-cm"](header, b"", None)


@pytest.mark.parametrize("bound", [None, 0, 4])
def test_damaged_records_end_in_an_error_or_in_samples(make_cube, bound):
    """As if the checksums had been repaired."""
    cube = make_cube((6, 19, 21))
    nodata = int(cube[2, 5, 5])
    numbers = Numbers("int16", 1, bound, number_of(nodata, "int16", 1))
    tiles = KltTiles(numbers, 7.0 if bound is None else None, nodata)
    valid = cube != nodata
    data, _ = tiles.encode_tile(cube, valid)
    generator = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(generator.integers(1, 4)):
            damaged[generator.integers(len(data))] = generator.integers(256)
        if generator.random() < 0.2:
            damaged = damaged[: generator.integers(len(data))]
        try:
            result = tiles.decode_tile(bytes(damaged), valid)
        except DamagedError:
            continue
        assert result.shape == cube.shape and result.dtype == cube.dtype
