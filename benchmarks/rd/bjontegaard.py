"""Bjontegaard's deltas: how two rate-distortion curves differ on average, over what they have in common.

G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", ITU-T VCEG-M33, 2001; interpolation by
Akima's splines as Herglotz et al., "Beyond Bjontegaard: limits of video compression performance comparisons",
ICIP 2022, doi 10.1109/ICIP46576.2022.9897912, recommend.
"""

from __future__ import annotations

from collections.abc import Sequence

LEAST_POINTS = 4


def bjontegaard_deltas(anchor: Sequence[tuple[float, float]], curve: Sequence[tuple[float, float]]) -> dict:
    """BD-rate and BD-PSNR of a curve against an anchor.

    Args:
        anchor, curve: points (rate, PSNR in dB) in any order. Of points that are not better than one of a lower rate
            the dearer is left out: both curves must rise.

    Returns:
        `bd_rate` in percent, below 0 where the curve needs less; `bd_psnr` in dB; `overlap`, the range of PSNR in dB
        that both have; `reason`, why there is none of them, else "".
    """
    import bjontegaard

    nothing = {"bd_rate": None, "bd_psnr": None, "overlap": None}
    anchor, curve = rising(anchor), rising(curve)
    if min(len(anchor), len(curve)) < LEAST_POINTS:
        return {**nothing, "reason": f"fewer than {LEAST_POINTS} points"}
    (_, psnr), (_, other_psnr) = zip(*anchor, strict=True), zip(*curve, strict=True)
    overlap = min(psnr[-1], other_psnr[-1]) - max(psnr[0], other_psnr[0])
    if overlap <= 0 or min(anchor[-1][0], curve[-1][0]) <= max(anchor[0][0], curve[0][0]):
        return {**nothing, "reason": "nothing in common with the anchor"}
    arguments = (*zip(*anchor, strict=True), *zip(*curve, strict=True))
    options = {"method": "akima", "require_matching_points": False, "min_overlap": 0}
    return {
        "bd_rate": float(bjontegaard.bd_rate(*arguments, **options)),
        "bd_psnr": float(bjontegaard.bd_psnr(*arguments, **options)),
        "overlap": overlap,
        "reason": "",
    }


def rising(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points by rate, without those that are not better than one before them."""
    kept: list[tuple[float, float]] = []
    for rate, psnr in sorted(points):
        if not kept or (rate > kept[-1][0] and psnr > kept[-1][1]):
            kept.append((rate, psnr))
    return kept
