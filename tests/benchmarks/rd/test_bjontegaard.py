"""Bjontegaard's deltas of curves whose differences are known."""

import math

import pytest

from benchmarks.rd.bjontegaard import bjontegaard_deltas, rising


def curve(rates, gain=0.0):
    return [(rate, 40 + 6 * math.log2(rate) + gain) for rate in rates]


RATES = (0.25, 0.5, 1, 2, 4)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0, 1.2])
def test_bd_rate_is_the_share_of_the_rate(share):
    found = bjontegaard_deltas(curve(RATES), [(rate * share, psnr) for rate, psnr in curve(RATES)])
    assert found["bd_rate"] == pytest.approx(100 * (share - 1), abs=1e-6)
    assert found["bd_psnr"] == pytest.approx(-6 * math.log2(share), abs=1e-6)
    assert found["reason"] == ""


def test_bd_psnr_is_the_gain_at_other_rates():
    found = bjontegaard_deltas(curve(RATES), curve((0.3, 0.6, 0.9, 1.7, 3), gain=1.0)[::-1])
    assert found["bd_psnr"] == pytest.approx(1, abs=0.02)
    assert found["bd_rate"] == pytest.approx(100 * (2 ** (-1 / 6) - 1), abs=0.3)
    assert found["overlap"] == pytest.approx(6 * math.log2(3 / 0.3))


def test_only_the_common_range_counts():
    """Below the common range the anchor is far better, which must not count."""
    anchor = [(0.01, curve([0.05])[0][1]), *curve(RATES)]
    found = bjontegaard_deltas(anchor, curve((1, 1.5, 2, 3)))
    assert found["bd_rate"] == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize(
    ("other", "reason"),
    [(curve((0.5, 1, 2)), "fewer"), (curve(RATES, gain=100), "common"), (curve((10, 20, 30, 40), -200), "common")],
)
def test_curves_that_cannot_be_compared_have_a_reason(other, reason):
    found = bjontegaard_deltas(curve(RATES), other)
    assert found["bd_rate"] is None and found["bd_psnr"] is None and reason in found["reason"]


def test_points_that_are_no_better_are_left_out():
    assert rising([(1, 40), (0.5, 39), (0.7, 38), (2, 40), (3, 41)]) == [(0.5, 39), (1, 40), (3, 41)]
