"""Every classical codec under the same tests: what comes back, how far it is off, what it costs, what it refuses."""

import numpy as np
import pytest

from coding.base import CodingError, DamagedError
from coding.classical import classical
from coding.classical.header import pack_cube_header
from coding.classical.jpegls import JpegLs
from coding.classical.streams import join_streams, seal, unseal

STEPS = (4.0, 16.0, 64.0)
BOUNDS = (0, 1, 6, 200)
LOSSY = [name for name, family in classical.items() if family.lossy]
BOUNDED = [name for name, family in classical.items() if family.bounded]
LOSSLESS = [name for name, family in classical.items() if family.lossless]
FLOATS = [name for name in ("jpegxl", "sperr", "sz3", "zfp") if name in classical]


def codecs():
    """One codec of each setting of each family."""
    for name, family in classical.items():
        if family.lossy:
            yield pytest.param(family.lossy(50.0), id=f"{name}-lossy")
        if family.bounded:
            yield pytest.param(family.bounded(2), id=f"{name}-bounded")
        if family.lossless:
            yield pytest.param(family.lossless(), id=f"{name}-lossless")


def smooth(dtype="int16", shape=(10, 48, 48), noise=15.0):
    """Smooth surfaces whose spectra are alike, with noise: a range of about 4000, around zero where there is a sign."""
    bands, rows, columns = (np.linspace(0, 1, length) for length in shape)
    surface = np.sin(5 * rows)[:, None] * np.cos(4 * columns)[None] + columns
    cube = 1000 * np.cos(2 * bands)[:, None, None] * surface + np.random.default_rng(0).normal(0, noise, shape)
    return (cube + 3000 if dtype == "uint16" else cube).round().astype(dtype)


def edges():
    """Cubes that break assumptions: flat, rough, tiny, thin, at the limits of the types."""
    rng = np.random.default_rng(1)
    for dtype in ("uint16", "int16"):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        for value in {low, 0, high}:
            yield f"{dtype}-flat-{value}", np.full((3, 9, 10), value, dtype)
        yield f"{dtype}-limits", np.where(rng.random((4, 24, 24)) < 0.5, low, high).astype(dtype)
        for shape in ((3, 20, 30), (1, 1, 1), (6, 1, 1), (1, 24, 24), (3, 2, 3), (1, 2, 3), (2, 1, 50), (2, 50, 1)):
            yield f"{dtype}-noise-{shape}", rng.integers(low, high, shape, endpoint=True).astype(dtype)
    yield "many-bands", rng.integers(-300, 300, (426, 8, 8)).astype("int16")


EDGES = dict(edges())


def coded(codec, cube):
    """What the codec makes of the cube, which it may refuse."""
    try:
        data = codec.encode(cube)
    except CodingError as error:
        assert "\n" not in str(error)
        pytest.skip(str(error))
    decoded = codec.decode(data)
    assert decoded.shape == cube.shape and decoded.dtype == cube.dtype
    return decoded


def largest_error(first, second):
    return np.abs(first.astype(np.float64) - second).max()


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", LOSSLESS)
def test_nothing_is_lost(name, edge):
    assert np.array_equal(coded(classical[name].lossless(), EDGES[edge]), EDGES[edge])


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", BOUNDED)
def test_no_error_exceeds_the_bound(name, edge):
    for bound in BOUNDS:
        assert largest_error(coded(classical[name].bounded(bound), EDGES[edge]), EDGES[edge]) <= bound


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", LOSSY)
def test_a_lossy_codec_survives(name, edge):
    """Errors of a step that the noise is far above: some eight steps at most, as far as any transform spreads one."""
    assert largest_error(coded(classical[name].lossy(100.0), EDGES[edge]), EDGES[edge]) <= 800


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
@pytest.mark.parametrize("name", LOSSY)
def test_steps_set_the_squared_error_and_the_rate(name, dtype):
    cube = smooth(dtype)
    sizes = []
    for step in STEPS:
        codec = classical[name].lossy(step)
        data = codec.encode(cube)
        squared_error = np.square(codec.decode(data).astype(np.float64) - cube).mean()
        # A component more or less, all that pca-float32 has to choose, may change the error tenfold.
        assert (0 if name == "pca-float32" else 0.2) <= squared_error / (step**2 / 12) < 3
        sizes.append(len(data))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.6 * sizes[0]


@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_set_the_rate(name):
    cube = smooth()
    sizes = [len(classical[name].bounded(bound).encode(cube)) for bound in (0, 3, 15)]
    assert sizes[0] > 1.2 * sizes[1] > 1.2**2 * sizes[2]


@pytest.mark.parametrize("name", LOSSLESS)
def test_smooth_cubes_become_smaller(name):
    """Noise of a deviation of 15 has 6 bits, whatever predicts the rest."""
    cube = smooth()
    assert 5.5 < 8 * len(classical[name].lossless().encode(cube)) / cube.size < 14.5


@pytest.mark.parametrize("codec", codecs())
def test_neither_the_type_nor_its_sign_costs_much(codec):
    """ZFP, whose blocks have exponents, loses most."""
    signed = smooth("int16")
    unsigned = (signed.astype(np.int32) + 30000).astype("uint16")
    sizes = [len(codec.encode(cube)) for cube in (signed, unsigned)]
    assert max(sizes) < 1.1 * min(sizes)


@pytest.mark.parametrize("codec", codecs())
def test_a_codec_takes_no_other_cubes(codec):
    for cube in (np.zeros((2, 8, 8), "uint8"), np.zeros((8, 8), "int16"), np.zeros((0, 8, 8), "int16")):
        with pytest.raises(CodingError):
            codec.encode(cube)


@pytest.mark.parametrize("codec", codecs())
def test_damaged_bytes(codec):
    rng = np.random.default_rng(2)
    cube = smooth(shape=(3, 12, 14))
    data = codec.encode(cube)
    damaged = [b"", data[:5], data[:20], data[:-1], data + b"\0"]
    for place in rng.integers(0, len(data), 40):
        damaged.append(data[:place] + bytes([data[place] ^ 1 << rng.integers(8)]) + data[place + 1 :])
    for bytes_ in damaged:
        try:
            assert codec.decode(bytes_).dtype in (np.uint16, np.int16, np.float32)
        except DamagedError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("setting", ["lossy", "lossless"])
@pytest.mark.parametrize("name", ["jpeg2000", "jpeg2000-mc", "htj2k", "jpegls", "jpegxl"])
def test_sound_bytes_with_other_images_in_them(name, setting):
    """What a checksum cannot find: the library's own errors, and images of another size."""
    family = classical[name]
    codec = family.lossy(50.0) if setting == "lossy" else family.lossless()
    large, small = smooth(shape=(2, 12, 14)), smooth(shape=(2, 9, 14))
    _, _, body = unseal(codec.encode(small), ("int16",))
    start = 8 if (name, setting) == ("jpegxl", "lossy") else 4  # bytes before the images
    garbage = body[:start] + (b"no image" if name == "jpeg2000-mc" else join_streams([b"no image"] * 2))
    for header, content in ((pack_cube_header(large), body), (pack_cube_header(small), garbage)):
        with pytest.raises(DamagedError):
            codec.decode(seal(header, content))


# -- floats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOATS)
def test_floats(name):
    cube = (smooth("uint16") / 10000).astype(np.float32)
    step = 0.005
    codec = classical[name].lossy(step)
    decoded = codec.decode(codec.encode(cube))
    assert decoded.dtype == np.float32
    assert 0.2 < np.square(decoded.astype(np.float64) - cube).mean() / (step**2 / 12) < 3


@pytest.mark.parametrize("name", ["sperr", "sz3", "zfp"])
def test_bounds_of_floats(name):
    rng = np.random.default_rng(3)
    for cube in (rng.normal(0, 1000, (4, 20, 20)), rng.random((3, 2, 3)), np.full((2, 9, 9), 0.1)):
        cube = cube.astype(np.float32)
        assert largest_error(coded(classical[name].bounded(1), cube), cube) <= 1


def test_floats_without_loss():
    cube = np.random.default_rng(4).normal(0, 1, (3, 10, 11)).astype(np.float32)
    codec = classical["zfp"].lossless()
    assert np.array_equal(codec.decode(codec.encode(cube)), cube)


@pytest.mark.parametrize("name", ["sperr", "sz3"])
def test_floats_have_no_bound_of_0(name):
    with pytest.raises(CodingError, match="largest error of 1"):
        classical[name].bounded(0).encode(np.ones((2, 8, 8), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", FLOATS)
def test_what_is_no_number_is_refused(name, value):
    cube = np.ones((2, 8, 8), np.float32)
    cube[1, 2, 3] = value
    with pytest.raises(CodingError, match="NaN"):
        classical[name].lossy(0.1).encode(cube)


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("step", [0, -1, float("nan"), float("inf")])
def test_no_such_step(name, step):
    with pytest.raises(CodingError):
        classical[name].lossy(step)


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("bound", [-1, 0.5])
def test_no_such_bound(name, bound):
    with pytest.raises(CodingError):
        classical[name].bounded(bound)


@pytest.mark.parametrize(("step", "bound"), [(0.5, 0), (2.9, 0), (3, 1), (64, 31), (512, 255)])
def test_jpegls_takes_the_widest_bins_within_the_step(step, bound):
    assert classical["jpegls"].lossy(step) == JpegLs(bound)


def test_jpegls_has_no_bounds_above_255():
    with pytest.raises(CodingError, match="at most 255"):
        classical["jpegls"].bounded(256)
    with pytest.raises(CodingError, match="at most 255"):
        classical["jpegls"].lossy(513)


def test_jpegxl_has_a_finest_step():
    codec = classical["jpegxl"].lossy(0.5)
    with pytest.raises(CodingError, match="finest"):
        codec.encode(smooth())
    assert largest_error(coded(codec, np.full((2, 8, 8), 77, "int16")), 77) == 0


def test_htj2k_needs_room_for_its_errors():
    """Just within the range that it takes, no sample may come back from the other end."""
    rng = np.random.default_rng(5)
    cube = np.where(rng.random((2, 64, 64)) < 0.5, 0, 65534 - 16 * 50).astype("uint16")
    codec = classical["htj2k"].lossy(50.0)
    assert largest_error(codec.decode(codec.encode(cube)), cube) < 4 * 50
    with pytest.raises(CodingError, match="room"):
        codec.encode(np.where(cube, 65535, 0).astype("uint16"))


def test_components_share_the_rate():
    """Bands of noise beside smooth ones: the slope is one, the squared error over the cube the same, the rate lower."""
    cube = smooth(noise=1.0)
    cube[::2] += np.random.default_rng(6).normal(0, 200, cube[::2].shape).round().astype("int16")
    sizes, squared_errors = [], []
    for name in ("jpeg2000", "jpeg2000-mc"):
        codec = classical[name].lossy(200.0)
        data = codec.encode(cube)
        sizes.append(len(data))
        squared_errors.append(np.square(codec.decode(data).astype(np.float64) - cube).mean())
    assert sizes[1] < sizes[0] and squared_errors[1] < 1.2 * squared_errors[0]


def test_components_are_limited():
    with pytest.raises(CodingError, match="16384"):
        classical["jpeg2000-mc"].lossless().encode(np.zeros((16385, 1, 1), np.uint16))


def test_aec_finds_the_better_order():
    """Noise that is alike along the spectrum, and noise that is alike within a band: each has 13 bits the other way."""
    rng = np.random.default_rng(7)
    by_pixel = np.broadcast_to(rng.integers(0, 5000, (1, 20, 20)), (40, 20, 20)).astype("uint16")
    by_band = np.broadcast_to(rng.integers(0, 5000, (40, 1, 1)), (40, 20, 20)).astype("uint16")
    codec = classical["aec"].lossless()
    for cube in (by_pixel, by_band):
        data = codec.encode(cube)
        assert 8 * len(data) / cube.size < 4
        assert np.array_equal(codec.decode(data), cube)
