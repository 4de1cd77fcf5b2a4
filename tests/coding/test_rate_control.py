"""The search for a step, and targets that are met on the sampled tiles and by the scene."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest

from coding.base import Codec, CodecFactory, CodingError
from coding.hsc.distortion import Distortion, measure
from coding.hsc.header import Header
from coding.hsc.tiling import compress_scene
from coding.klt_rates import klt_rates
from coding.kltcm.codec import KltCm
from coding.numbers import Numbers
from coding.rate_control import RateController, Target
from coding.samples import CubeSamples, SceneSamples
from coding.sampling import Survey, TileSample
from coding.step_search import StepSearch
from datasets.base import SceneInfo

LIMITS = 2.0**-10, 2.0**4


def linear(calls, slope=6.02):
    """Return a figure that is 30 at step 1 and falls by `slope` when the step doubles; it appends steps to `calls`."""

    def figure(step):
        calls.append(step)
        return 30 - slope * math.log2(step)

    return figure


@pytest.mark.parametrize(
    ("target", "step", "end"),
    [
        (40, 2.0**-1.662, None),
        (10, 2.0**3.322, None),
        (12.7, 2.0**2.873, None),
        (500, 2.0**-10, "finest"),
        (-500, 2.0**4, "coarsest"),
    ],
)
def test_steps_are_found_from_either_side(target, step, end):
    for first in (2.0**-9, 1.0, 2.0**3.9):
        calls = []
        found = StepSearch(linear(calls), *LIMITS, first, slope=6.0).find(target, 0.01)
        assert found.step == pytest.approx(step, rel=0.01) and found.end == end
        assert len(calls) < 9


def test_trials_for_one_target_are_reused_for_the_next():
    calls = []
    search = StepSearch(linear(calls), *LIMITS, 1.0, slope=6.0)
    for target in (40, 38, 36, 41):
        assert search.find(target, 0.01).step == pytest.approx(2.0 ** ((30 - target) / 6.02), rel=0.01)
    assert len(calls) < 12


def test_stairs_are_searched_to_their_nearest_edge():
    def stairs(step):
        return -round(math.log2(step))

    found = StepSearch(stairs, *LIMITS, 1.0, slope=1.0).find(3.4, 0.01)
    assert stairs(found.step) == 3 and found.end is None


def refusing(finest=0.0, coarsest=math.inf):
    def figure(step):
        if not finest <= step <= coarsest:
            raise CodingError("no such step")
        return -math.log2(step)

    return figure


@pytest.mark.parametrize("first", [2.0**-9, 1.0, 8.0])
def test_steps_that_a_codec_refuses_are_avoided(first):
    search = StepSearch(refusing(0.1, 2.0), *LIMITS, first, slope=1.0)
    assert search.find(3.0, 0.01).step == pytest.approx(2.0**-3, rel=0.01)
    assert search.find(-0.9, 0.01).step == pytest.approx(2.0**0.9, rel=0.01)
    ends = search.find(9.0, 0.01), search.find(-9.0, 0.01)
    assert [found.end for found in ends] == ["finest", "coarsest"]
    assert ends[0].step == pytest.approx(0.1, rel=0.2) and ends[1].step == pytest.approx(2.0, rel=0.2)


def test_a_codec_that_takes_no_step_raises():
    with pytest.raises(CodingError, match="no such step"):
        StepSearch(refusing(100.0), *LIMITS, 1.0, slope=1.0).find(3.0, 0.01)


def test_infinite_figures_are_finer_than_any_target():
    search = StepSearch(lambda step: math.inf if step < 0.1 else -math.log2(step), *LIMITS, 1.0, slope=1.0)
    assert search.find(3.0, 0.01).step == pytest.approx(2.0**-3, rel=0.01)


# -- of scenes ------------------------------------------------------------------------------------


class Rounding(Codec):
    """Rounds to multiples of a step and writes as many bytes as their entropy."""

    dtype = "int16"

    def __init__(self, step):
        self.step = step

    def encode(self, cube, valid):
        _, counts = np.unique(np.rint(cube / self.step), return_counts=True)
        shares = counts / cube.size
        return bytes(math.ceil(-(shares * np.log2(shares)).sum() * cube.size / 8))

    def encode_and_decode(self, cube, valid):
        return self.encode(cube, valid), (np.rint(cube / self.step) * self.step).astype(np.int16)

    def decode(self, data, valid):
        raise NotImplementedError


class FloatRounding(Rounding):
    dtype = "float32"


class Scene:
    """A scene whose PSNR and rate differ from those of its sampled tile."""

    def __init__(self, psnr_change=0.0, rate_factor=1.0):
        self.cube = np.random.default_rng(0).normal(3000, 300, (4, 30, 30)).astype(np.int16)
        samples = CubeSamples(self.cube, np.ones(self.cube.shape, bool), 10000.0)
        factory = CodecFactory(lossy=Rounding, lossless=object, finest=1.0, coarsest=20000.0, first=40.0)
        self.controller = RateController(factory, samples, "rounding")
        self._psnr_change, self._rate_factor = psnr_change, rate_factor
        self.written = []

    def write(self, codec):
        data, decoded = codec.encode_and_decode(self.cube, None)
        found = measure(self.cube, decoded, np.ones(self.cube.shape, bool), 10000.0, False)
        found.squared_error *= 10 ** (-self._psnr_change / 10)
        scene = self

        class Written:
            rate = 8 * len(data) / scene.cube.size * scene._rate_factor
            distortion = found
            step = codec.step

        self.written.append(Written)
        return Written


@pytest.mark.parametrize("change", [0.0, -2.0, 1.0])
def test_a_psnr_is_met_though_the_scene_differs_from_the_tiles(change):
    scene = Scene(psnr_change=change)
    written, note = scene.controller.write(scene.write, Target("psnr", 45.0))
    assert written.distortion.psnr == pytest.approx(45, abs=0.1) and note is None
    assert len(scene.written) == (1 if not change else 2)


@pytest.mark.parametrize("factor", [1.0, 1.3, 0.8])
def test_a_rate_is_met_though_the_scene_differs_from_the_tiles(factor):
    scene = Scene(rate_factor=factor)
    written, note = scene.controller.write(scene.write, Target("bpppc", 3.0))
    assert written.rate == pytest.approx(3, rel=0.02) and note is None


def test_a_target_out_of_reach_is_noted():
    scene = Scene()
    _, note = scene.controller.write(scene.write, Target("psnr", 5.0))
    assert "instead of 5 dB: rounding goes no lower" in note
    _, note = scene.controller.write(scene.write, Target("psnr", 130.0))  # a step of 1 has no error
    assert note.endswith("instead of 130 dB: no step of rounding comes nearer")
    written, note = scene.controller.write(scene.write, Target("bpppc", 20.0))
    assert note.endswith("rounding does no better with a loss; --max-error 0 has none, however fine the step")
    assert written is scene.written[-1] and written.step == 1.0


def test_steps_are_as_small_as_the_samples():
    """Of radiances that are tiny compared with the scale."""
    cube = np.random.default_rng(0).normal(3e-5, 1e-5, (4, 30, 30)).astype(np.float32)
    samples = CubeSamples(cube, np.ones(cube.shape, bool), 1.0)
    codecs = CodecFactory(lossy=FloatRounding, finest=2.0**-16, coarsest=2.0, first=2.0**-8)

    class Written:
        rate = 6.0
        distortion = Distortion()

    steps = []
    controller = RateController(codecs, samples, "rounding")
    controller.write(lambda codec: steps.append(codec.step) or Written, Target("bpppc", 6.0))
    assert len(np.unique(np.rint(cube / steps[-1]))) > 40


def test_the_nearest_attempt_is_the_last_one_written():
    """The rate of this scene jumps, so that no attempt meets the target."""
    scene = Scene()
    plain = scene.write
    factors = iter([1.5, 0.9, 1.4, 0.9])

    def write(codec):
        scene._rate_factor = next(factors)
        return plain(codec)

    written, note = scene.controller.write(write, Target("bpppc", 3.0))
    assert note.endswith("the header, index and masks of the file count, which no step changes")
    distances = [abs(math.log2(attempt.rate / 3)) for attempt in scene.written[:3]]
    assert written is scene.written[-1]
    assert written.step == scene.written[int(np.argmin(distances))].step


# -- of scenes of many tiles ----------------------------------------------------------------------


class ArrayScene:
    """A scene in memory."""

    def __init__(self, cube):
        self._cube, (bands, height, width) = cube, cube.shape
        self.info = SceneInfo(height=height, width=width, bands=bands, dtype="int16")

    def read(self, row, column, height, width):
        return self._cube[:, row : row + height, column : column + width]

    def read_masks(self, row, column, height, width):
        return np.zeros((0, height, width), bool)


class CountingKltCm(KltCm):
    """Counts the tiles that it codes."""

    coded = 0

    def encode_and_decode(self, cube, valid):
        CountingKltCm.coded += 1
        return super().encode_and_decode(cube, valid)


def tiles_of_two_kinds(rows, columns, size=32, bands=12):
    """Return a cube whose left half is smooth with little noise, and whose right half is rough."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[: rows * size, : columns * size]
    pictures = np.stack([np.sin(x / 9) * np.cos(y / 7), np.cos(x / 5 + y / 11)])
    cube = 3000 + 300 * np.tensordot(generator.random((bands, 2)), pictures, axes=1)
    noise = np.where(x < columns * size / 2, 4, 15) * generator.normal(0, 1, cube.shape)
    return np.rint(cube + noise).astype(np.int16)


def header_of(scene):
    return Header("klt-cm", {}, None, scene.info, 10000.0, {}, tile_size=32, max_error=None)


def write_scene(cube, target, num_workers=1):
    """Return the file, what was written, the note, and the number of coded tiles in units of those of the scene."""
    scene = ArrayScene(cube)
    header = header_of(scene)
    samples = SceneSamples(scene, header, num_workers)
    factory = replace(KltCm.factory(samples), lossy=lambda step: CountingKltCm(Numbers("int16"), step))
    file = io.BytesIO()
    CountingKltCm.coded = 0

    def write(codec):
        return compress_scene(scene, file, header, codec, num_workers, coded=samples.coded(codec))

    written, note = RateController(factory, samples, "klt-cm").write(write, target)
    return file.getvalue(), written, note, CountingKltCm.coded / header.tile_count


TARGETS = Target("bpppc", 2.0), Target("psnr", 70.0)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_costs_little_more_than_a_step(target):
    _, written, note, share = write_scene(tiles_of_two_kinds(6, 6), target)
    figure = written.rate / target.value if target.kind == "bpppc" else 1 + (written.distortion.psnr - target.value) / 5
    assert figure == pytest.approx(1, abs=0.02) and note is None
    assert share < (1.3 if target.kind == "bpppc" else 1.6)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_of_a_single_tile_takes_few_trials(target):
    _, _, note, share = write_scene(tiles_of_two_kinds(1, 1, bands=60), target)
    assert note is None
    assert share <= 4


@pytest.mark.parametrize("target", TARGETS)
def test_files_of_a_target_do_not_depend_on_the_workers(target):
    cube = tiles_of_two_kinds(3, 2)
    assert write_scene(cube, target)[0] == write_scene(cube, target, num_workers=3)[0]


def test_six_tiles_of_a_survey_stand_for_the_scene():
    scene = ArrayScene(tiles_of_two_kinds(6, 6))
    samples = SceneSamples(scene, header_of(scene))
    survey, codec = Survey(samples, klt_rates), KltCm(Numbers("int16"), 6.0)
    rates = [8 * len(tile.record) / tile.size for tile in samples.code(codec, range(36))]
    estimate = TileSample(samples, survey, 6.0).rate(codec, 6.0, 6)
    assert estimate == pytest.approx(np.mean(rates), rel=0.01)
    assert np.ptp(rates) > 0.5 * np.mean(rates)


def test_kept_tiles_are_not_read_again(monkeypatch):
    scene, read = ArrayScene(tiles_of_two_kinds(3, 2)), []
    samples, codec = SceneSamples(scene, header_of(scene)), KltCm(Numbers("int16"), 6.0)
    samples.code(codec, [0, 3, 4, 5])
    whole = scene.read
    monkeypatch.setattr(scene, "read", lambda *window: (read.append(window), whole(*window))[1])
    written = compress_scene(scene, io.BytesIO(), header_of(scene), codec, coded=samples.coded(codec))
    assert read == [(0, 32, 32, 32), (32, 0, 32, 32)]
    assert written.distortion.samples == 3 * 2 * 12 * 32 * 32


def test_kept_tiles_are_those_that_would_be_coded():
    cube = tiles_of_two_kinds(3, 2)
    file, written, _, _ = write_scene(cube, TARGETS[0])
    scene, again = ArrayScene(cube), io.BytesIO()
    codec = KltCm(Numbers("int16"), written.header.parameters["step"])
    compress_scene(scene, again, header_of(scene), codec)
    assert again.getvalue() == file


def test_estimated_rates_are_near_those_of_the_codec():
    cube = tiles_of_two_kinds(3, 3, bands=40)
    valid = np.ones(cube.shape, bool)
    rates = klt_rates(cube)
    for step in (5.0, 20.0):
        rate = 8 * len(KltCm(Numbers("int16"), step).encode(cube, valid)) / cube.size
        assert 0.5 < rates(step) / rate < 2
