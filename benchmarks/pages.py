"""Write the results in README.md and docs/ from the reports, so that no number is typed by hand (`make docs`).

A page marks a block by `<!-- results: NAME -->` and `<!-- end -->`; the text between them is the output of the
function of that name in `BLOCKS`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.ablation import tables as ablation_tables
from benchmarks.curves import curves_table
from benchmarks.learned import tables as learned_tables
from benchmarks.rd.report import Report
from benchmarks.rd.results import FLOAT32_SUFFIX
from benchmarks.report import DASH, NAMED_REPORTS, markdown_table, read_report, short
from utils.errors import ProjectError
from utils.files import atomic_write
from utils.scripts import run_script

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/benchmarks.md", "docs/results.md", "docs/klt-cm.md")
LAND, SCENES, LEARNED, GPU = "rd-land", "rd-seven-scenes", "rd-learned", "speed-h100"
README_RATES = (0.1, 0.5, 2.0)  # bpppc
README_CODECS = ("klt-cm", "klt-jpeg2000", "sperr", "cae1d")
STANDARD, TUNED_STANDARD = "ccsds123", "ccsds123-tuned"
SCENE_LABELS = ("water 1", "water 2", "land 1", "land 2", "land 3", "Indian Pines", "ABU urban-4")
"""Column headings of the images of `SCENES`, in order."""
TEST_PATCHES, PATCH_MEGABYTES = 1148, 2 * 202 * 128 * 128 / 1e6
SEARCH_ENCODINGS = 3
"""Encodings that the search for a rate takes: 1.8 to 3.0 for each of six rates, counted on a land patch."""
REPEATED_SECONDS = 2.0
"""Encoding and decoding that are not longer are timed three times, see `benchmarks.rd.points`."""
METRIC_SECONDS = 0.4
"""CPU time of the metrics of a patch on a core of the same machine."""
CLUSTERS = {"one core": 1, "64 cores": 64, "16 nodes of 64 cores": 1024}
_BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the blocks of all pages, and return the exit status."""
    argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__).parse_args(argv)
    for page in PAGES:
        text = fill_blocks((ROOT / page).read_text(encoding="utf-8"))
        with atomic_write(ROOT / page, "w") as file:
            file.write(text)
        print(f"written: {page}")
    return 0


def fill_blocks(text: str) -> str:
    """Return a page's text with the output of `BLOCKS` between its markers."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{_block(match[2])}\n\n{match[3]}", text)


class MissingReport(ProjectError):
    """A report that a page shows has not been measured yet."""


def _block(name: str) -> str:
    try:
        return BLOCKS[name]().strip()
    except MissingReport:
        return "Not measured yet."


# -- README ---------------------------------------------------------------------------------------


def headline() -> str:
    """Return the headline results."""
    scenes = read_rd(SCENES)
    gain = best_deltas(scenes).loc["klt-cm"].mean()
    rows = cpu_speed()
    coding = rows[(rows["model"] == "cae1d") & (rows["work"] == "encode+decode") & (rows["precision"] == "fp32")]
    gpu = pd.DataFrame(content_of(GPU)["gpu"])
    training = gpu[(gpu["model"] == "cae1d") & (gpu["work"] == "train") & (gpu["form"] == "ours, bf16")]
    return "\n".join(
        [
            f"- **{gain:+.1f} % rate** at equal PSNR: `klt-cm` against the best of three other Karhunen-Loeve codecs, "
            "mean of seven scenes.",
            standard_headline(scenes),
            f"- **Training {training['speedup'].iloc[0]:.0f} times as fast** as the textbook form: `cae1d` in bf16 "
            f"on an H100;\n  coding {coding['speedup'].iloc[0]:.1f} times as fast, in float32 on two CPU cores.",
        ]
    )


def standard_headline(report: Report) -> str:
    """Return the rates of klt-cm and CCSDS 123.0-B-2, the latter tuned for each image if the report has that."""
    best = best_standard(report)
    rate, standard_rate = (mean_rate(report, codec, "lossless") for codec in ("klt-cm", best))
    tuned = ", tuned for each," if best == TUNED_STANDARD else ""
    text = (
        f"- **{rate:.2f} bits per sample** lossless on these scenes, where CCSDS 123.0-B-2{tuned} takes "
        f"{standard_rate:.2f}"
    )
    if not tuned:
        return text + "."
    saved = bounded_margins(report).mean()
    bounds, percents = " / ".join(f"{bound:g}" for bound in saved.index), " / ".join(f"{-value:.0f}" for value in saved)
    return f"{text};\n  with no error above {bounds}, {percents} % fewer bits than it."


def codecs() -> str:
    """Return the PSNR of a few codecs at three rates on land, and their lossless rates."""
    report = read_rd(LAND)
    cells = []
    for codec in (*README_CODECS, best_standard(report)):
        means = report.means[report.means["codec"] == codec]
        lossy = means[means["kind"] == "lossy"].set_index("target")["psnr"]
        lossless = means.loc[means["kind"] == "lossless", "bpppc"]
        psnrs = [f"{lossy[rate]:.2f}" if rate in lossy.index else DASH for rate in README_RATES]
        cells.append([f"`{codec}`", *psnrs, f"{lossless.iloc[0]:.3f}" if len(lossless) else DASH])
    columns = [f"{rate:g} bpppc" for rate in README_RATES]
    header = ["PSNR in dB on land (three EnMAP patches)", *columns, "lossless, bpppc"]
    return markdown_table(header, cells)


# -- docs/results.md ------------------------------------------------------------------------------


def index() -> str:
    """Return the list of all reports with their commands."""
    parts = []
    for folder in sorted(path for path in NAMED_REPORTS.iterdir() if path.is_dir()):
        content = content_of(folder.name)
        settings = content["settings"]
        device = settings.get("device") or "; ".join(settings.get("devices", {}).values())
        parts.append(
            f"- [{folder.name}](../results/benchmarks/{folder.name}/): {device}, commit `{settings['git_commit'][:12]}`"
            f"\n\n  ```bash\n  {settings['command']}\n  ```"
        )
    return "\n\n".join(parts)


def land() -> str:
    """Return the tables of the land report."""
    return _sections(LAND, ("PSNR at target rates", "Lossless", "No error above 10", "Latents"))


def scenes() -> str:
    """Return BD-rates, lossless and bounded rates on each of the seven scenes."""
    report = read_rd(SCENES)
    images = report.settings["images"]
    rows = []
    found, compared = set(report.points["codec"]), ("klt-cm", STANDARD, TUNED_STANDARD)
    targets = [("lossless", "lossless", None)]
    targets += [(f"no error above {bound:g}", "bounded", bound) for bound in report.settings["bounds"]]
    deltas = best_deltas(report)
    anchors = ", ".join(f"`{anchor}`" for anchor in report.deltas["anchor"].unique())
    rows.append(
        ["`klt-cm`, BD-rate against the best of the others", *_cells(deltas.loc["klt-cm", images], "{:+.1f} %")]
    )
    for title, kind, target in targets:
        names = [name for name in (*compared, *(("jpegxl", "jpegls") if kind == "lossless" else ())) if name in found]
        rows += [[f"{title}, `{name}`", *_cells(rates(report, name, kind, target)[images], "{:.3f}")] for name in names]
    if TUNED_STANDARD in found:
        for bound, saved in bounded_margins(report).items():
            title = f"no error above {bound:g}, `klt-cm` against `{TUNED_STANDARD}`"
            rows.append([title, *_cells(saved[images], "{:+.1f} %")])
    note = f"BD-rates at equal PSNR are against the best of {anchors} on each scene; other rows are bits per sample."
    return f"{note}\n\n{markdown_table(['', *SCENE_LABELS, 'mean'], rows)}"


def speed() -> str:
    """Return the speed reports: time and memory of the models, compared with their textbook form."""
    parts = []
    for folder in sorted(NAMED_REPORTS.glob("speed-*")):
        text = (folder / "speed.md").read_text(encoding="utf-8")
        body = text.split("\n", 1)[1].replace("\n## ", "\n#### ")
        parts.append(f"### {folder.name}\n{body.rstrip()}")
    return "\n\n".join(parts)


def curves() -> str:
    """Return how long each training took to reach a PSNR."""
    return curves_table(pd.DataFrame(**content_of("training-random-pixels")["curves"]))


def learned() -> str:
    """Return learned codecs next to classical ones at their rates."""
    return learned_tables(read_rd(LEARNED))


def ablation() -> str:
    """Return what each part of klt-cm is worth."""
    return ablation_tables(content_of("ablation-klt-cm")["rows"], SCENE_LABELS)


# -- docs/benchmarks.md ---------------------------------------------------------------------------


def cluster() -> str:
    """Return how long the test set would take on more and more workers, from the seconds of the land report."""
    points = point_costs(read_rd(LAND).points)
    means = points.groupby(["codec", "point"])["seconds"].mean().reset_index()
    costs = means.groupby(means["codec"].str.removesuffix(FLOAT32_SUFFIX))["seconds"].agg(["size", "sum"])
    costs = costs.sort_values("sum", ascending=False)
    rows = [[f"`{codec}`", f"{count}", f"{seconds:.1f}"] for codec, count, seconds in costs.itertuples()]
    total, longest = costs["sum"].sum(), costs["sum"].max()
    rows.append(["all", f"{costs['size'].sum()}", f"{total:.1f}"])
    times = [
        [name, short((TEST_PATCHES * total / workers + (longest if workers > 1 else 0)) / 3600)]
        for name, workers in CLUSTERS.items()
    ]
    return "\n\n".join(
        [
            markdown_table(["codec", "points", "s for a patch"], rows),
            markdown_table([f"{TEST_PATCHES:,} patches, all codecs", "hours"], times),
        ]
    )


def point_costs(points: pd.DataFrame) -> pd.DataFrame:
    """Return points with the column `seconds`, which one worker would take for the point of a patch of 128 x 128."""
    encoding, decoding = (PATCH_MEGABYTES / points[f"{name}_mbps"] for name in ("encoding", "decoding"))
    calls = points["kind"].map({"lossy": SEARCH_ENCODINGS}).fillna(1) + 2 * (encoding <= REPEATED_SECONDS)
    seconds = calls * encoding + (1 + 2 * (decoding <= REPEATED_SECONDS)) * decoding + METRIC_SECONDS
    return points.assign(seconds=seconds)


BLOCKS: dict[str, Callable[[], str]] = {
    "headline": headline,
    "codecs": codecs,
    "index": index,
    "land": land,
    "scenes": scenes,
    "speed": speed,
    "curves": curves,
    "learned": learned,
    "ablation": ablation,
    "cluster": cluster,
}
"""What a page can show, by the name in its markers."""


# -- reading reports ------------------------------------------------------------------------------


def content_of(name: str) -> dict:
    """Return the content of a report's only JSON.

    Raises:
        MissingReport: there is no report of that name.
    """
    paths = sorted((NAMED_REPORTS / name).glob("*.json"))
    if len(paths) != 1:
        raise MissingReport(f"{NAMED_REPORTS / name}: must hold one JSON, got {len(paths)}")
    return read_report(paths[0])


def read_rd(name: str) -> Report:
    """Return a report of `benchmark.py rd`."""
    return Report(content_of(name))


def best_deltas(report: Report) -> pd.DataFrame:
    """Return the BD-rate in percent of each codec (rows) on each image (columns) against the best anchor there."""
    return report.deltas.groupby(["codec", "image"])["bd_rate"].max().unstack()


def rates(report: Report, codec: str, kind: str, target: float | None = None) -> pd.Series:
    """Return the rate of a codec's point on each image, in bpppc."""
    points = report.points[(report.points["codec"] == codec) & (report.points["kind"] == kind)]
    if target is not None:
        points = points[points["target"] == target]
    return points.set_index("image")["bpppc"]


def mean_rate(report: Report, codec: str, kind: str) -> float:
    """Return the mean rate of a codec's point over the images, in bpppc."""
    return float(rates(report, codec, kind).mean())


def best_standard(report: Report) -> str:
    """Return the codec that stands for CCSDS 123.0-B-2: the tuned one if the report has it."""
    return TUNED_STANDARD if TUNED_STANDARD in set(report.points["codec"]) else STANDARD


def bounded_margins(report: Report) -> pd.DataFrame:
    """Return by how many percent klt-cm differs from the tuned CCSDS 123.0-B-2: images (rows), bounds (columns)."""
    margins = {
        bound: 100 * (rates(report, "klt-cm", "bounded", bound) / rates(report, TUNED_STANDARD, "bounded", bound) - 1)
        for bound in report.settings["bounds"]
    }
    return pd.DataFrame(margins)


def cpu_speed() -> pd.DataFrame:
    """Return the rows for a CPU in the first speed report that has any.

    Raises:
        ProjectError: there is no such report.
    """
    for folder in sorted(NAMED_REPORTS.glob("speed-*")):
        rows = pd.DataFrame(content_of(folder.name)["models"])
        if len(rows) and (rows["device"] == "cpu").any():
            return rows[rows["device"] == "cpu"]
    raise ProjectError(f"{NAMED_REPORTS}: no speed report of a CPU: run `benchmark.py speed --only models`")


def _cells(values: pd.Series, form: str) -> list[str]:
    return [form.format(value) for value in (*values, values.mean())]


def _sections(name: str, titles: Sequence[str]) -> str:
    """Return the sections of a report's text whose titles begin with `titles`, one level deeper."""
    text = next((NAMED_REPORTS / name).glob("*.md")).read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    found = [section for section in sections if section.startswith(tuple(titles))]
    return "\n\n".join(f"#### {section.strip()}" for section in found)


if __name__ == "__main__":
    run_script(main)
