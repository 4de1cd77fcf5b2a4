"""Trellis-coded quantization, compared with a search through all paths."""

import itertools

import numpy as np
import pytest

from coding.kltcm.neighborhoods import new_history
from coding.kltcm.trellis import COST_PER_BIT, NEXT_STATE, QUANTIZER_SHIFT, Trellis
from coding.kltcm.wavelet import subbands


def values_of(levels):
    """Return the magnitudes, in steps, of levels along the path that their parities take."""
    state, values = 0, []
    for level in levels:
        quantizer = state >> QUANTIZER_SHIFT
        values.append(level - 0.5 * quantizer if level else 0.0)
        state = NEXT_STATE[state, level & 1]
    return np.array(values)


def quantized(magnitudes):
    """Return the levels that the trellis chooses for a row of coefficients, in the order of coding."""
    layout = subbands(1, len(magnitudes))
    coefficients = np.zeros(layout.size)
    coefficients[layout.scan] = magnitudes
    return Trellis(layout).quantize(coefficients, new_history(layout.size))[layout.scan]


@pytest.mark.parametrize("seed", range(5))
def test_no_other_path_has_a_smaller_error_by_more_than_its_bits(seed):
    magnitudes = np.random.default_rng(seed).uniform(3, 5, 7)
    choices = [range(int(magnitude), int(magnitude) + 2) for magnitude in magnitudes]
    errors = [np.square(values_of(levels) - magnitudes).sum() for levels in itertools.product(*choices)]
    chosen = np.square(values_of(quantized(magnitudes)) - magnitudes).sum()
    # The levels differ by at most 1, so their bits, by any estimate in this range, by less than 2.
    assert min(errors) <= chosen <= min(errors) + 2 * len(magnitudes) * COST_PER_BIT


def test_the_error_is_a_decibel_below_that_of_one_quantizer():
    magnitudes = np.random.default_rng(0).uniform(20, 60, 4096)
    error = np.square(values_of(quantized(magnitudes)) - magnitudes).mean()
    assert error < 10**-0.1 / 12
