"""The report of `benchmark.py rd`: rd.json holds its figures, rd.md and the PNGs are drawn from that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.rd.figures import CAPTIONS, write_figures
from benchmarks.rd.results import (
    CONFIDENCE,
    NOTES,
    by_psnr,
    deltas_of,
    half_interval,
    incomplete_points,
    mean_bands,
    mean_points,
    merged_notes,
    notes_of,
    points_of,
    sortable_psnr,
    targets_of,
    with_curves,
    with_names,
)
from benchmarks.report import DASH, Columns, markdown_table, short, table
from utils.files import atomic_write
from utils.results import write_json

# Nothing here imports torch: drawing a report again must not wait for it.

PUBLISHED = Path(__file__).resolve().parents[2] / "models" / "published.csv"
SHARED = "~"
"""Mark of speeds that were measured while other workers shared the machine."""
NEAR = 0.03
"""Relative distance to the target beyond which the rates table names a point's own rate."""


def _psnr(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"


_CELLS: Columns = {
    "codec": ("codec", str),
    "model": ("model", str),
    "method": ("method", str),
    "reference": ("method's source", str),
    "point": ("point", str),
    "bpppc": ("bpppc", str),
    "published_bpppc": ("bpppc", "{:.2f}".format),
    "psnr": ("PSNR dB", str),
    "ssim": ("SSIM", "{:.4f}".format),
    "sa": ("spectral angle", "{:.3f}".format),
    "largest_error": ("largest error", "{:g}".format),
    "ratio_to_16_bits": ("16 / bpppc", "{:.2f}".format),
    "encoding_mbps": ("encode MB/s", str),
    "decoding_mbps": ("decode MB/s", str),
    "encoding_peak_mb": ("encode MB", short),
    "decoding_peak_mb": ("decode MB", short),
}
_SPEEDS = ("encoding_mbps", "decoding_mbps")


def write_report(
    folder: Path, rows: Sequence[dict], settings: dict, anchors: Sequence[str], band_rate: float, codecs: Sequence[str]
) -> Report:
    """Write rd.json of a run, and return its report.

    Args:
        folder: of the report.
        rows: points and notes.
        settings: of the run, with the names of its `images`.
        anchors: codecs that all others are compared with by Bjontegaard deltas.
        band_rate: in bpppc; the table and the figure at one rate use the nearest target.
        codecs: names, in order.
    """
    points = points_of(rows, codecs)
    targets = targets_of(points, "lossy")
    rate = min(targets, key=lambda target: abs(target - band_rate)) if targets else None
    content = {
        "name": settings["name"],
        "settings": settings,
        "rate": rate,
        "points": points.to_dict("split", index=False),
        "notes": notes_of(rows).to_dict("records"),
        "deltas": deltas_of(points, anchors, settings["curves"]).to_dict("split", index=False),
        "bands": mean_bands(rows, rate, len(settings["images"])),
    }
    write_json(folder / "rd.json", content)
    return Report(content)


class Report:
    """The results of a run as text, as pictures and as files for CompressAI.

    Args:
        content: of rd.json.
    """

    def __init__(self, content: dict) -> None:
        self.name, self.settings, self.rate = content["name"], content["settings"], content["rate"]
        self.num_images = len(self.settings["images"])
        points = pd.DataFrame(**content["points"])
        if "alone" not in points:  # an earlier report
            points["alone"] = self.settings["processes"] == 1
        self.points = with_names(points)
        self.notes = with_names(pd.DataFrame(content["notes"], columns=list(NOTES)))
        self.deltas = pd.DataFrame(**content["deltas"])
        self.bands = content["bands"]
        self.means = mean_points(self.points, self.num_images)
        self.codecs = by_psnr(self.means, list(self.points["codec"].unique()), self.rate)
        self.published = published_points() if self.settings["is_reflectance"] else published_points()[:0]

    def draw(self, folder: Path, per_image: bool = False) -> str:
        """Write rd.md and the figures into `folder`, and return the text of rd.md.

        Args:
            folder: of the report; old figures that now have no points are deleted.
            per_image: whether the text lists the points of each image, too.
        """
        means = with_curves(self.means, self.settings.get("curves", {}))
        codecs = list(dict.fromkeys([*self.codecs, *means["codec"]]))
        figures = write_figures(folder, means, codecs, self.bands, self.rate, self.published)
        text = self.text(figures, per_image)
        with atomic_write(folder / "rd.md", "w") as file:
            file.write(text)
        return text

    def export(self, folder: Path) -> None:
        """Write the means of each codec as a result file that `python -m compressai.utils.plot` reads."""
        for codec in self.codecs:
            means = self.means[self.means["codec"] == codec].drop(columns="codec")
            if len(means):
                content = {
                    "name": codec,
                    "description": f"{self.name}: means over {self.num_images} images",
                    "results": means.to_dict("list"),
                    "settings": self.settings,
                }
                write_json(folder / f"{codec.replace(' ', '-')}.json", content)

    # -- rd.md ----------------------------------------------------------------------------------

    def text(self, figures: Sequence[str], per_image: bool) -> str:
        """Return the report in Markdown.

        Args:
            figures: names of those that were drawn.
            per_image: whether to list the points of each image, too.
        """
        parts = [f"# Rate and distortion: {self.name}", self._machine(), self._protocol(), *self._lossy()]
        parts += self._deltas()
        for title, frame, columns in self._sections(per_image):
            if len(frame):
                parts += [title, _table(frame, *columns)]
        if figures:
            parts += ["## Figures", *(f"![{CAPTIONS[name]}]({name}.png)" for name in figures)]
        left_out = self._left_out()
        if left_out:
            parts += ["## Left out", "\n".join(left_out)]
        return "\n\n".join(parts) + "\n"

    def _machine(self) -> str:
        settings = self.settings
        versions = ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
        workers = f"{settings['processes']} processes" if settings["processes"] else "a cluster"
        if "core_hours" in settings:
            workers += f", {settings['core_hours']:.3g} core-hours in total"
        return f"{settings['device']}, {workers}; {versions}; commit {settings['git_commit']}"

    def _protocol(self) -> str:
        settings = self.settings
        source = "files"
        if settings["dataset"]:
            source = f"{settings['dataset']}, {settings['mode']} {settings['split']} split"
        if settings.get("sample_seed") is not None:
            source += f", a random part by seed {settings['sample_seed']}"
        samples = f"Original integers; peak {settings['peak']:g}"
        if settings["is_reflectance"]:
            samples = "Reflectances in [0, 1], given to the codecs as digital numbers"
        return (
            f"{self.num_images} images ({source}). {samples}. Rates are 8 * bytes / samples, the mask and all side "
            "information included. Every metric is computed for each image and averaged over the images; samples "
            f"without data count in none. ±: half the {100 * CONFIDENCE:.0f} % confidence interval of the mean over "
            "images (Student's t). MB/s count the samples as given (two bytes each, four for floats). "
            f"{SHARED}: measured while others shared the machine; other speeds are from images measured alone. Memory "
            "is that of the codec, without the image."
        )

    def _lossy(self) -> list[str]:
        lossy = set(self.points.loc[self.points["kind"] == "lossy", "codec"])
        codecs = [codec for codec in self.codecs if codec in lossy]
        if not codecs:
            return []
        at_rate = self._means("lossy", self.rate).set_index("codec", drop=False)
        return [
            "## PSNR at target rates",
            f"In dB. A rate more than {100 * NEAR:g} % off its target is given after the PSNR; the best of the others "
            "is bold. ∞: at least one image is decoded exactly. –: on at least one image no rate is within 15 % of the "
            "target.",
            self._rates_table(codecs),
            f"## At {self.rate:g} bpppc",
            _table(
                at_rate.loc[[codec for codec in codecs if codec in at_rate.index]],
                *("codec", "bpppc", "psnr", "ssim", "sa", "largest_error"),
                *_SPEEDS,
                *("encoding_peak_mb", "decoding_peak_mb"),
            ),
        ]

    def _deltas(self) -> list[str]:
        found = self.deltas["codec"].unique()
        curves = [codec for codec in dict.fromkeys([*self.codecs, *found]) if codec in found]
        if not curves:
            return []
        parts = [
            "## Bjontegaard deltas",
            "Means over the images, over the range of PSNR that both curves share (Akima splines). A curve has the "
            "points whose PSNR is finite and above the PSNR of all lower rates; that of a model with an entropy model "
            "has a point for each of its weights.",
        ]
        anchors = list(self.deltas["anchor"].unique())
        for anchor in anchors:
            parts += [f"### Against {anchor}", _deltas_table(self.deltas[self.deltas["anchor"] == anchor], curves)]
        if len(anchors) > 1:
            best = self.deltas.sort_values("bd_rate", ascending=False, kind="stable")
            best = best.drop_duplicates(["codec", "image"])
            title = f"### On each image against the best of {', '.join(anchors)}"
            parts += [title, _deltas_table(best, curves)]
        return parts

    def _rates_table(self, codecs: Sequence[str]) -> str:
        means = self._means("lossy")
        near = (means["bpppc"] / means["target"] - 1).abs() <= NEAR
        psnr = sortable_psnr(means["psnr"])
        # More bits buy more decibels: points off their target rate do not compete.
        is_best = near & (psnr == psnr.where(near).groupby(means["target"]).transform("max"))
        rates = pd.Series([f"{rate:.3g}" for rate in means["bpppc"]], means.index, dtype=object)
        text = _with_interval(means.assign(psnr=psnr), "psnr", _psnr)
        text = text.where(near, text + " at " + rates)
        text = text.where(~is_best, "**" + text + "**")
        cells = means.assign(text=text).pivot(index="codec", columns="target", values="text")
        cells = cells.reindex(index=list(codecs), columns=targets_of(self.points, "lossy")).fillna(DASH)
        return markdown_table(["codec", *(f"{rate:g} bpppc" for rate in cells)], cells.itertuples(name=None))

    def _sections(self, per_image: bool) -> Iterator[tuple[str, pd.DataFrame, tuple[str, ...]]]:
        """Yield title, rows and columns of the tables of all points but the lossy ones."""
        yield "## Lossless", self._means("lossless"), ("codec", "bpppc", "ratio_to_16_bits", *_SPEEDS)
        for bound in targets_of(self.points, "bounded"):
            title = f"## No error above {bound:g}"
            yield title, self._means("bounded", bound), ("codec", "bpppc", "largest_error", "psnr", *_SPEEDS)
        title = "## Latents as float32, as published models count them"
        yield title, self._means("fixed"), ("codec", "bpppc", "psnr", "sa", *_SPEEDS)
        title = "## Learned steps: each weights at the rate of their training"
        yield title, self._means("trained"), ("codec", "bpppc", "psnr", "sa", "largest_error", *_SPEEDS)
        title = "## Latents quantized, with a PSNR up to 0.1 dB lower"
        yield title, self._means("quantized"), ("codec", "bpppc", "psnr", "sa", "largest_error", *_SPEEDS)
        if per_image:
            for image, points in self.points.groupby("image", sort=False):
                yield f"## {image}", points, ("codec", "point", "bpppc", "psnr", "largest_error", *_SPEEDS)
        title = (
            "## Published, not measured here\n\n"
            "By their authors, on the HySpecNet-11k test set, easy split: not the images above, unless this run uses "
            "that split."
        )
        yield title, self.published, ("model", "method", "published_bpppc", "psnr", "reference")

    def _left_out(self) -> list[str]:
        incomplete = incomplete_points(self.points, self.num_images)
        lines = [
            f"- {codec}, {point}: on {count} of {self.num_images} images only, not averaged"
            for codec, point, count in incomplete.itertuples(index=False)
        ]
        return lines + merged_notes(self.notes)

    def _means(self, kind: str, target: float | None = None) -> pd.DataFrame:
        means = self.means[self.means["kind"] == kind]
        return means if target is None else means[means["target"] == target]


def published_points() -> pd.DataFrame:
    """Return the published results on the test set of HySpecNet-11k, easy split.

    Returns:
        Columns `model`, `method`, `reference` (of the method), `bpppc` and `psnr` (dB) among others.
    """
    table = pd.read_csv(PUBLISHED)
    return table.assign(published_bpppc=table["bpppc"])


# -- tables -------------------------------------------------------------------------------------


def _table(frame: pd.DataFrame, *columns: str) -> str:
    texts = {name: _speed_text(frame, name) for name in _SPEEDS if name in frame}
    texts["psnr"] = _with_interval(frame.assign(psnr=sortable_psnr(frame["psnr"])), "psnr", _psnr)
    texts["bpppc"] = _with_interval(frame, "bpppc", "{:.3f}".format)
    frame = frame.assign(ratio_to_16_bits=16 / frame["bpppc"]).assign(**texts)
    return table(frame, {column: _CELLS[column] for column in columns})


def _with_interval(frame: pd.DataFrame, column: str, form: Callable[[float], str]) -> pd.Series:
    """Return the texts of a column, with half the interval after means of three or more images that differ."""
    halves = frame.get(f"{column}_interval", pd.Series(math.nan, frame.index))
    texts = [
        f"{form(value)} ± {form(half)}" if float(form(half)) > 0 else form(value)  # not for NaN
        for value, half in zip(frame[column], halves, strict=True)
    ]
    return pd.Series(texts, frame.index, dtype=object)  # not `map`: there may be none


def _speed_text(frame: pd.DataFrame, column: str) -> pd.Series:
    texts = [
        ("" if alone else SHARED) + short(value) if math.isfinite(value) else DASH
        for value, alone in zip(frame[column], frame["alone"], strict=True)
    ]
    return pd.Series(texts, frame.index, dtype=object)


def _deltas_table(deltas: pd.DataFrame, codecs: Sequence[str]) -> str:
    found = deltas.groupby("codec").agg(
        rate=("bd_rate", "mean"),
        low=("bd_rate", "min"),
        high=("bd_rate", "max"),
        half=("bd_rate", half_interval),
        gain=("bd_psnr", "mean"),
        known=("bd_rate", "count"),
        total=("bd_rate", "size"),
        reasons=("reason", lambda reasons: ", ".join(sorted(set(reasons)))),
    )
    cells = []
    for codec in codecs:
        row = found.loc[codec]
        if row["known"]:
            single = f"{row['low']:+.1f} to {row['high']:+.1f} %"
            counts = f"{row['known']} of {row['total']}"
            rate = f"{row['rate']:+.1f} %"
            if pd.notna(row["half"]):
                rate = f"{row['rate']:+.1f} ± {row['half']:.1f} %"
            cells.append([codec, rate, single, f"{row['gain']:+.2f}", counts])
        else:
            cells.append([codec, DASH, DASH, DASH, f"0 of {row['total']}: {row['reasons']}"])
    return markdown_table(("codec", "BD-rate", "of single images", "BD-PSNR dB", "images"), cells)
