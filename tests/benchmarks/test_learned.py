"""Learned codecs next to classical ones at their rates, from a report whose points are known."""

import math

import pytest

from benchmarks import learned
from benchmarks.rd.report import write_report

SETTINGS: dict[str, object] = {
    **{"name": "tiny", "images": ["one"], "dataset": None, "is_reflectance": True, "peak": 10000},
    **{"processes": 1, "curves": {}},
}


def point(codec, kind, target, bpppc, psnr, side_bytes):
    return {
        **{"codec": codec, "image": "one", "kind": kind, "target": target, "bands": 3, "setting": 1.0, "mse": 0.1},
        **{"num_bytes": 200, "side_bytes": side_bytes, "bpppc": bpppc, "psnr": psnr, "band_psnr": [psnr] * 3},
    }


@pytest.fixture
def report(tmp_path):
    """Curves of 40 dB at 1 bpppc, 6 dB more for each doubling; a model 2 dB below and one outside of the curves."""
    rows = [
        point(codec, "lossy", rate, rate, 40 + 6 * math.log2(rate), 20)
        for codec in learned.CLASSICAL
        for rate in (0.5, 1, 2)
    ]
    rows += [point("net", "trained", None, 1.5, 40 + 6 * math.log2(1.5) - 2, 1), point("cae", "lossy", 1, 1, 30, 5)]
    rows += [point("net-0a1b2c3d", "trained", None, 0.25, 30.0, 0), point("cae", "quantized", None, 1.1, 30.0, 5)]
    return write_report(
        tmp_path / "tiny", rows, SETTINGS, ["klt-cm"], 1, [*learned.CLASSICAL, "net", "net-0a1b2c3d", "cae"]
    )


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_points_are_compared_at_their_own_rate(report):
    lines = [cells(line) for line in learned.tables(report).splitlines() if line.startswith("|")]
    assert [line[:4] for line in lines[2:5]] == [
        ["cae, context coder", "1.100", "2.5 %", "30.00"],
        ["net", "0.250", "0.0 %", "30.00"],
        ["net", "1.500", "0.5 %", "41.51"],
    ]
    assert lines[3][4:] == ["–", "–", "–", "–"]  # no curve reaches so low a rate
    assert lines[4][4:] == ["43.51", "43.51", "43.51", "-2.00"]
    assert lines[7] == ["klt-cm", "34.00 (10.0 %)", "40.00 (10.0 %)", "46.00 (10.0 %)"]


def test_the_figure_is_drawn_into_the_report(report, tmp_path, capsys):
    assert learned.main(["tiny", "--save-dir", str(tmp_path)]) == 0
    assert (tmp_path / "tiny" / "learned.png").read_bytes()[1:4] == b"PNG"
    assert "learned.png" in capsys.readouterr().out
