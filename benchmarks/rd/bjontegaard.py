"""Bjontegaard's deltas: the average difference of two rate-distortion curves over their common range.

G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", ITU-T VCEG-M33, 2001, with
Akima splines as recommended by Herglotz et al., "Beyond Bjontegaard: limits of video compression performance
comparisons", ICIP 2022, doi 10.1109/ICIP46576.2022.9897912.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import bjontegaard

Curve: TypeAlias = Sequence[tuple[float, float]]
"""Points (rate, PSNR in dB)."""

MIN_POINTS = 4


def bjontegaard_deltas(anchor: Curve, curve: Curve) -> dict[str, float | str | None]:
    """Compute BD-rate and BD-PSNR of a curve against an anchor.

    Args:
        anchor: points in any order. Curves must rise, so points that `rising` drops do not count.
        curve: the same.

    Returns:
        `bd_rate` in percent, negative where `curve` needs less; `bd_psnr` in dB; `overlap`, the size of the common
        range of PSNR in dB; `reason`, why these three are None, otherwise "".
    """
    anchor, curve = rising(anchor), rising(curve)
    if min(len(anchor), len(curve)) < MIN_POINTS:
        return _no_deltas(f"fewer than {MIN_POINTS} points")
    (rates, psnr), (other_rates, other_psnr) = zip(*anchor, strict=True), zip(*curve, strict=True)
    overlap = min(psnr[-1], other_psnr[-1]) - max(psnr[0], other_psnr[0])
    if overlap <= 0 or min(rates[-1], other_rates[-1]) <= max(rates[0], other_rates[0]):
        return _no_deltas("nothing in common with the anchor")
    points = (rates, psnr, other_rates, other_psnr)
    options = {"method": "akima", "require_matching_points": False, "min_overlap": 0}
    return {
        "bd_rate": float(bjontegaard.bd_rate(*points, **options)),
        "bd_psnr": float(bjontegaard.bd_psnr(*points, **options)),
        "overlap": overlap,
        "reason": "",
    }


def rising(points: Curve) -> list[tuple[float, float]]:
    """Sort points by rate and drop those whose PSNR is not above that of all lower rates."""
    kept: list[tuple[float, float]] = []
    for rate, psnr in sorted(points):
        if not kept or (rate > kept[-1][0] and psnr > kept[-1][1]):
            kept.append((rate, psnr))
    return kept


def _no_deltas(reason: str) -> dict[str, float | str | None]:
    return {"bd_rate": None, "bd_psnr": None, "overlap": None, "reason": reason}
