"""Result files: JSON and CSV, the JSON of a test for CompressAI's plots, and a table for the terminal."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.files import atomic_write


def write_json(path: str | Path, content: Mapping) -> None:
    """Write standard JSON atomically, with each row of a table on a line of its own.

    Infinities and NaN, which JSON does not have, become null.
    """
    with atomic_write(path, "w") as file:
        file.write(_indented(_plain(content), "\n") + "\n")


def write_csv(path: str | Path, rows: Sequence[Mapping], columns: Sequence[str] | None = None) -> None:
    """Write rows, mappings with the same keys, atomically. Floats keep all their digits.

    Args:
        path: the file to write.
        rows: may be empty if `columns` are given.
        columns: keys of the rows in order; by default those of the first row.
    """
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, list(rows[0]) if columns is None else columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def result_content(name: str, description: str, metrics: Mapping[str, float], bands: int, settings: Mapping) -> dict:
    """Return the content of a result file with one point.

    Args:
        name: shown in the legend of a plot.
        description: one line.
        metrics: means over the images, with `bpppc` and `psnr`.
        bands: number of bands of the images; `bpp` is `bpppc` times this.
        settings: versions, commit, device, arguments, data set.

    Returns:
        `{"name", "description", "results": {metric: [value]}, "settings"}`. `bpp` and `psnr-rgb` are added as the
        names by which `python -m compressai.utils.plot` finds rate and PSNR.
    """
    values = {**metrics, "bpp": metrics["bpppc"] * bands, "psnr-rgb": metrics["psnr"]}
    return {
        "name": name,
        "description": description,
        "results": {key: [value] for key, value in values.items()},
        "settings": dict(settings),
    }


_ROWS = {
    "bpppc": ("rate", "{:.4f} bpppc"),
    "psnr": ("PSNR", "{:.3f} dB"),
    "psnr_pooled": ("PSNR, pooled", "{:.3f} dB"),
    "mse": ("MSE", "{:.4e}"),
    "ssim": ("SSIM", "{:.6f}"),
    "sa": ("spectral angle", "{:.4f} degrees"),
    "encoding_time": ("encoding", "{:.4f} s per image"),
    "decoding_time": ("decoding", "{:.4f} s per image"),
}


def format_table(metrics: Mapping[str, float], published: Mapping[str, float] | None = None) -> str:
    """Return a table of metrics as text, with `published` figures beside the measured ones."""
    header = [f"{'':16}{'measured':>22}" + (f"{'published':>18}" if published else "")]
    lines = []
    for key, (label, pattern) in _ROWS.items():
        if key not in metrics:
            continue
        line = f"{label:16}{pattern.format(metrics[key]):>22}"
        if published and key in published:
            line += f"{published[key]:>18.2f}"
        lines.append(line)
    return "\n".join(header + lines)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _indented(value: object, line_end: str) -> str:
    """Return JSON with the members of objects and the rows of tables on lines of their own."""
    inner = line_end + "  "
    if isinstance(value, dict) and value:
        members = (f"{json.dumps(key)}: {_indented(item, inner)}" for key, item in value.items())
        return "{" + inner + f",{inner}".join(members) + line_end + "}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        rows = (json.dumps(item) if _is_row(item) else _indented(item, inner) for item in value)
        return "[" + inner + f",{inner}".join(rows) + line_end + "]"
    return json.dumps(value)


def _is_row(value: object) -> bool:
    """Return whether no member of `value` is an object: it is written on one line."""
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not any(isinstance(member, dict) for member in members)
