"""The report of `benchmark.py rd` from rows whose means are known."""

import json
import math
import shutil

import pandas as pd
import pytest
from compressai.utils.plot.__main__ import main as plot

import benchmark
from benchmarks.rd import report as rd_report
from benchmarks.rd.report import Report, published_points, write_report

IMAGES = ["one", "two"]
SETTINGS = {
    "name": "tiny",
    "images": IMAGES,
    "dataset": "generated",
    "mode": "easy",
    "split": "test",
    "is_reflectance": True,
    "peak": 10000,
    "device": "a processor",
    "processes": 2,
    "curves": {},
    "versions": {"python": "3.11"},
    "git_commit": "0123",
}


def point(codec, image, kind, target, bpppc, psnr):
    return {
        **{"codec": codec, "image": image, "kind": kind, "target": target, "bands": 3, "setting": 1.0},
        **{"num_bytes": 100, "bpppc": bpppc, "psnr": psnr, "mse": 0.0 if psnr is None else 10 ** (-psnr / 10)},
        **{"ssim": 0.9, "sa": 1.0, "largest_error": 7.0 if image == "one" else 9.0},
        **{"encoding_time": 1.0, "decoding_time": 0.5, "encoding_mbps": 10.0, "decoding_mbps": 20.0},
        **{"encoding_peak_mb": 5.0, "decoding_peak_mb": 6.0, "band_psnr": [psnr, psnr, None], "alone": True},
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
        rows.append(point("net", image, "quantized", None, 0.7, 49.9 + offset))
        rows.append(point("aec", image, "lossless", None, 6.0, None))
    rows.append({"codec": "plain", "image": "two", "kind": "lossy", "target": 4, "note": "no rate near"})
    rows.append({"codec": "aec", "image": "one", "kind": "lossy", "target": 4, "note": ""})
    return rows


@pytest.fixture
def rows():
    return make_rows()


def make_report(folder, rows, anchors, rate, codecs, **settings):
    """Return the report of `rows` and its text."""
    report = write_report(folder, rows, {**SETTINGS, **settings}, anchors, rate, codecs)
    return report, report.draw(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder, folder for CompressAI, and text; shared and read-only, as drawing takes seconds."""
    folder = tmp_path_factory.mktemp("report")
    report, text = make_report(folder / "tiny", make_rows(), ["plain", "good"], 0.9, ["plain", "good", "net", "aec"])
    report.export(folder / "codecs")
    return folder / "tiny", folder / "codecs", text


@pytest.fixture
def without_figures(monkeypatch):
    """Skip drawing, which takes seconds."""
    monkeypatch.setattr(rd_report, "write_figures", lambda *args: [])


def read_json(path):
    return json.loads(path.read_text())["results"]


def frame(folder, key):
    return pd.DataFrame(**json.loads((folder / "rd.json").read_text())[key])


def test_a_report_is_text_data_and_pictures(made):
    folder, _, text = made
    names = ("psnr", "ssim", "spectral_angle", "encoding", "decoding", "bands")
    assert {path.name for path in folder.iterdir()} == {"rd.md", "rd.json", *(f"{name}.png" for name in names)}
    assert (folder / "rd.md").read_text() == text
    assert all(f"]({name}.png)" in text for name in names)
    assert all((folder / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)


def test_means_over_images(made):
    good = read_json(made[1] / "good.json")
    assert good["bpppc"] == pytest.approx([0.505, 1.01, 1.5, 2.02, 3.03, 4.04])
    assert good["kind"] == ["lossy", "lossy", "bounded", "lossy", "lossy", "lossy"]
    assert good["psnr"][0] == pytest.approx(40 - 6 + 1 + 1)
    assert good["largest_error"][0] == 9
    assert good["bpp"] == pytest.approx([3 * rate for rate in good["bpppc"]])
    assert good["psnr-rgb"] == good["psnr"]


def test_a_rate_that_an_image_does_not_reach_is_not_averaged(made):
    _, codecs, text = made
    assert read_json(codecs / "plain.json")["target"] == [0.5, 1, 2, 3]
    assert "- plain, lossy 4, 1 images: no rate near" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| plain") and "at 0.55" in line]
    assert line.rstrip(" |").endswith("–")


def test_latents_as_float32_are_a_codec_of_their_own(made):
    _, codecs, text = made
    assert {path.name for path in codecs.iterdir()} == {
        *("plain.json", "good.json", "net.json", "net-float32.json", "aec.json")
    }
    assert read_json(codecs / "net-float32.json")["psnr"] == [51.0]
    float32, quantized = text.split("## Latents as float32")[1].split("## Latents quantized")
    assert "| net float32 | 8.080 |   51.00 |" in float32
    assert "| net   | 0.700 |   50.90 |" in quantized.split("##")[0]


def test_compressai_draws_the_exported_files(made, tmp_path):
    plot(["-f", *map(str, made[1].iterdir()), "-o", str(tmp_path / "plot.png")])
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_deltas_of_every_image(made):
    folder, _, text = made
    deltas = frame(folder, "deltas").set_index(["anchor", "codec", "image"])
    names = "plain", "good"
    assert set(deltas.index) == {(anchor, codec, image) for anchor in names for codec in names for image in IMAGES}
    assert deltas.loc[("plain", "plain", "one"), "bd_rate"] == pytest.approx(0, abs=1e-6)
    gain = 1 + 6 * math.log2(1.1 / 1.01)
    assert deltas.loc[("plain", "good", "one"), "bd_psnr"] == pytest.approx(gain, abs=0.05)
    saved = f"{100 * (2 ** (-gain / 6) - 1):+.1f}"[:3]
    against_plain, against_good = text.split("### Against ")[1:]
    against_good, against_best = against_good.split("### On each image against the best of plain, good")
    assert saved in against_plain and saved not in against_good
    # `good` is itself the better anchor.
    line = next(line for line in against_best.splitlines() if line.startswith("| good"))
    assert "+0.0 %" in line


def test_points_and_bands(made):
    folder, _, _ = made
    points = frame(folder, "points")
    assert len(points) == 2 * (5 + 1 + 1 + 1 + 1) + 5 + 4 and "band_psnr" not in points
    one = points[(points["codec"] == "good") & (points["image"] == "one") & (points["target"] == 2)].iloc[0]
    assert (one["bpppc"], one["num_bytes"], one["largest_error"]) == (2.02, 100, 7)
    # At 1 bpppc, the rate next to 0.9; the third band is exact.
    assert json.loads((folder / "rd.json").read_text())["bands"]["good"] == [42.0, 42.0, None]


def test_the_best_is_bold_and_first(made):
    table = made[2].split("## PSNR at target rates")[1].split("##")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert lines[1].startswith("| good") and lines[2].startswith("| plain")
    assert lines[1].count("**") == 10 and "**" not in lines[2]


def test_published_results_are_listed_for_reflectances_only(made, rows, without_figures, tmp_path):
    assert "HyCoT" in made[2] and "| hycot_1bpppc  |      HyCoT |  1.11 |   50.26 |" in made[2]
    _, text = make_report(tmp_path, rows, ["plain"], 0.9, ["plain", "good"], is_reflectance=False)
    assert "HyCoT" not in text


def test_the_published_table():
    table = published_points()
    found = dict(zip(zip(table["model"], table["bpppc"], strict=True), table["psnr"], strict=True))
    assert len(table) == 20
    assert found["cae1d", 8.08] == 54.85 and found["cae3d_1bpppc", 1.01] == 39.06
    assert found["hycot_1bpppc", 1.11] == 50.26 and found["hycot", 8.08] == 56.29


def test_a_report_is_drawn_again_from_its_json(made, tmp_path, capsys):
    folder = shutil.copytree(made[0], tmp_path / "tiny")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        if path.name != "rd.json":
            path.unlink()
    flags = ["--redraw", "tiny", "--save-dir", str(tmp_path), "--export-compressai", str(tmp_path / "codecs")]
    assert benchmark.main(["rd", *flags]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert made[2] in capsys.readouterr().out
    assert {path.name: path.read_text() for path in (tmp_path / "codecs").iterdir()} == {
        path.name: path.read_text() for path in made[1].iterdir()
    }


def test_points_of_each_image(made, without_figures, tmp_path):
    folder = shutil.copytree(made[0], tmp_path / "tiny")
    assert benchmark.main(["rd", "--redraw", "tiny", "--save-dir", str(tmp_path), "--per-image"]) == 0
    text = (folder / "rd.md").read_text()
    one, two = text.split("## one")[1].split("## Published")[0].split("## two")
    assert "| good        |    lossy 2 | 2.020 |   47.00 |             7 |        10.0 |        20.0 |" in one
    assert "| good        |    lossy 2 | 2.020 |   49.00 |             9 |        10.0 |        20.0 |" in two
    assert "| aec         |   lossless | 6.000 |       ∞ |" in two and "| net         |  quantized |" in two


def test_a_run_without_points_has_no_figures(tmp_path):
    note = {"codec": "aec", "image": "one", "kind": "lossless", "target": None, "note": "takes no floats"}
    report, text = make_report(tmp_path / "tiny", [note], ["aec"], 0.5, ["aec"], images=["one"])
    report.export(tmp_path / "codecs")
    assert "takes no floats" in text and not list((tmp_path / "codecs").glob("*"))
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {"rd.md", "rd.json"}


def test_a_metric_that_an_image_lacks_is_not_averaged(rows, tmp_path):
    rows[0]["ssim"] = None
    means = write_report(tmp_path, rows, SETTINGS, ["plain"], 0.5, ["plain", "good"]).means
    (mean,) = means[(means["codec"] == "good") & (means["target"] == 0.5)].to_dict("records")
    assert math.isnan(mean["ssim"]) and mean["psnr"] == 36


def test_notes_that_differ_only_in_decimals_are_merged_and_lose_folders(without_figures, tmp_path):
    row = {"codec": "aec", "kind": "lossy", "target": 0.5}
    rows = [
        row | {"image": "one", "note": "no rate near 0.5 bpppc at 9 MB/s, the nearest is 0.6100"},
        row | {"image": "two", "note": "no rate near 0.5 bpppc at 9 MB/s, the nearest is 0.6000"},
        row | {"image": "one", "target": 1, "note": "No such file: '/home/someone/data.npy'"},
    ]
    _, text = make_report(tmp_path, rows, ["aec"], 0.5, ["aec"])
    assert "- aec, lossy 0.5, 2 images: no rate near 0.5 bpppc at 9 MB/s, the nearest is 0.6000 to 0.6100\n" in text
    assert "No such file: 'data.npy'" in text
    assert all("someone" not in path.read_text() for path in tmp_path.iterdir())


def test_a_point_of_some_images_only_is_named(made):
    assert "- plain, lossy 4: on 1 of 2 images only, not averaged" in made[2]


def test_old_figures_are_deleted(made, tmp_path):
    folder = shutil.copytree(made[0], tmp_path / "copy")
    note = {"codec": "aec", "image": "one", "kind": "lossless", "target": None, "note": "takes no floats"}
    make_report(folder, [note], ["aec"], 0.5, ["aec"], images=["one"])
    assert {path.name for path in folder.iterdir()} == {"rd.md", "rd.json"}


def rates_of(text, codec):
    table = text.split("## PSNR at target rates")[1].split("##")[0]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {codec} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_rate_too_high_is_not_the_best(without_figures, tmp_path):
    rows = [point("near", "one", "lossy", 1, 1.02, 40.0), point("dear", "one", "lossy", 1, 1.1, 41.0)]
    _, text = make_report(tmp_path, rows, ["near"], 1, ["near", "dear"], images=["one"])
    assert rates_of(text, "near") == ["**40.00**"] and rates_of(text, "dear") == ["41.00 at 1.1"]


def test_an_exact_lossy_point_is_the_best(without_figures, tmp_path):
    rows = [point("good", "one", "lossy", 8, 8.0, 90.0), point("exact", "one", "lossy", 8, 8.0, None)]
    _, text = make_report(tmp_path, rows, ["good"], 8, ["good", "exact"], images=["one"])
    assert rates_of(text, "exact") == ["**∞**"] and rates_of(text, "good") == ["90.00"]
    assert text.index("| exact") < text.index("| good")


def test_images_of_different_bands_have_no_psnr_by_band(without_figures, tmp_path):
    rows = [point("good", "one", "lossy", 1, 1.0, 40.0), point("good", "two", "lossy", 1, 2.0, 40.0)]
    rows[1] |= {"bands": 5, "band_psnr": [40.0] * 5}
    report = write_report(tmp_path, rows, SETTINGS, ["good"], 1, ["good"])
    assert list(report.means["bpp"]) == [(3 * 1 + 5 * 2) / 2]
    assert report.bands == {}


def test_a_report_can_be_read_back(made):
    report = Report(json.loads((made[0] / "rd.json").read_text()))
    assert report.codecs == ["good", "plain", "net float32", "net", "aec"]


def test_an_image_that_no_codec_takes_is_named(without_figures, tmp_path):
    notes = [
        {"codec": "good", "image": "two", "kind": "fixed", "target": None, "note": "two.npy: no sample holds data"}
    ]
    rows = [point("good", "one", "lossy", 1, 1.0, 40.0), *notes]
    _, text = make_report(tmp_path, rows, ["good"], 1, ["good"])
    assert "two.npy: no sample holds data" in text and "good, lossy 1: on 1 of 2 images only" in text


def test_means_have_confidence_intervals(without_figures, tmp_path):
    """Of 40, 41 and 43: Student's t of two degrees of freedom is 4.303."""
    images = ["one", "two", "three"]
    rows = [point("good", image, "lossy", 1, 1.0, psnr) for image, psnr in zip(images, (40.0, 41.0, 43.0), strict=True)]
    report, text = make_report(tmp_path, rows, ["good"], 1, ["good"], images=images)
    (mean,) = report.means.to_dict("records")
    half = 4.303 * math.sqrt((1.333**2 + 0.333**2 + 1.667**2) / 2) / math.sqrt(3)
    assert mean["psnr_interval"] == pytest.approx(half, rel=1e-3) and mean["bpppc_interval"] == 0
    assert rates_of(text, "good") == [f"**41.33 ± {half:.2f}**"]
    _, text = make_report(tmp_path, rows[:1], ["good"], 1, ["good"], images=["one"])
    assert rates_of(text, "good") == ["**40.00**"]


def test_speeds_are_of_images_that_were_measured_alone(without_figures, tmp_path):
    rows = [point(codec, image, "lossless", None, 4.0, None) for codec in ("some", "none") for image in IMAGES]
    for row, alone, speed in zip(rows, (True, False, False, False), (10.0, 2.0, 3.0, 5.0), strict=True):
        row |= {"alone": alone, "encoding_mbps": speed}
    report, text = make_report(tmp_path, rows, ["some"], 1, ["some", "none"])
    assert dict(zip(report.means["codec"], report.means["encoding_mbps"], strict=True)) == {"some": 10, "none": 4}
    cells = {line.split()[1]: line.split() for line in text.splitlines() if line.startswith(("| some", "| none"))}
    assert "10.0" in cells["some"] and "~4.00" in cells["none"]


def test_weights_of_a_model_make_a_curve(without_figures, tmp_path):
    """Models with an entropy model have a point for each of their weights, a table, and deltas of all of them."""
    names, rows = [f"ours_klt-{number}" for number in range(4)], []
    for image in IMAGES:
        for rate, name in zip((0.5, 1, 2, 3), names, strict=True):
            rows.append(point("plain", image, "lossy", rate, rate, 40 + 6 * math.log2(rate)))
            rows.append(point(name, image, "trained", None, rate / 2, 40 + 6 * math.log2(rate)))
    curves = {"plain": "plain", **dict.fromkeys(names, "ours_klt")}
    report, text = make_report(tmp_path, rows, ["plain"], 1, ["plain", *names], curves=curves)
    assert set(report.deltas["codec"]) == {"plain", "ours_klt"}
    against = text.split("### Against plain")[1].split("##")[0]
    (line,) = [line for line in against.splitlines() if line.startswith("| ours_klt ")]
    assert "| -50.0 % |" in line.replace("  ", " ") and "2 of 2" in line
    table = text.split("## Learned steps")[1].split("\n## ")[0]
    assert all(f"| {name} " in table for name in names) and "0.1 dB lower" not in text
