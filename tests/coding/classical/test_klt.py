"""Karhunen-Loeve transform and image codecs: the requested error on any cube."""

import numpy as np
import pytest

from coding import codecs
from coding.base import CodingError, DamagedError
from coding.klt import principal_components
from coding.samples import Samples

CODERS = ("klt-jpeg2000", "klt-jpegxl", "klt-sperr")
NAMES = (*CODERS, "pca-float32")
RNG = np.random.default_rng(0)
EDGES = {
    "one band": RNG.integers(0, 3000, (1, 12, 17)).astype(np.uint16),
    "one pixel": RNG.integers(-300, 9000, (40, 1, 1)).astype(np.int16),
    "one row": RNG.integers(0, 9000, (20, 1, 50)).astype(np.int16),
    "six pixels": RNG.integers(0, 9000, (30, 2, 3)).astype(np.int16),
    "constant": np.full((20, 8, 9), 65535, np.uint16),
    "noise": RNG.integers(-(2**15), 2**15, (12, 24, 25)).astype(np.int16),
    "limits": RNG.choice(np.array([-(2**15), 2**15 - 1], np.int16), (9, 16, 16)),
    "many bands": RNG.integers(0, 9000, (426, 8, 8)).astype(np.int16),
}


def lossy(name, step, dtype="int16"):
    return codecs[name].make_factory(Samples(dtype)).lossy(step)


def encode(codec, cube):
    return codec.encode(cube, np.ones(cube.shape, bool))


def decode(codec, data, shape):
    return codec.decode(data, np.ones(shape, bool))


def image(dtype="int16"):
    """Return 60 bands of 48x40 pixels: eight smooth components with noise."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:48, :40] / 20
    maps = np.stack([np.sin((k + 1) * x + k) * np.cos(k * y) + 0.05 * rng.normal(size=x.shape) for k in range(8)])
    spectra = rng.normal(size=(8, 60)).cumsum(axis=1) * (120 * 0.7 ** np.arange(8))[:, None]
    cube = np.tensordot(spectra.T, maps, axes=1) + rng.normal(0, 6, (60, 48, 40)) + 4000
    return (cube / 10000).astype(np.float32) if dtype == "float32" else np.rint(cube).astype(dtype)


def squared_error(cube, decoded):
    return ((decoded.astype(np.float64) - cube) ** 2).mean()


@pytest.mark.parametrize("name", NAMES)
def test_klt_codecs_have_only_a_lossy_mode(name):
    factory = codecs[name].make_factory(Samples("int16"))
    assert factory.lossy and not factory.bounded and not factory.lossless


@pytest.mark.parametrize("name", [*CODERS, "klt-cm"])
def test_side_information_is_the_transform(name):
    """A mean and at most 60 vectors, whatever the number of pixels."""
    cube = image()
    shares = []
    for step in (32, 128):
        codec = lossy(name, step)
        data = encode(codec, cube)
        assert 60 < codec.side_bytes(data) < 2 * 60 * 61
        shares.append(codec.side_bytes(data) / len(data))
    assert shares[0] < shares[1] < 0.9  # the coarser the steps, the larger the share of the transform


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("edge", EDGES)
def test_edge_cases_keep_the_squared_error(name, edge):
    cube = EDGES[edge]
    codec = lossy(name, 64, cube.dtype.name)
    decoded = decode(codec, encode(codec, cube), cube.shape)
    assert decoded.shape == cube.shape and decoded.dtype == cube.dtype
    assert squared_error(cube, decoded) < 1.3 * 64**2 / 12


@pytest.mark.parametrize("name", CODERS)
@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_squared_error_and_rate_follow_the_step(name, dtype):
    cube = image(dtype)
    unit = 1e-4 if dtype == "float32" else 1
    sizes = []
    for step in (8, 32, 128):
        data = encode(lossy(name, step * unit, dtype), cube)
        decoded = decode(lossy(name, 1, dtype), data, cube.shape)
        assert 0.6 < squared_error(cube, decoded) / ((step * unit) ** 2 / 12) < 1.15
        sizes.append(len(data))
    assert sizes[0] > 1.5 * sizes[1] > 1.5**2 * sizes[2]


@pytest.mark.parametrize("name", CODERS)
def test_components_take_less_than_a_quarter_of_float32(name):
    cube = image()
    floats, coded = (len(encode(lossy(other, 32), cube)) for other in ("pca-float32", name))
    assert coded < floats / 4


def test_pca_stores_as_few_components_as_the_step_allows():
    cube = image()
    _, variances, _ = principal_components(cube)
    for step in (40, 100, 300):
        data = encode(lossy("pca-float32", step), cube)
        count, rest = divmod(len(data) - 4 * 60, 4 * (60 + 48 * 40))
        assert rest == 0 and count > 0
        assert variances[count:].sum() / 60 <= step**2 / 12 < variances[count - 1 :].sum() / 60
        decoded = decode(lossy("pca-float32", step), data, cube.shape)
        assert squared_error(cube, decoded) <= step**2 / 12 + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_invalid_steps_and_nan_are_refused(name):
    for step in (0, -1, float("nan"), float("inf")):
        with pytest.raises(CodingError):
            lossy(name, step)
    with pytest.raises(CodingError, match="NaN"):
        encode(lossy(name, 1, "float32"), np.full((2, 3, 4), np.nan, np.float32))


@pytest.mark.parametrize("name", CODERS)
def test_a_step_too_fine_is_refused(name):
    with pytest.raises(CodingError, match="larger"):
        encode(lossy(name, 1e-7), EDGES["noise"])


@pytest.mark.parametrize("name", NAMES)
def test_cut_and_lengthened_bytes_are_refused(name):
    """Such bytes reach a codec only if the checksum was repaired."""
    cube = image()[:20, :16, :16]
    codec = lossy(name, 64)
    data = encode(codec, cube)
    for part in (b"", data[:3], data[:-1], data[:-7], data + b"\1"):
        with pytest.raises(DamagedError) as caught:
            decode(codec, part, cube.shape)
        assert "\n" not in str(caught.value)
