"""Reports of benchmarks: their folders, the commits that they may come from, and their tables."""

import argparse
import math

import pandas as pd
import pytest

from benchmarks import report
from utils.errors import UsageError


def arguments(save_dir, name="tiny", allow_dirty=False):
    return argparse.Namespace(save_dir=str(save_dir), name=name, allow_dirty=allow_dirty)


@pytest.fixture
def named_reports(monkeypatch, tmp_path):
    """Let a temporary folder be the one whose named reports are committed."""
    folder = tmp_path / "benchmarks"
    monkeypatch.setattr(report, "NAMED_REPORTS", folder)
    return folder


def test_a_folder_is_named_by_the_user_or_by_the_time(tmp_path):
    assert report.report_folder(arguments(tmp_path), "0123") == tmp_path / "tiny"
    assert not (tmp_path / "tiny").exists()
    stamped = report.report_folder(arguments(tmp_path, name=None), "0123", "epyc")
    assert stamped.is_dir() and stamped.parent == tmp_path and stamped.name.endswith("-epyc")


def test_a_named_report_refuses_a_dirty_tree(named_reports):
    with pytest.raises(UsageError, match="--allow-dirty"):
        report.report_folder(arguments(named_reports), "0123-dirty")
    assert not named_reports.exists()


@pytest.mark.parametrize("commit", ["0123", None])
def test_a_named_report_may_come_from_a_clean_tree_or_no_repository(named_reports, commit):
    assert report.report_folder(arguments(named_reports), commit) == named_reports / "tiny"


def test_other_reports_may_come_from_a_dirty_tree(named_reports, tmp_path):
    commit = "0123-dirty"
    assert report.report_folder(arguments(named_reports, allow_dirty=True), commit) == named_reports / "tiny"
    assert report.report_folder(arguments(named_reports, name=None), commit).parent == named_reports
    assert report.report_folder(arguments(tmp_path / "elsewhere"), commit) == tmp_path / "elsewhere" / "tiny"


def test_a_missing_report_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"rd\.json: no such file: --redraw"):
        report.read_report(tmp_path / "rd.json")


def test_numbers_have_three_digits():
    numbers = [0.0, 0.00012345, 0.012345, 1.2345, 123.45, 12345.6, None, math.nan]
    assert list(map(report.short, numbers)) == ["0", "0.000123", "0.0123", "1.23", "123", "12346", "–", "–"]
    assert report.short(2.5e9, 1e-9) == "2.50"


def test_tables_are_padded():
    frame = pd.DataFrame({"name": ["cae1d", "x"], "seconds": [1, math.nan], "hidden": [0, 0]})
    assert report.table(frame, {"name": ("model", str), "seconds": ("s", "{:.1f}".format)}).splitlines() == [
        "| model |   s |",
        "| :---- | --: |",
        "| cae1d | 1.0 |",
        "| x     |   – |",
    ]
