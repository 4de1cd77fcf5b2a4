"""What `benchmark.py rd` writes: CompressAI's JSON, tables as CSV and Markdown.

A row is a point of one codec on one image, or the reason why there is none; see `coding.rd`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from .bjontegaard_delta import bjontegaard_deltas
from .files import atomic_write
from .rd_figures import write_figures
from .results import write_csv, write_json
from .speed import markdown_table, short

PUBLISHED = Path(__file__).with_name("published.csv")
METRICS = ("bpppc", "psnr", "ssim", "sa", "mse", "largest_error")
COSTS = (
    *("encoding_time", "decoding_time", "encoding_mbps", "decoding_mbps"),
    *("encoding_peak_mb", "decoding_peak_mb"),
)
NEAR = 0.03  # a rate further from the wanted one, as a share, is named in the table


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

        A figure that some image does not have, such as the PSNR of what is lossless, is None.
        """
        found = [row for row in self.of(codec, kind) if row["target"] == target]
        if len(found) < len(self.images):
            return None
        means = {}
        for key in (*METRICS, *COSTS):
            values = [row[key] for row in found]
            means[key] = None if None in values else sum(values) / len(values)
        means["largest_error"] = max(row["largest_error"] for row in found)
        return {"kind": kind, "target": target, **means}

    def means(self, codec: str) -> list[dict]:
        """All points that every image has, as means, by rate."""
        keys = {(row["kind"], row["target"]) for row in self.of(codec)}
        found = [mean for key in keys if (mean := self.mean(codec, *key))]
        return sorted(found, key=lambda mean: mean["bpppc"])


def write_report(
    folder: Path,
    rows: Sequence[dict],
    settings: dict,
    anchor: str,
    band_rate: float,
    images: Sequence[str],
    codecs: Sequence[str],
) -> str:
    """Write the files of a run; returns the text of rd.md.

    Args:
        folder: of the run.
        rows: points and notes.
        settings: of the run; `is_reflectance` says whether published figures may stand beside.
        anchor: codec of the Bjontegaard deltas.
        band_rate: in bpppc, of the table and figure at one rate; the wanted rate next to it is taken.
        images, codecs: names, in order.
    """
    results = Results(rows, images, codecs)
    rates = results.targets("lossy")
    rate = min(rates, key=lambda target: abs(target - band_rate)) if rates else None
    deltas = [
        {"codec": codec, "image": image, **deltas_of(results, codec, anchor, image)}
        for codec in results.codecs
        for image in images
        if results.of(codec, "lossy", image)
    ]
    bands = band_rows(results, rate)
    write_codecs(folder / "codecs", results, settings)
    if results.points:
        write_csv(folder / "points.csv", [_without_bands(row) for row in results.points])
    if deltas:
        write_csv(folder / "bd.csv", deltas)
    if bands:
        write_csv(folder / "bands.csv", bands)
    published = published_points() if settings["is_reflectance"] else []
    write_figures(folder, {codec: results.means(codec) for codec in results.codecs}, bands, rate, published)
    text = tables(results, settings, anchor, rate, deltas, published)
    with atomic_write(folder / "rd.md", "w") as file:
        file.write(text)
    return text


def published_points() -> list[dict]:
    """`model`, `method`, `bpppc` and `psnr` of what others published of the test set of HySpecNet-11k, easy split."""
    with open(PUBLISHED, encoding="utf-8", newline="") as file:
        return [
            {**{key: row[key] for key in ("model", "method")}, **{key: float(row[key]) for key in ("bpppc", "psnr")}}
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
    """PSNR of each band at a wanted rate, mean over the images; empty where a band is exact on one of them."""
    rows = []
    for codec in results.codecs:
        found = [row["band_psnr"] for row in results.of(codec, "lossy") if row["target"] == rate]
        if not found or len(found) < len(results.images):
            continue
        for band, values in enumerate(zip(*found, strict=False)):
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
        bands = max(row["bands"] for row in results.of(codec))
        values = {key: [mean[key] for mean in means] for key in ("kind", "target", *METRICS, *COSTS)}
        # By these names `python -m compressai.utils.plot` finds rate and PSNR.
        values = {**values, "bpp": [rate * bands for rate in values["bpppc"]], "psnr-rgb": values["psnr"]}
        path = folder / f"{codec.replace(' ', '-')}.json"
        description = f"{settings['name']}: means over {len(results.images)} images"
        write_json(path, {"name": codec, "description": description, "results": values, "settings": settings})
        written.add(path)
    for path in folder.glob("*.json"):
        if path not in written:
            path.unlink()


def _without_bands(row: dict) -> dict:
    return {key: value for key, value in row.items() if key != "band_psnr"}


# -- rd.md ----------------------------------------------------------------------------------------


def tables(
    results: Results, settings: dict, anchor: str, rate: float | None, deltas: list[dict], published: list[dict]
) -> str:
    """All of it in Markdown."""
    parts = [f"# Rate and distortion: {settings['name']}", _machine(settings), _protocol(settings, len(results.images))]
    lossy = [codec for codec in results.codecs if results.of(codec, "lossy")]
    at_rate = {codec: results.mean(codec, "lossy", rate) for codec in lossy}
    lossy.sort(key=lambda codec: -((at_rate[codec] or {}).get("psnr") or 0))
    if lossy:
        parts += [
            "## PSNR at wanted rates",
            f"In dB. Rates that are more than {NEAR:.0%} off the wanted one stand beside; – where the codec does not "
            "come within 15 %, or not on every image.",
            _rates_table(results, lossy),
            f"## At {rate:g} bpppc",
            _one_rate_table(lossy, at_rate),
            f"## Bjontegaard deltas against {anchor}",
            "Means over the images, by PSNR over what both curves have in common (Akima splines).",
            _deltas_table(lossy, deltas),
        ]
    parts += _lossless(results) + _bounded(results)
    float32 = [codec for codec in results.codecs if results.of(codec, "fixed")]
    if float32:
        cells = []
        for codec in float32:
            mean = results.mean(codec, "fixed", None)
            if mean:
                cells.append([codec, f"{mean['bpppc']:.3f}", _db(mean["psnr"]), _db(mean["sa"], 3), *_speeds(mean)])
        header = ("model", "bpppc", "PSNR dB", "spectral angle", "encode MB/s", "decode MB/s")
        parts += ["## Latents as float32, as published models count them", markdown_table(header, cells)]
    if published:
        cells = [[row["model"], row["method"], f"{row['bpppc']:.2f}", f"{row['psnr']:.2f}"] for row in published]
        parts += [
            "## Published, not measured here",
            "By their authors, on the test set of HySpecNet-11k, easy split: other images than those above, unless "
            "this run is of that split.",
            markdown_table(("model", "method", "bpppc", "PSNR dB"), cells),
        ]
    notes = _notes(results)
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


def _rates_table(results: Results, codecs: Sequence[str]) -> str:
    targets = results.targets("lossy")
    means = {codec: [results.mean(codec, "lossy", target) for target in targets] for codec in codecs}
    best = [
        max((mean["psnr"] for row in means.values() if (mean := row[index]) and mean["psnr"] is not None), default=None)
        for index in range(len(targets))
    ]
    cells = []
    for codec in codecs:
        line = [codec]
        for target, mean, top in zip(targets, means[codec], best, strict=True):
            if mean is None:
                line.append("–")
                continue
            text = _db(mean["psnr"])
            text = f"**{text}**" if mean["psnr"] is not None and mean["psnr"] == top else text
            line.append(text if abs(mean["bpppc"] / target - 1) <= NEAR else f"{text} at {mean['bpppc']:.3g}")
        cells.append(line)
    return markdown_table(["codec", *(f"{target:g} bpppc" for target in targets)], cells)


def _one_rate_table(codecs: Sequence[str], at_rate: dict) -> str:
    cells = []
    for codec in codecs:
        mean = at_rate[codec]
        if mean is None:
            continue
        cells.append(
            [
                codec,
                f"{mean['bpppc']:.3f}",
                _db(mean["psnr"]),
                _db(mean["ssim"], 4),
                _db(mean["sa"], 3),
                f"{mean['largest_error']:g}",
                *_speeds(mean),
                short(mean["encoding_peak_mb"]),
                short(mean["decoding_peak_mb"]),
            ]
        )
    header = (
        *("codec", "bpppc", "PSNR dB", "SSIM", "spectral angle", "largest error"),
        *("encode MB/s", "decode MB/s", "encode MB", "decode MB"),
    )
    return markdown_table(header, cells)


def _deltas_table(codecs: Sequence[str], deltas: Sequence[dict]) -> str:
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
    return markdown_table(("codec", "BD-rate", "of single images", "BD-PSNR dB", "images"), cells)


def _lossless(results: Results) -> list[str]:
    means = [(codec, mean) for codec in results.codecs if (mean := results.mean(codec, "lossless", None))]
    if not means:
        return []
    cells = [
        [codec, f"{mean['bpppc']:.3f}", f"{16 / mean['bpppc']:.2f}", *_speeds(mean)]
        for codec, mean in sorted(means, key=lambda item: item[1]["bpppc"])
    ]
    header = ("codec", "bpppc", "of 16 bits", "encode MB/s", "decode MB/s")
    return ["## Lossless", markdown_table(header, cells)]


def _bounded(results: Results) -> list[str]:
    parts = []
    for bound in results.targets("bounded"):
        means = [(codec, mean) for codec in results.codecs if (mean := results.mean(codec, "bounded", bound))]
        cells = [
            [codec, f"{mean['bpppc']:.3f}", f"{mean['largest_error']:g}", _db(mean["psnr"]), *_speeds(mean)]
            for codec, mean in sorted(means, key=lambda item: item[1]["bpppc"])
        ]
        header = ("codec", "bpppc", "largest error", "PSNR dB", "encode MB/s", "decode MB/s")
        parts += [f"## No error above {bound:g}", markdown_table(header, cells)]
    return parts


def _notes(results: Results) -> list[str]:
    """Why codecs have no points, each reason once."""
    count: dict[tuple, int] = {}
    for row in results.rows:
        if row.get("note"):
            what = row["kind"] if row["target"] is None else f"{row['kind']} {row['target']:g}"
            key = (row["codec"], what, row["note"])
            count[key] = count.get(key, 0) + 1
    return [f"- {codec}, {what}, {number} images: {note}" for (codec, what, note), number in count.items()]


def _speeds(mean: dict) -> list[str]:
    return [short(mean["encoding_mbps"]), short(mean["decoding_mbps"])]


def _db(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
