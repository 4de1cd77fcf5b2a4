"""The README is the interface: its tables are those of the code."""

import re
from pathlib import Path

from models import aliases, models
from models.published import read_published

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def table_under(header: str) -> list[list[str]]:
    """Cells of the table whose header line starts with `header`."""
    lines = README[README.index(f"| {header} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_table_of_published_weights():
    rows = [re.match(r"(.*) \[(\d)\]", cells[0]).groups() + tuple(cells[1:]) for cells in table_under("method")]
    assert len(rows) == 16 <= len(models)
    numbers = {"1D-CAE": "3", "1D-CAE-Adv": "4", "1D-CAE-Ext": "5", "SSCNet": "6", "3D-CAE": "7"}
    for cells, row in zip(rows, read_published(), strict=True):
        method, number, name, rate, psnr, link = cells
        assert (method, number) == (row.method, numbers[row.method])
        assert name == f"`{row.model}`" + ("" if row.verified else " ¹")
        assert (rate, psnr) == (f"{row.bpppc:.2f}", f"{row.psnr:.2f}")
        assert link == f"[{row.file}]({row.url})"


def test_every_name_and_file_it_mentions_exists():
    assert all(f"`{alias}`" in README for alias in aliases)
    root = Path(__file__).resolve().parents[1]
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (root / path).exists(), path
