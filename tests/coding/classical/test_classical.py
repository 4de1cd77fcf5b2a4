"""The same tests for every classical codec: errors, rates, and what is refused."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from coding import codecs
from coding.base import CodingError, DamagedError
from coding.classical.codec import INTEGERS, ClassicalCodec
from coding.classical.streams import join_streams
from coding.samples import Samples
from datasets.base import DTYPES

STEPS = (4.0, 16.0, 64.0)
BOUNDS = (0, 1, 6, 200)
CLASSICAL = [name for name, entry in codecs.items() if entry.factory.startswith("coding.classical.")]


def factory(name, dtype="int16"):
    return codecs[name].make_factory(Samples(dtype, 10000.0))


LOSSY = [name for name in CLASSICAL if factory(name).lossy]
BOUNDED = [name for name in CLASSICAL if factory(name).bounded]
LOSSLESS = [name for name in CLASSICAL if factory(name).lossless]
FLOATS = ["jpegxl", "sperr", "sz3", "zfp"]
FLOATING = ["klt-jpeg2000", "klt-jpegxl", "klt-sperr", "sz3", "zfp"]


def settings():
    """Yield name, mode and arguments of one codec for each mode of each factory."""
    for name in CLASSICAL:
        for mode, arguments in (("lossy", (50.0,)), ("bounded", (2,)), ("lossless", ())):
            if getattr(factory(name), mode):
                yield pytest.param(name, mode, arguments, id=f"{name}-{mode}")


def encode(codec, cube):
    return codec.encode(cube, np.ones(cube.shape, bool))


def decode(codec, data, shape):
    return codec.decode(data, np.ones(shape, bool))


def smooth(dtype="int16", shape=(10, 48, 48), noise=15.0, contrast=1000):
    """Return smooth surfaces of similar spectra with noise: a range of 3 times the contrast, around 0 if signed."""
    bands, rows, columns = (np.linspace(0, 1, length) for length in shape)
    surface = np.sin(5 * rows)[:, None] * np.cos(4 * columns)[None] + columns
    cube = contrast * np.cos(2 * bands)[:, None, None] * surface + np.random.default_rng(0).normal(0, noise, shape)
    return (cube + 3000 if dtype == "uint16" else cube).round().astype(dtype)


def edges():
    """Yield cubes that break assumptions: flat, rough, tiny, thin, at the limits of the types."""
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
    """Return the decoded cube; skip the test if the codec refuses the cube."""
    try:
        data = encode(codec, cube)
    except CodingError as error:
        assert "\n" not in str(error)
        pytest.skip(str(error))
    decoded = decode(codec, data, cube.shape)
    assert decoded.shape == cube.shape and decoded.dtype == cube.dtype
    return decoded


def largest_error(first, second):
    return np.abs(first.astype(np.float64) - second).max()


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_codecs_restore_the_cube(name, edge):
    cube = EDGES[edge]
    assert np.array_equal(coded(factory(name, cube.dtype.name).lossless(), cube), cube)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", BOUNDED)
def test_no_error_exceeds_the_bound(name, edge):
    cube = EDGES[edge]
    for bound in BOUNDS:
        assert largest_error(coded(factory(name, cube.dtype.name).bounded(bound), cube), cube) <= bound


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", LOSSY)
def test_lossy_codecs_take_edge_cases(name, edge):
    """The noise is far above the step; a transform spreads an error to eight steps at most."""
    cube = EDGES[edge]
    assert largest_error(coded(factory(name, cube.dtype.name).lossy(100.0), cube), cube) <= 800


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
@pytest.mark.parametrize("name", LOSSY)
def test_steps_set_the_squared_error_and_the_rate(name, dtype):
    cube = smooth(dtype)
    sizes = []
    for step in STEPS:
        codec = factory(name, dtype).lossy(step)
        data = encode(codec, cube)
        squared_error = np.square(decode(codec, data, cube.shape).astype(np.float64) - cube).mean()
        # pca-float32 can only choose the number of components, and one more may lower the error tenfold.
        assert (0 if name == "pca-float32" else 0.2) <= squared_error / (step**2 / 12) < 3
        sizes.append(len(data))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.6 * sizes[0]


@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_set_the_rate(name):
    cube = smooth()
    sizes = [len(encode(factory(name).bounded(bound), cube)) for bound in (0, 3, 15)]
    assert sizes[0] > 1.2 * sizes[1] > 1.2**2 * sizes[2]


@pytest.mark.parametrize("name", LOSSLESS)
def test_smooth_cubes_become_smaller(name):
    """Noise of a standard deviation of 15 takes 6 bits with any prediction."""
    cube = smooth()
    assert 5.5 < 8 * len(encode(factory(name).lossless(), cube)) / cube.size < 14.5


@pytest.mark.parametrize(("name", "mode", "arguments"), settings())
def test_signed_and_unsigned_cubes_take_the_same_size(name, mode, arguments):
    """Samples of 16 bits either way, since the range of samples sets how fast CCSDS 123 learns.

    ZFP stores exponents of blocks; the others among `FLOATING` round means, or decide by estimates.
    """
    signed = smooth("int16", noise=40.0, contrast=14000)
    unsigned = signed.view(np.uint16) ^ 0x8000
    sizes = [
        len(encode(getattr(factory(name, cube.dtype.name), mode)(*arguments), cube)) for cube in (signed, unsigned)
    ]
    assert max(sizes) <= (1.03 * min(sizes) if name in FLOATING else min(sizes) + 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "mode", "arguments"), settings())
def test_types_are_coded_or_refused(name, mode, arguments, dtype):
    """Whatever type a mode names is coded within its errors; other types are refused in one line."""
    make = getattr(factory(name, dtype), mode)
    if dtype not in getattr(codec_class(name).modes, mode):
        with pytest.raises(CodingError, match=f"samples must be .*, got {dtype}: choose another codec"):
            make(*arguments)
        return
    unit = 1e-3 if dtype.startswith("float") else 1 if dtype.endswith("8") else 1000 if dtype.endswith("32") else 10
    cube = (smooth("int16", (5, 24, 20), 3.0) / 20 + (128 if dtype[0] == "u" else 0)).clip(-128, 255)
    cube = (cube.clip(-128, 127 if dtype == "int8" else 255) * unit).astype(dtype)
    codec = make(*(unit * argument for argument in arguments)) if arguments else make()
    error = largest_error(coded(codec, cube), cube)
    assert error <= {"lossless": 0, "bounded": 2 * unit * (1 + 1e-6), "lossy": 400 * unit}[mode]


def codec_class(name):
    module, _, attribute = codecs[name].factory.partition(":")
    return getattr(importlib.import_module(module), attribute.partition(".")[0])


def test_documented_types_are_those_of_the_codecs():
    """Each cell of the table lists the modes in which a codec takes a type."""
    text = (Path(__file__).resolve().parents[3] / "docs/compressing.md").read_text()
    head, _, *rows = re.search(r"(\| codec \| 8 and 16 bits .*?)\n\n", text, re.DOTALL).group(1).splitlines()
    columns = [cell.strip() for cell in head.strip("|").split("|")][1:]
    found = {}
    for row in rows:
        names, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        for name in re.findall("`([\\w-]+)`", names):
            found[name] = dict(zip(columns, cells, strict=True))
    assert set(found) == set(codecs)
    for name in CLASSICAL:
        for column, dtypes in {"8 and 16 bits": INTEGERS, **{dtype: (dtype,) for dtype in columns[1:]}}.items():
            for dtype in dtypes:
                modes = codec_class(name).modes._asdict()
                stated = ", ".join(mode for mode in ("lossless", "bounded", "lossy") if dtype in modes[mode])
                assert found[name][column] == stated, (name, dtype)


def test_a_missing_mode_is_refused():
    with pytest.raises(CodingError, match="has no lossy mode"):
        type(factory("aec").lossless())("int16", 5.0)


class Failing(ClassicalCodec):
    """A codec whose library fails with messages of several lines."""

    modes = factory("aec").lossless().modes

    def encode_cube(self, cube):
        raise RuntimeError("out of\n luck")

    def decode_cube(self, data, shape):
        raise ValueError(data.decode())


def test_errors_of_libraries_become_one_line():
    with pytest.raises(CodingError, match=r"cannot be coded \(out of luck\)"):
        encode(Failing("int16"), np.zeros((1, 2, 2), np.int16))
    with pytest.raises(DamagedError, match=r"is damaged \(no image\)"):
        decode(Failing("int16"), b"no\nimage", (1, 2, 2))


@pytest.mark.parametrize("mode", ["lossy", "lossless"])
@pytest.mark.parametrize("name", ["jpeg2000", "jpeg2000-mc", "htj2k", "jpegls", "jpegxl"])
def test_streams_with_other_images_are_damage(name, mode):
    """No checksum notices these: bytes that the library refuses, and images of another size."""
    codec = getattr(factory(name), mode)(*((50.0,) if mode == "lossy" else ()))
    small = smooth(shape=(2, 9, 14))
    body = encode(codec, small)
    with pytest.raises(DamagedError):
        decode(codec, body, (2, 12, 14))
    # Bytes before the images: the range, or a block of numbers and the length of another one.
    start = 8 if (name, mode) == ("jpegxl", "lossy") else 4 + int.from_bytes(body[:4], "little")
    images = b"no image" if name == "jpeg2000-mc" else join_streams([b"no image"] * 2)
    length = b"" if name == "jpegxl" else len(images).to_bytes(4, "little")
    with pytest.raises(DamagedError):
        decode(codec, body[:start] + length + images, small.shape)


# -- floats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOATS)
def test_floats_have_the_squared_error_of_the_step(name):
    cube = (smooth("uint16") / 10000).astype(np.float32)
    step = 0.005
    codec = factory(name, "float32").lossy(step)
    decoded = decode(codec, encode(codec, cube), cube.shape)
    assert decoded.dtype == np.float32
    assert 0.2 < np.square(decoded.astype(np.float64) - cube).mean() / (step**2 / 12) < 3


@pytest.mark.parametrize("name", ["sperr", "sz3", "zfp"])
def test_floats_keep_their_bound(name):
    rng = np.random.default_rng(3)
    for cube in (rng.normal(0, 1000, (4, 20, 20)), rng.random((3, 2, 3)), np.full((2, 9, 9), 0.1)):
        cube = cube.astype(np.float32)
        for bound in (1, 0.25):
            assert largest_error(coded(factory(name, "float32").bounded(bound), cube), cube) <= bound


def test_zfp_restores_floats():
    cube = np.random.default_rng(4).normal(0, 1, (3, 10, 11)).astype(np.float32)
    codec = factory("zfp", "float32").lossless()
    assert np.array_equal(decode(codec, encode(codec, cube), cube.shape), cube)


@pytest.mark.parametrize("name", ["sperr", "sz3"])
def test_a_bound_of_0_is_refused_for_floats(name):
    with pytest.raises(CodingError, match="largest error above 0"):
        encode(factory(name, "float32").bounded(0), np.ones((2, 8, 8), np.float32))


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("step", [0, -1, float("nan"), float("inf")])
def test_invalid_steps_are_refused(name, step):
    with pytest.raises(CodingError):
        factory(name).lossy(step)


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("bound", [-1, float("nan"), 65536])
def test_invalid_bounds_are_refused(name, bound):
    with pytest.raises(CodingError, match="the largest error must be a number from 0 to"):
        factory(name).bounded(bound)


@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_of_integers_are_rounded_down(name):
    assert factory(name).bounded(2.9).max_error == 2


@pytest.mark.parametrize(("step", "bound"), [(0.5, 0), (2.9, 0), (3, 1), (64, 31), (512, 255)])
def test_jpegls_takes_the_widest_bins_within_the_step(step, bound):
    assert factory("jpegls").lossy(step).max_error == factory("ccsds123").lossy(step).max_error == bound


def test_jpegls_has_no_bounds_above_255():
    with pytest.raises(CodingError, match="from 0 to 255, got 256"):
        factory("jpegls").bounded(256)
    with pytest.raises(CodingError, match="from 0 to 255, got 256"):
        factory("jpegls").lossy(513)


def test_jpegxl_refuses_too_fine_steps():
    codec = factory("jpegxl").lossy(0.5)
    with pytest.raises(CodingError, match="the step must be at least"):
        encode(codec, smooth())
    assert largest_error(coded(codec, np.full((2, 8, 8), 77, "int16")), 77) == 0


def test_htj2k_needs_room_for_its_errors():
    """At the largest range that it takes, no sample may wrap around."""
    rng = np.random.default_rng(5)
    cube = np.where(rng.random((2, 64, 64)) < 0.5, 0, 65534 - 16 * 50).astype("uint16")
    codec = factory("htj2k", "uint16").lossy(50.0)
    assert largest_error(coded(codec, cube), cube) < 4 * 50
    with pytest.raises(CodingError, match="room"):
        encode(codec, np.where(cube, 65535, 0).astype("uint16"))


def test_components_share_the_rate():
    """Noisy bands between smooth ones: with one slope, about the same squared error takes fewer bytes."""
    cube = smooth(noise=1.0)
    cube[::2] += np.random.default_rng(6).normal(0, 200, cube[::2].shape).round().astype("int16")
    sizes, squared_errors = [], []
    for name in ("jpeg2000", "jpeg2000-mc"):
        codec = factory(name).lossy(200.0)
        data = encode(codec, cube)
        sizes.append(len(data))
        squared_errors.append(np.square(decode(codec, data, cube.shape).astype(np.float64) - cube).mean())
    assert sizes[1] < sizes[0] and squared_errors[1] < 1.2 * squared_errors[0]


def test_too_many_components_are_refused():
    with pytest.raises(CodingError, match="16384"):
        encode(factory("jpeg2000-mc", "uint16").lossless(), np.zeros((16385, 1, 1), np.uint16))


def test_aec_finds_the_better_order():
    """Noise that is constant along the spectrum, or within a band: in the other order, it takes 13 bits per sample."""
    rng = np.random.default_rng(7)
    by_pixel = np.broadcast_to(rng.integers(0, 5000, (1, 20, 20)), (40, 20, 20)).astype("uint16")
    by_band = np.broadcast_to(rng.integers(0, 5000, (40, 1, 1)), (40, 20, 20)).astype("uint16")
    codec = factory("aec", "uint16").lossless()
    for cube in (by_pixel, by_band):
        data = encode(codec, cube)
        assert 8 * len(data) / cube.size < 4
        assert np.array_equal(decode(codec, data, cube.shape), cube)
