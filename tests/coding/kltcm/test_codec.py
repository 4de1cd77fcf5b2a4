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
from coding.samples import CubeSamples
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


def bits_per_sample(cube):
    """Return the rate of a cube without loss; assert that it is restored bit by bit."""
    valid = np.ones(cube.shape, bool)
    codec = codecs["klt-cm"].make_factory(CubeSamples(cube, valid, 1.0)).lossless()
    data = codec.encode(cube, valid)
    assert np.array_equal(codec.decode(data, valid).view(np.uint8), cube.view(np.uint8))
    return 8 * len(data) / cube.size


def test_the_rate_depends_on_the_samples_not_on_their_type(make_cube):
    cube = make_cube((8, 40, 44))
    expected = bits_per_sample(cube)
    for same in (cube.astype(np.int32), (cube + 3_000_000_000).astype(np.uint32), cube.astype(np.float64)):
        assert bits_per_sample(same) == pytest.approx(expected, rel=0.01)
    noisy = (cube / 7e3 + np.random.default_rng(0).normal(0, 1e-3, cube.shape)).astype(np.float32)
    assert bits_per_sample(noisy.astype(np.float64)) == pytest.approx(bits_per_sample(noisy), rel=0.01)
    assert bits_per_sample(cube * np.linspace(0.01, 0.2, 8, dtype=np.float32)[:, None, None]) < expected + 0.6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_noise_of_floats_takes_about_its_entropy(dtype):
    """A normal distribution has log2(deviation sqrt(2 pi e) / distance of floats) bits."""
    generator = np.random.default_rng(0)
    noise = generator.normal(0.75, 1e-3, (6, 64, 64)).astype(dtype)
    entropy = math.log2(1e-3 * math.sqrt(2 * math.pi * math.e) / np.spacing(np.array(0.75, dtype)))
    assert entropy < bits_per_sample(noise) < entropy + 0.25
    clipped = np.maximum(noise, np.quantile(noise, 0.5).astype(dtype))
    assert bits_per_sample(clipped) < 0.5 * entropy + 1.5


def test_a_few_outliers_do_not_matter():
    cube = np.random.default_rng(0).normal(0.75, 1e-3, (6, 64, 64)).astype(np.float32)
    expected = bits_per_sample(cube)
    cube[3, 5, 5:8] = 1e30, -1e-30, 3e4
    assert bits_per_sample(cube) < expected + 0.1


def test_damaged_floats_raise_an_error_or_give_samples(make_cube):
    generator = np.random.default_rng(0)
    rough = (make_cube((5, 19, 21)) / 7e3 + generator.normal(0, 1e-3, (5, 19, 21))).astype(np.float32)
    rough[:, generator.random(rough.shape[1:]) < 0.2] = 0
    rough[2, 2, 2] = 1e30
    for cube in (rough, rough.astype(np.float64) / 3, make_cube((5, 19, 21)) * np.float32(0.0123)):
        codec, valid = KltCm(Numbers(cube.dtype.name, 0, 0)), np.ones(cube.shape, bool)
        data = codec.encode(cube, valid)
        for _ in range(100):
            damaged = bytearray(data)
            damaged[generator.integers(len(data) if generator.random() < 0.5 else 60)] = generator.integers(256)
            damaged = damaged[: generator.integers(len(data))] if generator.random() < 0.1 else damaged
            try:
                result = codec.decode(bytes(damaged), valid)
            except DamagedError:
                continue
            assert result.shape == cube.shape and result.dtype == cube.dtype


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
