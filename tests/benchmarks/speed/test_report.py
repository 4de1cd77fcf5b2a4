"""The report of the speed benchmark: what is written after every row, and how it reads."""

import json

import pytest

from benchmarks.speed.report import Report

SETTINGS = {"devices": {"cpu": "a processor"}, "versions": {"torch": "2.0"}, "git_commit": "abc"}
LIMITS = {"device": "cpu", "precision": "fp32", "flops_per_second": 5e11, "bytes_per_second": 2e10}
ROW = {
    **{"model": "cae1d", "work": "train", "device": "cpu", "precision": "fp32", "side": 64, "batch": 2, "repeats": 5},
    **{"baseline_seconds": 2.0, "seconds": 0.5, "speedup": 4.0, "images_per_second": 2.0, "megabytes_per_second": 6.5},
    **{"baseline_peak_bytes": 4e9, "peak_bytes": 1e9, "peak_ratio": 0.25, "baseline_flops": 3e9, "flops": 2e9},
    **{"limit_seconds": 0.05, "limit_share": 0.1, "deviation": 1e-6, "note": None},
}


@pytest.fixture
def report(tmp_path):
    return Report.of_run(tmp_path / "new" / "tiny", SETTINGS)


def content(report):
    return json.loads((report.folder / "speed.json").read_text())


def lines(report):
    return (report.folder / "speed.md").read_text().splitlines()


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_row_is_written_at_once(report):
    for count in (1, 2):
        report.add("scripts", {"command": f"python {count}", "seconds": 0.5})
        assert [row["command"] for row in content(report)["scripts"]] == ["python 1", "python 2"][:count]
        assert [cells(line) for line in lines(report)[-count:]][-1] == [f"python {count}", "0.500"]
    assert list(content(report)) == [
        *("name", "settings", "left_out", "limits", "models", "gpu", "preprocessing", "loading", "scripts", "scaling")
    ]
    assert content(report)["settings"] == SETTINGS


def test_an_empty_report_has_only_a_head(report):
    report.write()
    assert lines(report) == ["# Speed: tiny", "", "cpu: a processor; torch 2.0; commit abc"]


def test_models_are_listed_below_the_limits_of_their_precision(report):
    report.add("limits", LIMITS)
    report.add("limits", LIMITS | {"precision": "bf16"})
    report.add("models", ROW)
    report.add("models", ROW | {"model": "sscnet", "precision": "bf16", "batch": 1, "note": "a note"})
    text = "\n".join(lines(report))
    first, second = text.split("## Models on cpu, ours in ")[1:]
    assert "500 GFLOP/s in a matrix product, 20.0 GB/s in a copy" in first
    (row,) = (line for line in first.splitlines() if line.startswith("| cae1d"))
    assert cells(row) == [
        *("cae1d", "train", "2 x 64", "5", "2.00", "0.500", "4.00", "2.00", "6.50"),
        *("4000", "1000", "0.250", "3.00", "2.00", "0.0500", "10 %", "1.0e-06"),
    ]
    assert "sscnet" not in first and "cae1d" not in second
    assert cells(next(line for line in second.splitlines() if line.startswith("| sscnet")))[2] == "64"
    assert second.endswith("\n\nsscnet, train: a note")


def test_a_model_that_did_not_fit_has_dashes_and_a_note(report):
    report.add("limits", LIMITS)
    keys = {key: ROW[key] for key in ("model", "work", "device", "precision")}
    report.add("models", {**keys, "note": "64 px needs more memory than there is"})
    header, row = (cells(line) for line in lines(report) if line.startswith(("| model", "| cae1d")))
    assert row == ["cae1d", "train", *["–"] * (len(header) - 2)]
    assert lines(report)[-1] == "cae1d, train: 64 px needs more memory than there is"


def test_what_is_left_out_is_said_and_written(report, capsys):
    report.leave_out("fp16 on cpu: fp16 is for GPUs")
    assert capsys.readouterr().err == "left out: fp16 on cpu: fp16 is for GPUs\n"
    assert content(report)["left_out"] == ["fp16 on cpu: fp16 is for GPUs"]
    assert lines(report)[-1] == "Left out: fp16 on cpu: fp16 is for GPUs."


def test_shares_are_percentages(report):
    report.add(
        "scaling",
        {"model": "cae1d", "images_per_second": 10.0, "images_per_second_of_two": 15.0, "share_of_twice": 0.75},
    )
    assert [cells(line) for line in lines(report)[-3:]][::2] == [
        ["model", "one process, images/s", "two, images/s", "efficiency"],
        ["cae1d", "10.0", "15.0", "75 %"],
    ]


def test_rows_of_gpus_have_a_table_and_notes(report):
    row = {"device": "0", "model": "cae1d", "work": "train", "batch": 2, "side": 128, "note": None}
    figures = {"deviation": 1e-3, "first_seconds": 8.0, "first_peak_bytes": 3e9, "peak_bytes": 2e9}
    load = {**row, "model": None, "work": "load", "form": "uint16, 4 threads", "seconds": 0.002}
    report.add("gpu", load)
    report.add("gpu", {**row, "form": "textbook, TF32", "seconds": 0.116, "speedup": 1.0, **figures})
    report.add("gpu", {**row, "form": "ours, bf16", "seconds": 0.006, "speedup": 116 / 6, **figures})
    report.add("gpu", {**row, "form": "ours, fp32", "speedup": None, "note": "out of memory"})
    title, _, header, _, loaded, first, second, third, _, note = lines(report)[-10:]
    assert title == "## Loading, training and coding on GPU 0"
    assert cells(header)[:5] == ["model", "work", "size", "form", "ms"]
    assert cells(loaded)[:7] == ["–", "load", "2 x 128", "uint16, 4 threads", "2.00", "–", "1000"]
    assert cells(first)[2:7] == ["2 x 128", "textbook, TF32", "116", "1.00", "17.2"]
    assert cells(second)[4:] == ["6.00", "19.33", "333", "1.0e-03", "8.00", "3.00", "2.00"]
    assert cells(third)[4] == "–" and note == "cae1d, train, ours, fp32: out of memory"
