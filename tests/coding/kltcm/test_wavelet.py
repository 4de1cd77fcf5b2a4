"""The wavelet of `klt-cm`: it can be undone, keeps energy, and its subbands cover a plane."""

import numpy as np
import pytest

from coding.kltcm.wavelet import FIRST, HEIGHT, STRIDE, WIDTH, analyze, subbands, synthesize

SIZES = [(1, 1), (1, 6), (5, 1), (2, 2), (3, 7), (37, 50), (64, 64)]


@pytest.mark.parametrize("size", SIZES)
def test_synthesis_undoes_analysis(size):
    planes = np.random.default_rng(0).normal(size=(2, *size))
    assert np.allclose(synthesize(analyze(planes)), planes)


def test_errors_keep_their_size():
    errors = np.random.default_rng(0).normal(size=(4, 128, 128))
    assert np.square(synthesize(errors)).mean() == pytest.approx(1, abs=0.1)


def test_smooth_planes_gather_in_the_corner():
    y, x = np.mgrid[:64, :64] / 64
    coefficients = analyze((np.sin(3 * x) + y**2)[None])[0]
    outside = np.square(coefficients).sum() - np.square(coefficients[:8, :8]).sum()
    assert outside < 0.01 * np.square(coefficients).sum()


@pytest.mark.parametrize("size", SIZES)
def test_subbands_cover_a_plane_once(size):
    layout = subbands(*size)
    places = np.concatenate(
        [
            (row[FIRST] + np.arange(row[HEIGHT])[:, None] * row[STRIDE] + np.arange(row[WIDTH])).ravel()
            for row in layout.table
        ]
    )
    assert sorted(places) == sorted(layout.places.ravel())
    assert len(set(places)) == size[0] * size[1]
    assert places.max() < layout.size
    assert np.array_equal(layout.places.ravel()[layout.order], places)
