"""The codec `klt-cm` on scenes: bounds, gaps, targets, and invalid headers."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coding import codecs
from coding.base import CodingError, DamagedError
from coding.kltcm.codec import KltCm
from coding.numbers import Numbers
from coding.rate_control import RateController, Target
from tests.coding import roundtrip


def lossy(step):
    return lambda factory: factory.lossy(step)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    bands=st.sampled_from([1, 4, 31]),
    dtype=st.sampled_from(["int16", "uint16", "float32"]),
    bound=st.sampled_from([None, 0, 1, 5, 20, 300]),
    share=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    tile_size=st.sampled_from([16, 128]),
    seed=st.integers(0, 99),
)
def test_bounds_hold_and_gaps_are_kept(make_cube, size, bands, dtype, bound, share, tile_size, seed):
    check_round_trip(make_cube, (bands, *size), dtype, bound, share, tile_size, seed)


@pytest.mark.parametrize("bound", [None, 0, 5])
def test_round_trip_of_tiles_with_all_regressors_and_levels(make_cube, bound):
    """Larger sides than in the test above."""
    check_round_trip(make_cube, (4, 100, 64), "int16", bound, 0.1, 128, 0)


def check_round_trip(make_cube, shape, dtype, bound, share, tile_size, seed):
    cube = make_cube(shape, dtype, seed)
    generator = np.random.default_rng(seed)
    nodata = {"int16": -32768, "uint16": 2000, "float32": float("nan")}[dtype]
    gaps = generator.random(shape[1:]) < share
    cube[:, gaps] = nodata
    cube[generator.integers(shape[0]), generator.random(shape[1:]) < share / 2] = nodata
    unit = 1e-4 if dtype == "float32" else 1
    max_error = None if bound is None else bound * unit
    header = roundtrip.header_of(cube, "klt-cm", nodata, 10000 * unit, max_error, tile_size)
    data, written = roundtrip.encode(cube, header, lossy(12 * unit) if bound is None else None)
    result = roundtrip.decoded(data)
    valid = ~np.isnan(cube) if dtype == "float32" else cube != nodata
    assert np.array_equal(~np.isnan(result) if dtype == "float32" else result != nodata, valid)
    errors = np.abs(result.astype(np.float64) - cube)[valid]
    if bound is None:
        assert errors.size <= 1000 or np.square(errors).mean() < 3 * (12 * unit) ** 2
        squared = np.square(errors / header.scale).sum()
        assert math.isclose(written.distortion.squared_error, squared, rel_tol=1e-3, abs_tol=1e-9)
    else:
        assert errors.max(initial=0) <= bound * unit * (1 + 1e-6) + 1e-7  # floats are rounded


def test_floats_are_lossless_or_bounded_and_infinity_is_restored(make_cube):
    """Integer multiples of 1e-4 are lossless, others keep a bound that is not too fine."""
    cube = make_cube(dtype="float32")
    data, _ = roundtrip.encode(cube, roundtrip.header_of(cube, scale=1.0, max_error=0))
    assert np.array_equal(roundtrip.decoded(data), cube)
    rough = (cube * np.float32(math.pi)).astype(np.float32)
    data, _ = roundtrip.encode(rough, roundtrip.header_of(rough, scale=1.0, max_error=1e-3))
    assert 0 < np.abs(roundtrip.decoded(data) - rough).max() <= 1e-3
    rough[2, 3, 4] = np.inf
    for max_error in (None, 0):
        header = roundtrip.header_of(rough, scale=1.0, max_error=max_error)
        data, _ = roundtrip.encode(rough, header, lossy(1e-3) if max_error is None else None)
        assert np.array_equal(np.isinf(roundtrip.decoded(data)), np.isinf(rough))


@pytest.mark.parametrize("spread", [1.0, 1e-30, 1e30])
def test_floats_are_restored_bit_by_bit(make_cube, spread):
    generator = np.random.default_rng(0)
    cube = (make_cube((6, 40, 30)) * (spread / 3e3) + generator.normal(0, spread / 1e3, (6, 40, 30))).astype(np.float32)
    cube[0, :4, 0] = 0.0, -0.0, np.finfo(np.float32).max, -np.finfo(np.float32).tiny
    cube[:, 7:9, 3:] = np.nan
    data, written = roundtrip.encode(cube, roundtrip.header_of(cube, nodata=math.nan, scale=1.0, max_error=0))
    assert written.header.parameters == {"divisor": 0, "bound": 0}
    result = roundtrip.decoded(data)
    valid = ~np.isnan(cube)
    assert np.array_equal(result.view(np.int32)[valid], cube.view(np.int32)[valid])
    assert np.isnan(result[~valid]).all()
    assert len(data) < 0.85 * cube.nbytes
    wrong = replace(written.header, max_error=1.0, parameters={"divisor": 0, "bound": 1})
    with pytest.raises(DamagedError, match="divisor"):
        codecs["klt-cm"].open(wrong, b"")


@pytest.mark.parametrize("target", [Target("psnr", 55.0), Target("bpppc", 2.0)])
def test_targets_are_met(make_cube, target):
    """All four tiles are sampled, so only header and index are unknown to the search."""
    cube = make_cube((24, 48, 48))
    header = roundtrip.header_of(cube, tile_size=24)
    samples = roundtrip.samples_of(cube, header)
    factory = codecs["klt-cm"].make_factory(samples)
    controller = RateController(factory, samples, "klt-cm")
    written, note = controller.write(lambda codec: roundtrip.encode(cube, header, lambda _: codec)[1], target)
    assert note is None
    if target.kind == "psnr":
        assert written.distortion.psnr == pytest.approx(55, abs=0.1)
    else:
        assert written.rate == pytest.approx(2, rel=0.02)
    assert written.header.parameters.keys() == {"step"}


@pytest.mark.parametrize(
    ("max_error", "changes"),
    [
        (None, [{"step": 0}, {"step": "9"}, {"step": None}, {"step": math.inf}, {"bound": 3}]),
        (3, [{"divisor": 0}, {"divisor": 2.5}, {"bound": None}, {"bound": -1}, {"bound": True}, {"step": 9.0}]),
    ],
)
def test_other_headers_are_refused(make_cube, max_error, changes):
    cube = make_cube((3, 8, 8))
    header = roundtrip.header_of(cube, max_error=max_error)
    header = roundtrip.encode(cube, header, lossy(9.0) if max_error is None else None)[1].header
    for change in changes:
        wrong = replace(header, parameters={**header.parameters, **change})
        with pytest.raises(DamagedError, match=f"parameters.{next(iter(change))}"):
            codecs["klt-cm"].open(wrong, b"")
    with pytest.raises(DamagedError, match="shared block"):
        codecs["klt-cm"].open(header, b"x")
    for name in header.parameters:
        wrong = replace(header, parameters={key: value for key, value in header.parameters.items() if key != name})
        with pytest.raises(DamagedError, match=name):
            codecs["klt-cm"].open(wrong, b"")


@pytest.mark.parametrize(("numbers", "step"), [(Numbers("int16"), None), (Numbers("int16", 1, 3), 9.0)])
def test_exactly_one_of_step_and_bound_is_required(numbers, step):
    with pytest.raises(CodingError, match="a step or a bound"):
        KltCm(numbers, step)


@pytest.mark.parametrize("bound", [None, 0, 4])
def test_damaged_bytes_raise_an_error_or_give_samples(make_cube, bound):
    """Such bytes reach the codec only if the checksums were repaired."""
    cube = make_cube((6, 19, 21))
    valid = np.ones(cube.shape, bool)
    codec = KltCm(Numbers("int16", 1, bound), 7.0 if bound is None else None)
    data = codec.encode(cube, valid)
    generator = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(generator.integers(1, 4)):
            damaged[generator.integers(len(data))] = generator.integers(256)
        if generator.random() < 0.2:
            damaged = damaged[: generator.integers(len(data))]
        try:
            result = codec.decode(bytes(damaged), valid)
        except DamagedError:
            continue
        assert result.shape == cube.shape and result.dtype == cube.dtype
