"""Reports of benchmarks: their folders, the commits that they may come from, and their tables."""

from __future__ import annotations

import argparse
import io
import json
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from utils.errors import UsageError
from utils.files import atomic_write, stamped_folder

PALETTE_COLORS = 128
NAMED_REPORTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
"""Folder whose named reports are committed."""


def report_folder(args: argparse.Namespace, git_commit: str | None = None, suffix: str = "") -> Path:
    """Return the folder for a report: `--save-dir`/`--name`, or a new one named by the time.

    Args:
        args: with `name` and `save_dir`, and with `allow_dirty` if `git_commit` is given.
        git_commit: of the code that measures; None if a dirty tree does not matter.
        suffix: added to the name of a new folder.

    Raises:
        UsageError: a named report from a dirty tree.
    """
    if not args.name:
        return stamped_folder(args.save_dir, suffix)
    folder = Path(args.save_dir) / args.name
    if git_commit is not None:
        check_clean(folder, git_commit, args.allow_dirty)
    return folder


def command_line(argv: Sequence[str], program: Sequence[str] = ("benchmark.py",)) -> str:
    """Return the command of a report without folders of this machine: absolute paths keep only their last part."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in argv]
    return shlex.join(["python", *program, *words])


def check_clean(folder: Path, git_commit: str, allow_dirty: bool) -> None:
    """Refuse a named report that could be committed if the code that measures differs from its commit.

    Raises:
        UsageError: the folder is in `NAMED_REPORTS`, and the working tree was dirty.
    """
    if git_commit.endswith("-dirty") and not allow_dirty and folder.resolve().is_relative_to(NAMED_REPORTS):
        raise UsageError(
            f"{folder}: a named report must come from a clean commit, got {git_commit}: "
            "commit the changes, or give --allow-dirty"
        )


def read_report(path: Path) -> dict:
    """Return the content of a report's JSON.

    Raises:
        UsageError: there is none at `path`.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file: --redraw takes the name of a report in --save-dir")
    return json.loads(path.read_text(encoding="utf-8"))


def save_png(figure: Figure, path: Path, dpi: int = 100) -> None:
    """Write a figure of lines and text as a PNG with a palette, a third of the size of full color.

    Args:
        figure: without photographs.
        path: written atomically.
        dpi: pixels per inch.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")
    image = Image.open(buffer).convert("RGB").quantize(PALETTE_COLORS, dither=Image.Dither.NONE)
    with atomic_write(path) as file:
        image.save(file, format="PNG", optimize=True)


# -- tables -------------------------------------------------------------------------------------


DASH = "–"
Columns: TypeAlias = Mapping[str, tuple[str, Callable]]
"""Columns of a frame to show: the heading of each, and the format of its values."""


def short(value: float | None, scale: float = 1.0) -> str:
    """Format `value` * `scale` with three digits, and with an exponent only where that is shorter; a dash for None."""
    if value is None or not math.isfinite(value):
        return DASH
    value *= scale
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    if digits > 6 or digits < -4:
        return f"{value:.1e}"
    return f"{value:.{max(digits, 0)}f}"


def table(frame: pd.DataFrame, columns: Columns) -> str:
    """Format columns of a frame as a Markdown table, with a dash for missing values."""
    cells = [
        [DASH if pd.isna(value) else form(value) for value in frame[column]] for column, (_, form) in columns.items()
    ]
    return markdown_table([heading for heading, _ in columns.values()], zip(*cells, strict=True))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table with padded columns, so that it also reads as text; the first is left-aligned."""
    rows = [list(header), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return " | ".join([f"| {first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]) + " |"

    ruler = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(rows[0]), f"| {' | '.join(ruler)} |", *map(line, rows[1:])])
