"""Points of codecs on images: target rates, gaps, and modes."""

import math

import numpy as np
import pytest
import torch

from benchmarks.rd import points as rd
from coding import codecs
from coding.base import Codec, CodecFactory, CodingError
from coding.hsc.masks import encode_mask
from coding.hsc.records import Parts, encode_record
from utils import metrics


class Rounding(Codec):
    """Rounds to multiples of a step and writes as many bytes as the entropy of that would take."""

    dtype = "int16"

    def __init__(self, step, least=0):
        self.step, self.least = step, least

    def encode(self, cube, valid):
        self.given = cube
        self.levels = np.rint(cube / self.step)
        _, counts = np.unique(self.levels, return_counts=True)
        shares = counts / cube.size
        return bytes(self.least + math.ceil(-(shares * np.log2(shares)).sum() * cube.size / 8))

    def decode(self, data, valid):
        return (self.levels * self.step).astype(self.given.dtype)


@pytest.fixture
def cube():
    return np.random.default_rng(0).normal(3000, 300, (4, 40, 40)).astype("int16")


def curve_of(make, cube):
    """Return a curve of codecs of a step."""
    factory = CodecFactory(lossy=make, finest=0.01, coarsest=15000.0, first=10.0)
    return rd.Curve(lambda samples: factory, factory, bench_of(cube))


def bench_of(cube, valid=None):
    return rd.Bench(cube, np.ones(cube.shape, bool) if valid is None else valid, 10000)


def test_a_rate_is_found(cube):
    curve = curve_of(Rounding, cube)
    for rate in (0.5, 1, 2, 4, 0.25):
        assert curve.seek(rate).rate == pytest.approx(rate, rel=rd.RATE_TOLERANCE + 1e-9)
    assert len(curve.trials) < 5 * 6


def test_a_coarse_codec_gets_its_nearest_rate(cube):
    """Steps by factors of two: neighbors in rate are about a bit apart."""
    curve = curve_of(lambda step: Rounding(2.0 ** round(math.log2(step))), cube)
    near = curve.seek(5.0)
    assert abs(near.rate - 5.0) == min(abs(trial.rate - 5.0) for trial in curve.trials.values())


def test_a_rate_out_of_reach_is_refused(cube):
    curve = curve_of(lambda step: Rounding(step, least=1000), cube)
    with pytest.raises(CodingError, match=r"no rate near 0\.25 bpppc, the nearest is 1\.2"):
        curve.seek(0.25)
    assert curve.seek(2).rate == pytest.approx(2, rel=rd.RATE_TOLERANCE)


def test_steps_that_a_codec_refuses_are_avoided(cube):
    def make(step):
        if step < 50 or step > 500:
            raise CodingError("no such step")
        return Rounding(step)

    for factor in (1, 20, 1000):  # the first step is refused, or taken
        curve = curve_of(lambda step, factor=factor: make(step * factor), cube)
        assert curve.seek(2).rate == pytest.approx(2, rel=rd.RATE_TOLERANCE)
        with pytest.raises(CodingError, match="nearest"):
            curve.seek(12)
    with pytest.raises(CodingError, match="no such step"):
        curve_of(lambda step: make(1), cube).seek(1)


def test_gaps_are_not_measured_and_the_mask_counts_in_the_rate(cube):
    valid = np.ones(cube.shape, bool)
    valid[:, :, :9] = False
    valid[0] = False
    cube[~valid] = -32768
    bench = bench_of(cube, valid)
    trial = bench.encode(lambda samples: Rounding(100.0), 100.0, "lossy")
    assert trial.codec.given.min() >= 0  # the codec never saw a gap
    point = bench.point(trial)
    assert point["num_bytes"] == 2 + len(encode_mask(valid)) + len(trial.data)
    assert point["bpppc"] == 8 * point["num_bytes"] / cube.size
    error = (np.rint(cube / 100.0) * 100 - cube)[valid] / 10000
    assert point["psnr"] == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-6)
    assert point["largest_error"] == pytest.approx(np.abs(error).max() * 10000)
    assert point["band_psnr"][0] is None and point["band_psnr"][1] is not None


def test_without_gaps_the_metrics_equal_those_of_test_py(cube):
    bench = bench_of(cube)
    trial = bench.encode(lambda samples: Rounding(100.0), 100.0, "lossy")
    point = bench.point(trial)
    pair = [torch.from_numpy(image / 10000)[None] for image in (trial.codec.decode(b"", None), cube)]
    for key, value in metrics.image_metrics(*pair).items():
        assert point[key] == pytest.approx(float(value), rel=1e-9)


def test_the_rate_counts_what_a_file_would_hold(cube):
    """The record of the tile, the side information of all tiles, and the codec's parameters."""

    class Loaded(Rounding):
        parameters, shared = {"step": 100.0}, b"side information"

    bench = bench_of(cube)
    trial = bench.encode(lambda samples: Loaded(100.0), 100.0, "lossy")
    record, _ = encode_record(trial.codec, Parts(cube, np.ones(cube.shape, bool), [None] * len(cube)))
    assert trial.num_bytes == len(record) + len(Loaded.shared) + len('{"step":100.0}')
    assert trial.rate == 8 * trial.num_bytes / cube.size


def test_lossless_has_no_psnr(cube):
    bench = bench_of(cube)
    point = bench.point(
        bench.encode(lambda samples: codecs["jpegls"].make_factory(samples).lossless(), None, "lossless")
    )
    assert point["psnr"] is None and point["mse"] == 0 and point["largest_error"] == 0


def test_every_mode_of_a_factory_is_measured(cube):
    def refuses():
        raise CodingError("takes no\ncube")

    factory = CodecFactory(
        lossy=Rounding, lossless=refuses, fixed=lambda: Rounding(10.0), finest=0.01, coarsest=15000.0, first=10.0
    )
    wanted = [("fixed", None), ("lossy", 1.0), ("bounded", 5), ("lossless", None)]
    found = {(kind, target): point for kind, target, point in rd.measured(lambda _: factory, bench_of(cube), wanted)}
    assert list(found) == wanted
    assert found["lossy", 1.0]["bpppc"] == pytest.approx(1, rel=rd.RATE_TOLERANCE + 1e-9)
    assert found["fixed", None]["setting"] is None
    assert found["bounded", 5] == "" and found["lossless", None] == "takes no cube"
