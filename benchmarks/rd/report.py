"""What `benchmark.py rd` writes: CompressAI's JSON, tables as CSV and Markdown.

A row is a point of one codec on one image, or the reason why there is none; see `benchmarks.rd.points`.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rd.bjontegaard import bjontegaard_deltas
from benchmarks.rd.figures import write_figures
from utils.files import atomic_write
from utils.results import write_csv, write_json

# What needs torch is imported where it is used: reading a report's tables must not wait for it.

PUBLISHED = Path(__file__).resolve().parents[2] / "models" / "published.csv"
METRICS = ("bpppc", "psnr", "ssim", "sa", "mse", "largest_error")
SPEEDS = ("encoding_mbps", "decoding_mbps")
MEMORY = ("encoding_peak_mb", "decoding_peak_mb")
COSTS = ("encoding_time", "decoding_time", *SPEEDS, *MEMORY)
NEAR = 0.03  # a rate further from the wanted one, as a share, is named in the table
_DECIMAL = re.compile(r"\d+\.\d+")


class Results:
    """The rows of a run.

    Args:
        rows: of all codecs and images.
        images: names, in order.
        codecs: names, in order.
    """

    def __init__(self, rows: Sequence[dict], images: Sequence[str], codecs: Sequence[str]):
        # What the latents of a learned model take as float32 is no point of its curve.
        self.rows = [{**row, "codec": f"{row['codec']} float32"} if row["kind"] == "fixed" else row for row in rows]
        names = [name for codec in codecs for name in (codec, f"{codec} float32")]
        self.images = list(images)
        self.points = [row for row in self.rows if "bpppc" in row]
        self.codecs = [name for name in names if any(row["codec"] == name for row in self.points)]

    def of(self, codec: str, kind: str | None = None, image: str | None = None) -> list[dict]:
        """The points of a codec, by rate."""
        found = [
            row
            for row in self.points
            if row["codec"] == codec and kind in (None, row["kind"]) and image in (None, row["image"])
        ]
        return sorted(found, key=lambda row: row["bpppc"])

    def targets(self, kind: str) -> list:
        """What points of a kind aimed at, in order."""
        return sorted({row["target"] for row in self.points if row["kind"] == kind})

    def mean(self, codec: str, kind: str, target: float | None) -> dict | None:
        """Means over the images of the points at a target; None where an image has none.

        A figure that some image does not have, such as the PSNR of what is lossless, is None. `largest_error` is
        that of all images.
        """
        found = [row for row in self.of(codec, kind) if row["target"] == target]
        if len(found) < len(self.images):
            return None
        means = {}
        for key in (*METRICS, *COSTS):
            values = [row[key] for row in found]
            means[key] = None if None in values else sum(values) / len(values)
        means["largest_error"] = max(row["largest_error"] for row in found)
        # By these names `python -m compressai.utils.plot` finds rate and PSNR.
        means["bpp"] = sum(row["bpppc"] * row["bands"] for row in found) / len(found)
        means["psnr-rgb"] = means["psnr"]
        return {"kind": kind, "target": target, **means}

    def means(self, codec: str) -> list[dict]:
        """All points that every image has, as means, by rate."""
        keys = {(row["kind"], row["target"]) for row in self.of(codec)}
        found = [mean for key in keys if (mean := self.mean(codec, *key))]
        return sorted(found, key=lambda mean: mean["bpppc"])

    def by_psnr(self, rate: float | None) -> list[str]:
        """The codecs, the best at a wanted rate first, those without a point there last."""
        means = {codec: self.mean(codec, "lossy", rate) for codec in self.codecs}
        return sorted(self.codecs, key=lambda codec: -_height(means[codec]))

    def incomplete(self) -> list[tuple[str, str, int]]:
        """Codec, point and number of images of the points that some images have and others have not."""
        count: dict[tuple[str, str], int] = {}
        for row in self.points:
            key = (row["codec"], _name_of_point(row))
            count[key] = count.get(key, 0) + 1
        return [(*key, number) for key, number in count.items() if number < len(self.images)]


def write_report(
    folder: Path,
    rows: Sequence[dict],
    settings: dict,
    anchors: Sequence[str],
    band_rate: float,
    images: Sequence[str],
    codecs: Sequence[str],
) -> str:
    """Write the files of a run; returns the text of rd.md. Of an earlier report nothing stays that this one lacks.

    Args:
        folder: of the run.
        rows: points and notes.
        settings: of the run; `is_reflectance` says whether published figures may stand beside.
        anchors: codecs that the others have Bjontegaard deltas against.
        band_rate: in bpppc, of the table and figure at one rate; the wanted rate next to it is taken.
        images, codecs: names, in order.
    """
    results = Results(rows, images, codecs)
    rates = results.targets("lossy")
    rate = min(rates, key=lambda target: abs(target - band_rate)) if rates else None
    deltas = [
        {"anchor": anchor, "codec": codec, "image": image, **deltas_of(results, codec, anchor, image)}
        for anchor in anchors
        for codec in results.codecs
        for image in images
        if results.of(codec, "lossy", image)
    ]
    bands = band_rows(results, rate)
    write_codecs(folder / "codecs", results, settings)
    _write_table(folder / "points.csv", [_without_bands(row) for row in results.points])
    _write_table(folder / "bd.csv", deltas)
    _write_table(folder / "bands.csv", bands)
    published = published_points() if settings["is_reflectance"] else []
    write_figures(folder, {codec: results.means(codec) for codec in results.by_psnr(rate)}, bands, rate, published)
    text = tables(results, settings, rate, deltas, published)
    with atomic_write(folder / "rd.md", "w") as file:
        file.write(text)
    return text


def published_points() -> list[dict]:
    """What others published of the test set of HySpecNet-11k, easy split.

    Returns:
        Rows `model`, `method`, `reference` (of the method), `bpppc` and `psnr` (dB).
    """
    with open(PUBLISHED, encoding="utf-8", newline="") as file:
        return [
            {
                **{key: row[key] for key in ("model", "method", "reference")},
                **{key: float(row[key]) for key in ("bpppc", "psnr")},
            }
            for row in csv.DictReader(file)
        ]


def deltas_of(results: Results, codec: str, anchor: str, image: str) -> dict:
    """Bjontegaard's deltas between the lossy points of two codecs that have a finite PSNR."""
    curves = [
        [(row["bpppc"], row["psnr"]) for row in results.of(name, "lossy", image) if row["psnr"] is not None]
        for name in (anchor, codec)
    ]
    return bjontegaard_deltas(*curves)


def band_rows(results: Results, rate: float | None) -> list[dict]:
    """PSNR of each band at a wanted rate, mean over the images; empty where a band is exact on one of them.

    None of images whose numbers of bands differ: bands of the same number are not the same then.
    """
    if len({row["bands"] for row in results.points}) > 1:
        return []
    rows = []
    for codec in results.codecs:
        found = [row["band_psnr"] for row in results.of(codec, "lossy") if row["target"] == rate]
        if not found or len(found) < len(results.images):
            continue
        for band, values in enumerate(zip(*found, strict=True)):
            mean = None if None in values else sum(values) / len(values)
            rows.append({"codec": codec, "band": band, "psnr": mean})
    return rows


def write_codecs(folder: Path, results: Results, settings: dict) -> None:
    """One JSON a codec in CompressAI's format, and nothing else in `folder`."""
    written = set()
    for codec in results.codecs:
        means = results.means(codec)
        if not means:
            continue
        values = {key: [mean[key] for mean in means] for key in means[0]}
        path = folder / f"{codec.replace(' ', '-')}.json"
        description = f"{settings['name']}: means over {len(results.images)} images"
        write_json(path, {"name": codec, "description": description, "results": values, "settings": settings})
        written.add(path)
    for path in folder.glob("*.json"):
        if path not in written:
            path.unlink()


def _write_table(path: Path, rows: Sequence[dict]) -> None:
    if rows:
        write_csv(path, rows)
    else:
        path.unlink(missing_ok=True)


def _without_bands(row: dict) -> dict:
    return {key: value for key, value in row.items() if key != "band_psnr"}


# -- rd.md ----------------------------------------------------------------------------------------


def tables(results: Results, settings: dict, rate: float | None, deltas: list[dict], published: list[dict]) -> str:
    """All of it in Markdown."""
    from benchmarks.speed.measure import markdown_table

    parts = [f"# Rate and distortion: {settings['name']}", _machine(settings), _protocol(settings, len(results.images))]
    lossy = [codec for codec in results.by_psnr(rate) if results.of(codec, "lossy")]
    at_rate = {codec: results.mean(codec, "lossy", rate) for codec in lossy}
    if lossy:
        parts += [
            "## PSNR at wanted rates",
            f"In dB. Rates that are more than {100 * NEAR:g} % off the wanted one stand beside; the best of the others "
            "is bold. ∞ where an image came out exact; – where the codec does not come within 15 %, or not on every "
            "image.",
            markdown_table(*_rates_table(results, lossy)),
            f"## At {rate:g} bpppc",
            markdown_table(*_one_rate_table(lossy, at_rate)),
            "## Bjontegaard deltas",
            "Means over the images, by PSNR over what both curves have in common (Akima splines). Of each curve the "
            "points count that have a finite PSNR above that of all lower rates.",
        ]
        for title, rows in _by_anchor(deltas):
            parts += [title, markdown_table(*_deltas_table(lossy, rows))]
    for title, table in _lossless(results) + _bounded(results):
        parts += [title, markdown_table(*table)]
    float32 = [codec for codec in results.codecs if results.of(codec, "fixed")]
    if float32:
        cells = []
        for codec in float32:
            mean = results.mean(codec, "fixed", None)
            if mean:
                figures = [f"{mean['bpppc']:.3f}", _psnr(mean), _fixed(mean["sa"], 3)]
                cells.append([codec, *figures, *_costs(mean, *SPEEDS)])
        header = ("model", "bpppc", "PSNR dB", "spectral angle", "encode MB/s", "decode MB/s")
        parts += ["## Latents as float32, as published models count them", markdown_table(header, cells)]
    if published:
        cells = [
            [row["model"], row["method"], f"{row['bpppc']:.2f}", f"{row['psnr']:.2f}", row["reference"]]
            for row in published
        ]
        parts += [
            "## Published, not measured here",
            "By their authors, on the test set of HySpecNet-11k, easy split: other images than those above, unless "
            "this run is of that split.",
            markdown_table(("model", "method", "bpppc", "PSNR dB", "method's source"), cells),
        ]
    notes = [
        f"- {codec}, {what}: on {number} of {len(results.images)} images only, in no mean"
        for codec, what, number in results.incomplete()
    ]
    notes += _notes(results)
    if notes:
        parts += ["## Left out", "\n".join(notes)]
    return "\n\n".join(parts) + "\n"


def _machine(settings: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
    return f"{settings['device']}, {settings['processes']} processes; {versions}; commit {settings['git_commit']}"


def _protocol(settings: dict, count: int) -> str:
    of = f"{settings['dataset']}, {settings['mode']} {settings['split']} split" if settings["dataset"] else "files"
    values = (
        "Reflectances in [0, 1], given to the codecs as digital numbers"
        if settings["is_reflectance"]
        else f"Original integers; peak {settings['peak']:g}"
    )
    return (
        f"{count} images ({of}). {values}. Rates are 8 * bytes / samples of what a codec wrote, mask and all side "
        "information included; every metric is that of an image, then averaged over the images; samples without data "
        "count in none. MB/s are of the samples as given (two bytes each, four of floats), of single-threaded codecs "
        "with as many processes beside each other as stated. Memory is what a codec takes beside the image."
    )


def _rates_table(results: Results, codecs: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    columns = []
    for target in results.targets("lossy"):
        means = [results.mean(codec, "lossy", target) for codec in codecs]
        is_near = [mean is not None and abs(mean["bpppc"] / target - 1) <= NEAR for mean in means]
        # More bits buy more decibels: who took them is not the best.
        best = max((_height(mean) for mean, near in zip(means, is_near, strict=True) if near), default=None)
        column = [f"{target:g} bpppc"]
        for mean, near in zip(means, is_near, strict=True):
            text = "–" if mean is None else _psnr(mean)
            if near:
                column.append(f"**{text}**" if _height(mean) == best else text)
            else:
                column.append(text if mean is None else f"{text} at {mean['bpppc']:.3g}")
        columns.append(column)
    header, *cells = map(list, zip(["codec", *codecs], *columns, strict=True))
    return header, cells


def _one_rate_table(codecs: Sequence[str], at_rate: dict) -> tuple[tuple[str, ...], list[list[str]]]:
    cells = []
    for codec in codecs:
        mean = at_rate[codec]
        if mean is None:
            continue
        quality = [_psnr(mean), _fixed(mean["ssim"], 4), _fixed(mean["sa"], 3), f"{mean['largest_error']:g}"]
        cells.append([codec, f"{mean['bpppc']:.3f}", *quality, *_costs(mean, *SPEEDS, *MEMORY)])
    header = (
        *("codec", "bpppc", "PSNR dB", "SSIM", "spectral angle", "largest error"),
        *("encode MB/s", "decode MB/s", "encode MB", "decode MB"),
    )
    return header, cells


def _by_anchor(deltas: Sequence[dict]) -> list[tuple[str, list[dict]]]:
    """Title and rows for each anchor, and of several for the one that is the best on an image."""
    anchors = list(dict.fromkeys(row["anchor"] for row in deltas))
    parts = [(f"### Against {anchor}", [row for row in deltas if row["anchor"] == anchor]) for anchor in anchors]
    if len(anchors) > 1:
        best = {}
        for row in deltas:
            key = row["codec"], row["image"]
            if key not in best or _saving(row) < _saving(best[key]):
                best[key] = row
        title = f"### Against the one of {', '.join(anchors)} that leaves least to gain on an image"
        parts.append((title, list(best.values())))
    return parts


def _saving(row: dict) -> float:
    """By how many percent a codec is below an anchor; where that is not known, more than any."""
    return math.inf if row["bd_rate"] is None else -row["bd_rate"]


def _deltas_table(codecs: Sequence[str], deltas: Sequence[dict]) -> tuple[tuple[str, ...], list[list[str]]]:
    cells = []
    for codec in codecs:
        found = [row for row in deltas if row["codec"] == codec]
        rates = [row["bd_rate"] for row in found if row["bd_rate"] is not None]
        if not rates:
            reasons = ", ".join(sorted({row["reason"] for row in found}))
            cells.append([codec, "–", "–", "–", f"0 of {len(found)}: {reasons}"])
            continue
        gains = [row["bd_psnr"] for row in found if row["bd_psnr"] is not None]
        cells.append(
            [
                codec,
                f"{sum(rates) / len(rates):+.1f} %",
                f"{min(rates):+.1f} to {max(rates):+.1f} %",
                f"{sum(gains) / len(gains):+.2f}",
                f"{len(rates)} of {len(found)}",
            ]
        )
    return ("codec", "BD-rate", "of single images", "BD-PSNR dB", "images"), cells


def _lossless(results: Results) -> list[tuple]:
    """Title and table, if there is one."""
    means = [(codec, mean) for codec in results.codecs if (mean := results.mean(codec, "lossless", None))]
    if not means:
        return []
    cells = [
        [codec, f"{mean['bpppc']:.3f}", f"{16 / mean['bpppc']:.2f}", *_costs(mean, *SPEEDS)]
        for codec, mean in sorted(means, key=lambda item: item[1]["bpppc"])
    ]
    header = ("codec", "bpppc", "of 16 bits", "encode MB/s", "decode MB/s")
    return [("## Lossless", (header, cells))]


def _bounded(results: Results) -> list[tuple]:
    """Title and table of each bound."""
    parts = []
    for bound in results.targets("bounded"):
        means = [(codec, mean) for codec in results.codecs if (mean := results.mean(codec, "bounded", bound))]
        cells = [
            [codec, f"{mean['bpppc']:.3f}", f"{mean['largest_error']:g}", _psnr(mean), *_costs(mean, *SPEEDS)]
            for codec, mean in sorted(means, key=lambda item: item[1]["bpppc"])
        ]
        header = ("codec", "bpppc", "largest error", "PSNR dB", "encode MB/s", "decode MB/s")
        if cells:
            parts.append((f"## No error above {bound:g}", (header, cells)))
    return parts


def _notes(results: Results) -> list[str]:
    """Why codecs have no points, each reason once; of figures that differ from image to image the range."""
    found: dict[tuple, list[str]] = {}
    for row in results.rows:
        if row.get("note"):
            note = _without_folders(row["note"])
            found.setdefault((row["codec"], _name_of_point(row), _DECIMAL.sub("", note)), []).append(note)
    return [f"- {codec}, {what}, {len(notes)} images: {_merged(notes)}" for (codec, what, _), notes in found.items()]


def _merged(notes: Sequence[str]) -> str:
    """One note for those that differ in their decimals only: from the least to the greatest of each."""
    ranges = []
    for numbers in zip(*map(_DECIMAL.findall, notes), strict=True):
        low, high = min(numbers, key=float), max(numbers, key=float)
        ranges.append(low if low == high else f"{low} to {high}")
    remaining = iter(ranges)
    return _DECIMAL.sub(lambda _: next(remaining), notes[0])


def _without_folders(text: str) -> str:
    """An error may name a file: a report goes to others, whom its folder is of no use to."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\"]+/)+", "", text)


def _name_of_point(row: dict) -> str:
    return row["kind"] if row["target"] is None else f"{row['kind']} {row['target']:g}"


def _height(mean: dict | None) -> float:
    """PSNR to sort by: that of an exact image is infinite, and so is a mean with it."""
    if mean is None:
        return -math.inf
    return math.inf if mean["psnr"] is None else mean["psnr"]


def _psnr(mean: dict) -> str:
    return "∞" if mean["psnr"] is None else f"{mean['psnr']:.2f}"


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _costs(mean: dict, *keys: str) -> list[str]:
    from benchmarks.speed.measure import short

    return [short(mean[key]) for key in keys]
