"""Distortion of decoded samples."""

import warnings

import numpy as np

from coding.hsc.distortion import measure


def test_the_largest_floats_have_an_angle_without_a_warning():
    samples = np.full((2, 2, 2), np.finfo(np.float64).max)
    samples[0, 0] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distortion = measure(samples, samples, np.ones(samples.shape, bool), 1.0, False)
    assert (distortion.squared_error, distortion.spectral_angle, distortion.spectra) == (0, 0, 4)
