"""Results of `benchmark.py rd` as tables: points, means over the images, Bjontegaard deltas, PSNR along the bands.

A row is what `benchmarks.rd.jobs` stores: a point of one codec on one image, or a note why there is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from benchmarks.rd.bjontegaard import bjontegaard_deltas

METRICS = ("bpppc", "psnr", "ssim", "sa", "mse", "largest_error")
COSTS = (
    *("encoding_time", "decoding_time", "encoding_mbps", "decoding_mbps"),
    *("encoding_peak_mb", "decoding_peak_mb"),
)
POINT = ("kind", "target")
CURVE_KINDS = ("lossy", "trained")
"""Kinds of the points that make rate-distortion curves."""
COLUMNS = ("codec", "image", *POINT, "bands", "setting", "num_bytes", "side_bytes", *METRICS, *COSTS, "alone")
NOTES = ("codec", "image", *POINT, "note")
DELTAS = ("anchor", "codec", "image", "bd_rate", "bd_psnr", "overlap", "reason")
DECIMAL = re.compile(r"\d+\.\d+")
INTERVALS = ("bpppc", "psnr")
"""Metrics whose means have confidence intervals."""
CONFIDENCE = 0.95
FLOAT32_SUFFIX = " float32"
"""Appended to the name of a model with float32 latents, which are not a point of the model's curve."""


def points_of(rows: Sequence[dict], codecs: Sequence[str]) -> pd.DataFrame:
    """Return the points among the rows as a frame with `COLUMNS`, in the order of `codecs`.

    A figure that a point does not have, such as the PSNR of an image without any error, is NaN.
    """
    order = {name: place for place, codec in enumerate(codecs) for name in (codec, codec + FLOAT32_SUFFIX)}
    points = pd.DataFrame([_named(row) for row in rows if "bpppc" in row], columns=list(COLUMNS))
    points = points.sort_values("codec", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return points.astype(dict.fromkeys(("target", "setting", *METRICS, *COSTS), float))


def notes_of(rows: Sequence[dict]) -> pd.DataFrame:
    """Return the reasons why points are missing, with columns codec, image, kind, target and note."""
    notes = pd.DataFrame([_named(row) for row in rows if row.get("note")], columns=list(NOTES))
    return notes.assign(note=notes["note"].map(_without_folders)).astype({"target": float})


def _named(row: dict) -> dict:
    return {**row, "codec": row["codec"] + FLOAT32_SUFFIX} if row["kind"] == "fixed" else row


def _without_folders(text: str) -> str:
    """Remove folders from paths: they mean nothing on other machines."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\"]+/)+", "", text)


def targets_of(points: pd.DataFrame, kind: str) -> list[float]:
    """Return the targets of the points of a kind, ascending."""
    return sorted(points.loc[points["kind"] == kind, "target"].unique())


def mean_points(points: pd.DataFrame, num_images: int) -> pd.DataFrame:
    """Average over the images every point that all of them have.

    Returns:
        A row for each codec, kind and target, by rate. A metric that some image does not have is NaN;
        `largest_error` is the largest of all images. Costs are means over the images that were measured alone on their
        machine; if none was, over all, and `alone` is False. The columns `<metric>_interval` are those of
        `half_interval`. `bpp` and `psnr-rgb` are the names by which `python -m compressai.utils.plot` finds rate and
        PSNR.
    """
    key = ["codec", *POINT]
    points = points.assign(bpp=points["bpppc"] * points["bands"], alone=points["alone"].astype(bool))
    groups = points.groupby(key, dropna=False, sort=False)
    is_counted = points["alone"] | ~groups["alone"].transform("any")
    costs = points.assign(**{name: points[name].where(is_counted) for name in COSTS})
    means = groups[[*METRICS, "bpp"]].sum(min_count=num_images) / num_images
    means = means.join(costs.groupby(key, dropna=False, sort=False)[list(COSTS)].mean())
    means["alone"] = groups["alone"].any()
    means["largest_error"] = groups["largest_error"].max()
    for name in INTERVALS:
        means[f"{name}_interval"] = groups[name].agg(half_interval).where(means[name].notna())
    means["psnr-rgb"] = means["psnr"]
    return means[groups.size() == num_images].reset_index().sort_values("bpppc", kind="stable", ignore_index=True)


def half_interval(values: pd.Series) -> float:
    """Return half the width of the 95 % confidence interval of the mean of values, by Student's t.

    NaN for fewer than three values: of two, the interval would be thirteen times as wide as their standard error.

    The values are taken as a random sample of images: the interval says how far the mean over all such images may be
    from the mean of these.
    """
    values = values.dropna()
    if len(values) < 3:
        return math.nan
    return float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * values.std() / math.sqrt(len(values)))


def with_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Add a column `point` of texts such as "lossy 0.5" and "lossless", from kind and target."""
    names = [
        kind if pd.isna(target) else f"{kind} {target:g}"
        for kind, target in zip(frame["kind"], frame["target"], strict=True)
    ]
    return frame.assign(point=pd.Series(names, frame.index, dtype=object))


def incomplete_points(points: pd.DataFrame, num_images: int) -> pd.DataFrame:
    """Count the images of the points that some images lack: columns codec, point and images."""
    counts = points.groupby(["codec", "point"], sort=False).size()
    return counts[counts < num_images].reset_index()


def merged_notes(notes: pd.DataFrame) -> list[str]:
    """Return one line for all notes of a point that differ only in decimals, with the range of each decimal."""
    pattern = notes["note"].str.replace(DECIMAL, "", regex=True)
    groups = notes.groupby(["codec", "point", pattern], sort=False)["note"]
    return [f"- {codec}, {point}, {len(found)} images: {_merged(list(found))}" for (codec, point, _), found in groups]


def _merged(notes: Sequence[str]) -> str:
    ranges = []
    for numbers in zip(*map(DECIMAL.findall, notes), strict=True):
        low, high = min(numbers, key=float), max(numbers, key=float)
        ranges.append(low if low == high else f"{low} to {high}")
    remaining = iter(ranges)
    return DECIMAL.sub(lambda _: next(remaining), notes[0])


def sortable_psnr(psnr: pd.Series) -> pd.Series:
    """Return PSNR with NaN, which stands for an exact image, as infinity."""
    return psnr.fillna(math.inf)


def by_psnr(means: pd.DataFrame, codecs: Sequence[str], rate: float | None) -> list[str]:
    """Sort codecs by their PSNR at a target rate, the highest first and those without a point there last."""
    at_rate = means[(means["kind"] == "lossy") & (means["target"] == rate)]
    psnr = dict(zip(at_rate["codec"], sortable_psnr(at_rate["psnr"]), strict=True))
    return sorted(codecs, key=lambda codec: -psnr.get(codec, -math.inf))


def with_curves(frame: pd.DataFrame, curves: Mapping[str, str]) -> pd.DataFrame:
    """Replace the codecs of the kind `trained` by the curves that they are points of.

    Args:
        frame: with columns `codec` and `kind`.
        curves: name of the curve of a codec.
    """
    is_trained = frame["kind"] == "trained"
    return frame.assign(codec=frame["codec"].where(~is_trained, frame["codec"].replace(dict(curves))))


def deltas_of(points: pd.DataFrame, anchors: Sequence[str], curves: Mapping[str, str]) -> pd.DataFrame:
    """Compute Bjontegaard's deltas of every curve against every anchor on each image.

    A curve has the lossy points of a codec, or the points of all weights of a model, each at the rate of its training.

    Args:
        points: of `points_of`.
        anchors: names of curves.
        curves: see `with_curves`.

    Returns:
        Columns `DELTAS`: anchor, codec (or curve), image, and the result of `bjontegaard_deltas`.
    """
    on_curves = with_curves(points[points["kind"].isin(CURVE_KINDS)], curves)
    found = {
        key: list(curve.dropna(subset="psnr")[["bpppc", "psnr"]].itertuples(index=False, name=None))
        for key, curve in on_curves.groupby(["codec", "image"], sort=False)
    }
    deltas = [
        {"anchor": anchor, "codec": codec, "image": image} | bjontegaard_deltas(found.get((anchor, image), ()), curve)
        for anchor in anchors
        for (codec, image), curve in found.items()
    ]
    return pd.DataFrame(deltas, columns=list(DELTAS)).astype(dict.fromkeys(("bd_rate", "bd_psnr", "overlap"), float))


def mean_bands(rows: Sequence[dict], rate: float | None, num_images: int) -> dict[str, list[float | None]]:
    """Average the PSNR of each band at a target rate over the images.

    Returns:
        PSNR of each band of a codec in dB, rounded to 1e-4; None for bands that are exact in some image. Empty if
        images differ in their number of bands, as equal indices are then different bands.
    """
    measured = [row for row in rows if "bpppc" in row]
    if len({row["bands"] for row in measured}) > 1:
        return {}
    found: dict[str, list] = {}
    for row in measured:
        if row["kind"] == "lossy" and row["target"] == rate:
            found.setdefault(row["codec"], []).append(row["band_psnr"])
    return {
        codec: [
            None if np.isnan(psnr) else round(psnr, 4) for psnr in np.mean(np.array(values, float), axis=0).tolist()
        ]
        for codec, values in found.items()
        if len(values) == num_images
    }
