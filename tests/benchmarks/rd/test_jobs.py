"""Jobs of codecs on images: what they store, what they skip, and how they fail."""

import functools
import operator
import os

import numpy as np
import pytest

from benchmarks.rd import jobs as rd
from benchmarks.rd.images import read_image
from benchmarks.rd.points import RATE_TOLERANCE
from benchmarks.rd.run import KINDS, wanted_points
from benchmarks.rd.store import Writer, read_rows
from coding import codecs
from utils.errors import ProjectError


@pytest.fixture
def make_job(tmp_path):
    cube = np.random.default_rng(0).normal(3000, 300, (4, 40, 40)).astype("int16")
    np.save(tmp_path / "cube.npy", cube)

    def make(codec="jpegls", rates=(3.0, 5.0), **changes):
        settings = {
            "make_factory": codecs[codec].make_factory,
            "load": functools.partial(read_image, tmp_path / "cube.npy", True),
            "wanted": wanted_points(KINDS, rates, (3,)),
            "folder": tmp_path / "stored" / codec,
        }
        return rd.Job(codec=codec, image="cube", **{**settings, **changes})

    return make


def points_in(rows):
    return {(row["codec"], row["kind"], row["target"]): row for row in rows if "bpppc" in row}


def test_points_are_measured_once(make_job, without_workers, capsys):
    rows = rd.run_jobs([make_job("jpegls"), make_job("aec")], 1)
    points = points_in(rows)
    assert set(points) == {
        ("jpegls", "lossy", 3.0),
        ("jpegls", "lossy", 5.0),
        ("jpegls", "bounded", 3),
        ("jpegls", "lossless", None),
        ("aec", "lossless", None),
    }
    assert points["jpegls", "bounded", 3]["largest_error"] == 3
    assert points["jpegls", "bounded", 3]["encoding_peak_mb"] >= 0
    assert "2/2 " in capsys.readouterr().err
    # The image is not even read again.
    (again,) = points_in(rd.run_jobs([make_job("aec", load=functools.partial(os._exit, 1))], 1)).values()
    assert again["encoding_time"] == points["aec", "lossless", None]["encoding_time"]


def test_only_new_rates_are_measured(make_job, without_workers):
    before = points_in(rd.run_jobs([make_job()], 1))
    rows = rd.run_jobs([make_job(rates=(3.0, 4.0, 5.0))], 1)
    assert [row["target"] for row in rows if row["kind"] == "lossy"] == [3.0, 4.0, 5.0]
    after = points_in(rows)
    assert after["jpegls", "lossy", 4.0]["bpppc"] == pytest.approx(4, rel=RATE_TOLERANCE)
    assert all(after[point]["encoding_time"] == row["encoding_time"] for point, row in before.items())
    # A report of fewer rates has only these.
    assert len(points_in(rd.run_jobs([make_job(rates=(3.0,))], 1))) == 3


def test_a_point_that_another_measures_meanwhile_counts_once(make_job, without_workers):
    job = make_job("aec")
    other = Writer(job.folder)

    def load():
        other.add({"kind": "lossless", "target": None, "bpppc": 1.0, "band_psnr": [], "alone": True, "device": "other"})
        return make_job().load()

    rows = rd.run_jobs([make_job("aec", load=load)], 1)
    assert sum(row["kind"] == "lossless" for row in rows) == 1
    assert len(list(job.folder.iterdir())) == 2
    assert sum(row["kind"] == "lossless" for row in read_rows(job.folder)) == 1


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"load": functools.partial(os._exit, 1)}, ProjectError, "killed"),
        ({"make_factory": functools.partial(operator.getitem, {})}, RuntimeError, "CubeSamples object"),
    ],
)
def test_a_fault_of_a_codec_does_not_end_the_worker(make_job, changes, error, text):
    with pytest.raises(error, match=text):
        rd.measure_in_fresh_process(make_job(**changes), alone=True)


def test_a_job_that_fails_is_noted_and_tried_again(make_job, without_workers, capsys):
    rows = rd.run_jobs([make_job(make_factory=functools.partial(operator.getitem, {})), make_job("aec")], 1)
    (note,) = [row["note"] for row in rows if row["codec"] == "jpegls"]
    assert "CubeSamples object" in note and note in capsys.readouterr().err
    assert any("bpppc" in row for row in rows)  # the other codec's
    assert len(points_in(rd.run_jobs([make_job()], 1))) == 4
