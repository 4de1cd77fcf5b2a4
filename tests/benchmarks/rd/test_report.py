"""The report of `benchmark.py rd` from rows whose means are known."""

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compressai.utils.plot.__main__ import main as plot

from benchmarks.rd import report as rd_report
from benchmarks.rd.report import Results, published_points, write_report

ROOT = Path(__file__).resolve().parents[3]
IMAGES = ["one", "two"]
SETTINGS = {
    "name": "tiny",
    "dataset": "generated",
    "mode": "easy",
    "split": "test",
    "is_reflectance": True,
    "peak": 10000,
    "device": "a processor",
    "processes": 2,
    "versions": {"python": "3.11"},
    "git_commit": "0123",
}


def point(codec, image, kind, target, bpppc, psnr):
    return {
        **{"codec": codec, "image": image, "kind": kind, "target": target, "bands": 3, "setting": 1.0},
        **{"num_bytes": 100, "bpppc": bpppc, "psnr": psnr, "mse": 0.0 if psnr is None else 10 ** (-psnr / 10)},
        **{"ssim": 0.9, "sa": 1.0, "largest_error": 7.0 if image == "one" else 9.0},
        **{"encoding_time": 1.0, "decoding_time": 0.5, "encoding_mbps": 10.0, "decoding_mbps": 20.0},
        **{"encoding_peak_mb": 5.0, "decoding_peak_mb": 6.0, "band_psnr": [psnr, psnr, None]},
    }


def make_rows():
    """`good` is 1 dB above `plain`; `plain` has no 4 bpppc on the second image, `aec` is lossless only."""
    rows = []
    for image, offset in zip(IMAGES, (0, 2), strict=True):
        for rate in (0.5, 1, 2, 3, 4):
            psnr = 40 + 6 * math.log2(rate) + offset
            rows.append(point("good", image, "lossy", rate, rate * 1.01, psnr + 1))
            if (image, rate) != ("two", 4):
                rows.append(point("plain", image, "lossy", rate, rate * 1.1, psnr))
        rows.append(point("good", image, "bounded", 10, 1.5, 45.0))
        rows.append(point("net", image, "fixed", None, 8.08, 50.0 + offset))
        rows.append(point("aec", image, "lossless", None, 6.0, None))
    rows.append({"codec": "plain", "image": "two", "kind": "lossy", "target": 4, "note": "no rate near"})
    rows.append({"codec": "aec", "image": "one", "kind": "lossy", "target": 4, "note": ""})
    return rows


@pytest.fixture
def rows():
    return make_rows()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Folder and text; drawing takes seconds, so that nobody may change it."""
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(
        folder, make_rows(), SETTINGS, ["plain", "good"], 0.9, IMAGES, ["plain", "good", "net", "aec"]
    )


def read_json(path):
    return json.loads(path.read_text())["results"]


def test_means_over_images(report):
    folder, _ = report
    good = read_json(folder / "codecs" / "good.json")
    assert good["bpppc"] == pytest.approx([0.505, 1.01, 1.5, 2.02, 3.03, 4.04])
    assert good["kind"] == ["lossy", "lossy", "bounded", "lossy", "lossy", "lossy"]
    assert good["psnr"][0] == pytest.approx(40 - 6 + 1 + 1)
    assert good["largest_error"][0] == 9
    assert good["bpp"] == pytest.approx([3 * rate for rate in good["bpppc"]])
    assert good["psnr-rgb"] == good["psnr"]


def test_a_rate_that_an_image_does_not_reach_is_no_mean(report):
    folder, text = report
    assert read_json(folder / "codecs" / "plain.json")["target"] == [0.5, 1, 2, 3]
    assert "- plain, lossy 4, 1 images: no rate near" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| plain") and "at 0.55" in line]
    assert line.rstrip(" |").endswith("–")


def test_latents_as_float32_are_a_codec_of_their_own(report):
    folder, text = report
    assert {path.name for path in (folder / "codecs").iterdir()} == {
        *("plain.json", "good.json", "net-float32.json", "aec.json")
    }
    assert read_json(folder / "codecs" / "net-float32.json")["psnr"] == [51.0]
    assert "| net float32" in text


def test_compressai_draws_the_files(report, tmp_path):
    folder, _ = report
    files = list(map(str, (folder / "codecs").iterdir()))
    plot(["-f", *files, "-o", str(tmp_path / "plot.png")])
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_deltas_of_every_image(report):
    folder, text = report
    with open(folder / "bd.csv", newline="") as file:
        found = {(row["anchor"], row["codec"], row["image"]): row for row in csv.DictReader(file)}
    names = "plain", "good"
    assert set(found) == {(anchor, codec, image) for anchor in names for codec in names for image in IMAGES}
    assert float(found["plain", "plain", "one"]["bd_rate"]) == pytest.approx(0, abs=1e-6)
    gain = 1 + 6 * math.log2(1.1 / 1.01)
    assert float(found["plain", "good", "one"]["bd_psnr"]) == pytest.approx(gain, abs=0.05)
    saved = f"{100 * (2 ** (-gain / 6) - 1):+.1f}"[:3]
    against_plain, against_good, against_best = text.split("### Against ")[1:]
    assert saved in against_plain and saved not in against_good
    # Nothing is left to gain on the better one of both, which itself is one of them.
    line = next(line for line in against_best.splitlines() if line.startswith("| good"))
    assert "+0.0 %" in line


def test_points_and_bands(report):
    folder, _ = report
    with open(folder / "points.csv", newline="") as file:
        points = list(csv.DictReader(file))
    assert len(points) == 2 * (5 + 1 + 1 + 1) + 5 + 4 and "band_psnr" not in points[0]
    with open(folder / "bands.csv", newline="") as file:
        bands = list(csv.DictReader(file))
    # At 1 bpppc, the rate next to 0.9; the third band is exact.
    assert [row["psnr"] for row in bands if row["codec"] == "good"] == ["42.0", "42.0", ""]


def test_the_best_is_bold_and_first(report):
    _, text = report
    table = text.split("## PSNR at wanted rates")[1].split("##")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert lines[1].startswith("| good") and lines[2].startswith("| plain")
    assert lines[1].count("**") == 10 and "**" not in lines[2]


def test_figures_and_what_is_no_longer_there(rows, report, tmp_path):
    folder = shutil.copytree(report[0], tmp_path / "copy")
    names = ("psnr", "ssim", "spectral_angle", "encoding", "decoding", "bands")
    before = {name: (folder / f"{name}.pdf").read_bytes() for name in names}
    write_report(folder, rows, SETTINGS, ["plain"], 0.9, IMAGES, ["plain", "good", "net"])
    assert not (folder / "codecs" / "aec.json").exists()
    assert (folder / "psnr.pdf").read_bytes() != before["psnr"]
    assert all((folder / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)


def test_published_figures_stand_beside_reflectances_only(rows, report, tmp_path):
    _, text = report
    assert "HyCoT" in text and "48.95" in text
    settings = {**SETTINGS, "is_reflectance": False}
    assert "HyCoT" not in write_report(tmp_path / "b", rows, settings, ["plain"], 0.9, IMAGES, ["plain", "good"])


def test_the_published_table():
    found = {(row["model"], row["bpppc"]): row["psnr"] for row in published_points()}
    assert len(published_points()) == 20
    assert found["cae1d", 8.08] == 54.85 and found["cae3d_1bpppc", 1.01] == 39.06
    assert [found["hycot", rate] for rate in (1.11, 2.06, 4.12, 8.08)] == [50.26, 53.20, 55.38, 56.29]


def test_a_run_of_which_nothing_came(tmp_path):
    note = {"codec": "aec", "image": "one", "kind": "lossless", "target": None, "note": "takes no floats"}
    text = write_report(tmp_path, [note], SETTINGS, ["aec"], 0.5, ["one"], ["aec"])
    assert "takes no floats" in text and not list((tmp_path / "codecs").glob("*"))


def test_a_figure_that_an_image_lacks_is_no_mean(rows):
    rows[0]["ssim"] = None
    results = Results(rows, IMAGES, ["plain", "good"])
    mean = results.mean("good", "lossy", 0.5)
    assert mean["ssim"] is None and mean["psnr"] is not None


@pytest.fixture
def without_figures(monkeypatch):
    """Drawing takes seconds."""
    monkeypatch.setattr(rd_report, "write_figures", lambda *args: None)


def test_reading_the_report_needs_no_torch():
    code = "import sys, benchmarks.rd.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_notes_that_differ_in_figures_only_are_one_without_folders(without_figures, tmp_path):
    row = {"codec": "aec", "kind": "lossy", "target": 0.5}
    rows = [
        row | {"image": "one", "note": "no rate near 0.5 bpppc at 9 MB/s, the nearest is 0.6100"},
        row | {"image": "two", "note": "no rate near 0.5 bpppc at 9 MB/s, the nearest is 0.6000"},
        row | {"image": "one", "target": 1, "note": "No such file: '/home/someone/data.npy'"},
    ]
    text = write_report(tmp_path, rows, SETTINGS, ["aec"], 0.5, IMAGES, ["aec"])
    assert "- aec, lossy 0.5, 2 images: no rate near 0.5 bpppc at 9 MB/s, the nearest is 0.6000 to 0.6100\n" in text
    assert "No such file: 'data.npy'" in text and "someone" not in text


def test_a_point_of_some_images_only_is_named(report):
    assert "- plain, lossy 4: on 1 of 2 images only, in no mean" in report[1]


def test_tables_and_figures_of_before_do_not_stay(report):
    folder, _ = report
    note = {"codec": "aec", "image": "one", "kind": "lossless", "target": None, "note": "takes no floats"}
    write_report(folder, [note], SETTINGS, ["aec"], 0.5, ["one"], ["aec"])
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["rd.md"]


def rates_of(text, codec):
    table = text.split("## PSNR at wanted rates")[1].split("##")[0]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {codec} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_rate_too_high_is_not_the_best(without_figures, tmp_path):
    rows = [point("near", "one", "lossy", 1, 1.02, 40.0), point("dear", "one", "lossy", 1, 1.1, 41.0)]
    text = write_report(tmp_path, rows, SETTINGS, ["near"], 1, ["one"], ["near", "dear"])
    assert rates_of(text, "near") == ["**40.00**"] and rates_of(text, "dear") == ["41.00 at 1.1"]


def test_a_lossy_point_that_is_exact_is_above_all(without_figures, tmp_path):
    rows = [point("good", "one", "lossy", 8, 8.0, 90.0), point("exact", "one", "lossy", 8, 8.0, None)]
    text = write_report(tmp_path, rows, SETTINGS, ["good"], 8, ["one"], ["good", "exact"])
    assert rates_of(text, "exact") == ["**∞**"] and rates_of(text, "good") == ["90.00"]
    assert text.index("| exact") < text.index("| good")


def test_images_of_different_bands(without_figures, tmp_path):
    rows = [point("good", "one", "lossy", 1, 1.0, 40.0), point("good", "two", "lossy", 1, 2.0, 40.0)]
    rows[1] |= {"bands": 5, "band_psnr": [40.0] * 5}
    write_report(tmp_path, rows, SETTINGS, ["good"], 1, IMAGES, ["good"])
    assert read_json(tmp_path / "codecs" / "good.json")["bpp"] == [(3 * 1 + 5 * 2) / 2]
    assert not (tmp_path / "bands.csv").exists()
