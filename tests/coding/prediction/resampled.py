"""Images as resampling makes them: noise of a sensor, interpolated onto a rotated grid."""

import math

import numpy as np

_ANGLE = math.radians(15)
GRID = np.array([[math.cos(_ANGLE), math.sin(_ANGLE)], [-math.sin(_ANGLE), math.cos(_ANGLE)]])
"""Samples of the sensor per row and per column, along both axes of the sensor."""


def resampled_noise(shape, displacements=None, deviation=20, seed=0):
    """Return noise (C, H, W), int32, interpolated bilinearly from a sensor whose grid is rotated by 15 degrees.

    Args:
        shape: (C, H, W).
        displacements: of the grid of each band, (C, 2), along both axes; none are all 0.
        deviation: standard deviation of the samples of the sensor.
        seed: of the noise.
    """
    bands, height, width = shape
    side = 2 * (height + width)
    generator = np.random.default_rng(seed)
    places = np.tensordot(GRID, np.mgrid[:height, :width], axes=1) + side / 2
    displacements = np.zeros((bands, 2)) if displacements is None else np.array(displacements)
    cube = np.empty(shape)
    for band in range(bands):
        sensor = generator.normal(0, deviation, (side, side))
        here = places + displacements[band, :, None, None]
        i, j = np.floor(here).astype(int)
        down, right = here % 1
        upper = (1 - right) * sensor[i, j] + right * sensor[i, j + 1]
        lower = (1 - right) * sensor[i + 1, j] + right * sensor[i + 1, j + 1]
        cube[band] = (1 - down) * upper + down * lower
    return np.rint(cube).astype(np.int32)
