"""The report of the speed benchmark: rows as JSON, and as Markdown tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.speed.measure import markdown_table, short
from utils.files import atomic_write
from utils.results import write_json

_PARTS = ("left_out", "limits", "models", "preprocessing", "loading", "scripts", "scaling")
_RATES = {
    "patches_per_second": "patches/s",
    "reading_patches_per_second": "reading alone, patches/s",
    "share_of_reading": "share",
}
# Title, part and columns, which are keys of the rows with their headings.
_TABLES = (
    ("Preprocessing", "preprocessing", {"processes": "processes", "patches": "patches", **_RATES}),
    (
        "Loading",
        "loading",
        {"dtype": "file", "transform": "transform", "workers": "workers", "cache": "page cache", **_RATES},
    ),
    ("Starting", "scripts", {"command": "command", "seconds": "seconds"}),
    (
        "Two processes",
        "scaling",
        {
            "model": "model",
            "images_per_second": "one process, images/s",
            "images_per_second_of_two": "two, images/s",
            "share_of_twice": "efficiency",
        },
    ),
)
_MODEL_HEADER = (
    *("model", "work", "side", "repeats", "baseline s", "ours s", "speed-up", "images/s", "MB/s"),
    *("baseline MB", "ours MB", "ratio", "baseline GFLOP", "ours GFLOP", "limit s", "share", "deviation"),
)


class Report:
    """What was measured so far, on the disk after every row.

    Args:
        folder: for speed.json and speed.md; made if it is not there.
        name: the report's.
        settings: what it was measured on and with, as plain values; `tables` needs "devices" (name -> text),
            "versions" (with that of torch) and "git_commit".

    Attributes:
        content: of the JSON: `name`, `settings`, and a list of rows for each part (`left_out`, `limits`,
            `models`, `preprocessing`, `loading`, `scripts`, `scaling`).
    """

    def __init__(self, folder: Path, name: str, settings: Mapping):
        self.folder = folder
        self.content = {"name": name, "settings": settings, **{part: [] for part in _PARTS}}
        folder.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        """Tell the user, on stderr, what comes next."""
        print(text, file=sys.stderr, flush=True)

    def leave_out(self, text: str) -> None:
        """Note what is not measured, and why."""
        self.say(f"left out: {text}")
        self.add("left_out", text)

    def add(self, part: str, row: Mapping | str) -> None:
        """Append a row to a part and write everything."""
        self.content[part].append(row)
        self.write()

    def write(self) -> None:
        """Both files, each atomically."""
        write_json(self.folder / "speed.json", self.content)
        with atomic_write(self.folder / "speed.md", "w") as file:
            file.write(self.tables())

    def tables(self) -> str:
        """All of it in Markdown."""
        content, settings = self.content, self.content["settings"]
        parts = [f"# Speed: {content['name']}"]
        machine = [f"{name}: {text}" for name, text in settings["devices"].items()]
        parts.append(
            "; ".join([*machine, f"torch {settings['versions']['torch']}", f"commit {settings['git_commit']}"])
        )
        for limits in content["limits"]:
            key = (limits["device"], limits["precision"])
            rows = [row for row in content["models"] if (row["device"], row["precision"]) == key]
            parts.append(f"## Models on {key[0]}, ours in {key[1]}")
            parts.append(
                f"Limits: {short(limits['flops_per_second'], 1e-9)} GFLOP/s in a matrix product, "
                f"{short(limits['bytes_per_second'], 1e-9)} GB/s in a copy. "
                "Seconds and GFLOP for one image; memory in MB beside weights and input."
            )
            parts.append(markdown_table(_MODEL_HEADER, map(_model_cells, rows)))
            parts += [f"{row['model']}, {row['work']}: {row['note']}" for row in rows if row["note"]]
        parts += [f"Left out: {text}." for text in content["left_out"]]
        for title, part, columns in _TABLES:
            if content[part]:
                cells = [[_cell(key, row[key]) for key in columns] for row in content[part]]
                parts += [f"## {title}", markdown_table(list(columns.values()), cells)]
        return "\n\n".join(parts) + "\n"


def _model_cells(row: Mapping) -> list[str]:
    if "seconds" not in row:
        return [row["model"], row["work"], *["–"] * (len(_MODEL_HEADER) - 2)]
    return [
        row["model"],
        row["work"],
        str(row["side"]) if row["batch"] == 1 else f"{row['batch']} x {row['side']}",
        str(row["repeats"]),
        short(row["baseline_seconds"]),
        short(row["seconds"]),
        f"{row['speedup']:.2f}",
        short(row["images_per_second"]),
        short(row["megabytes_per_second"]),
        short(row["baseline_peak_bytes"], 1e-6),
        short(row["peak_bytes"], 1e-6),
        short(row["peak_ratio"]),
        short(row["baseline_flops"], 1e-9),
        short(row["flops"], 1e-9),
        short(row["limit_seconds"]),
        f"{row['limit_share'] * 100:.0f} %",
        f"{row['deviation']:.1e}",
    ]


def _cell(key: str, value: float | int | str) -> str:
    if key.startswith("share"):
        return f"{value * 100:.0f} %"
    return short(value) if isinstance(value, float) else str(value)
