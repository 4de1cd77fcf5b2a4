"""The report of the speed benchmark: speed.json holds its rows, speed.md is drawn from that."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from benchmarks.report import Columns, short, table
from utils.files import atomic_write
from utils.results import write_json

PARTS = ("left_out", "limits", "models", "gpu", "preprocessing", "loading", "scripts", "scaling")


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


_MEGA, _GIGA = partial(short, scale=1e-6), partial(short, scale=1e-9)
_MODELS: Columns = {
    "model": ("model", str),
    "work": ("work", str),
    "size": ("side", str),
    "repeats": ("repeats", "{:g}".format),
    "baseline_seconds": ("baseline s", short),
    "seconds": ("ours s", short),
    "speedup": ("speed-up", "{:.2f}".format),
    "images_per_second": ("images/s", short),
    "megabytes_per_second": ("MB/s", short),
    "baseline_peak_bytes": ("baseline MB", _MEGA),
    "peak_bytes": ("ours MB", _MEGA),
    "peak_ratio": ("ratio", short),
    "baseline_flops": ("baseline GFLOP", _GIGA),
    "flops": ("ours GFLOP", _GIGA),
    "limit_seconds": ("limit s", short),
    "limit_share": ("share", _percent),
    "deviation": ("deviation", "{:.1e}".format),
}
_RATES: Columns = {
    "patches_per_second": ("patches/s", short),
    "reading_patches_per_second": ("reading alone, patches/s", short),
    "share_of_reading": ("share", _percent),
}
_GPU: Columns = {
    "model": ("model", str),
    "work": ("work", str),
    "size": ("size", str),
    "form": ("form", str),
    "milliseconds": ("ms", short),
    "speedup": ("speed-up", "{:.2f}".format),
    "images_per_second": ("images/s", short),
    "deviation": ("deviation", "{:.1e}".format),
    "first_seconds": ("first call s", short),
    "first_peak_bytes": ("first call GB", _GIGA),
    "peak_bytes": ("GB", _GIGA),
}
_TABLES: dict[str, tuple[str, Columns]] = {
    "preprocessing": ("Preprocessing", {"processes": ("processes", str), "patches": ("patches", str), **_RATES}),
    "loading": (
        "Loading",
        {
            "dtype": ("file", str),
            "transform": ("transform", str),
            "workers": ("workers", str),
            "cache": ("page cache", str),
            **_RATES,
        },
    ),
    "scripts": ("Starting", {"command": ("command", str), "seconds": ("seconds", short)}),
    "scaling": (
        "Two processes",
        {
            "model": ("model", str),
            "images_per_second": ("one process, images/s", short),
            "images_per_second_of_two": ("two, images/s", short),
            "share_of_twice": ("efficiency", _percent),
        },
    ),
}
"""Title and columns of the table of each part but `left_out`, `limits` and `models`."""


class Report:
    """The rows measured so far, written to the disk after every new one.

    Args:
        folder: of speed.json and speed.md; created if missing.
        content: of speed.json.

    Attributes:
        content: `name`, `settings`, and a list of rows for each of `PARTS`.
    """

    def __init__(self, folder: Path, content: dict) -> None:
        self.folder, self.content = folder, content
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of_run(cls, folder: Path, settings: Mapping) -> Report:
        """Return an empty report that has the name of its folder.

        Args:
            folder: for speed.json and speed.md.
            settings: plain values; `tables` needs "devices" (name -> text), "versions" (that of torch at least) and
                "git_commit".
        """
        return cls(folder, {"name": folder.name, "settings": settings, **{part: [] for part in PARTS}})

    def say(self, text: str) -> None:
        """Print on stderr what is measured next."""
        print(text, file=sys.stderr, flush=True)

    def leave_out(self, text: str) -> None:
        """Note what is not measured, and why."""
        self.say(f"left out: {text}")
        self.add("left_out", text)

    def add(self, part: str, row: Mapping | str) -> None:
        """Append a row to a part and write both files."""
        self.content[part].append(row)
        self.write()

    def write(self) -> None:
        """Write both files, each atomically."""
        write_json(self.folder / "speed.json", self.content)
        with atomic_write(self.folder / "speed.md", "w") as file:
            file.write(self.tables())

    def tables(self) -> str:
        """Return the report in Markdown."""
        content, settings = self.content, self.content["settings"]
        machine = [f"{name}: {text}" for name, text in settings["devices"].items()]
        machine += [f"torch {settings['versions']['torch']}", f"commit {settings['git_commit']}"]
        parts = [f"# Speed: {content['name']}", "; ".join(machine)]
        for limits in content["limits"]:
            parts += self._models(limits)
        parts += self._gpus()
        parts += [f"Left out: {text}." for text in content["left_out"]]
        for part, (title, columns) in _TABLES.items():
            if content[part]:
                parts += [f"## {title}", table(pd.DataFrame(content[part]), columns)]
        return "\n\n".join(parts) + "\n"

    def _gpus(self) -> list[str]:
        """Return the tables of the part `gpu`, one for each GPU."""
        parts = []
        rows = self.content.get("gpu", [])
        for device in dict.fromkeys(row["device"] for row in rows):
            own = [_of_gpu(row) for row in rows if row["device"] == device]
            parts += [
                f"## Loading, training and coding on GPU {device}",
                table(pd.DataFrame(own, columns=[*_GPU]), _GPU),
            ]
            parts += [f"{row['model']}, {row['work']}, {row['form']}: {row['note']}" for row in rows if row["note"]]
        return parts

    def _models(self, limits: Mapping) -> list[str]:
        device, precision = limits["device"], limits["precision"]
        rows = [row for row in self.content["models"] if (row["device"], row["precision"]) == (device, precision)]
        parts = [
            f"## Models on {device}, ours in {precision}",
            f"Limits: {_GIGA(limits['flops_per_second'])} GFLOP/s in a matrix product, "
            f"{_GIGA(limits['bytes_per_second'])} GB/s in a copy. "
            "Seconds and GFLOP for one image; memory in MB without weights and input.",
            table(pd.DataFrame([row | {"size": _size(row)} for row in rows], columns=[*_MODELS]), _MODELS),
        ]
        return parts + [f"{row['model']}, {row['work']}: {row['note']}" for row in rows if row["note"]]


def _size(row: Mapping) -> str | None:
    if "side" not in row:
        return None
    return str(row["side"]) if row["batch"] == 1 else f"{row['batch']} x {row['side']}"


def _of_gpu(row: Mapping) -> dict:
    seconds = row.get("seconds")
    milliseconds = seconds and 1000 * seconds
    rate = seconds and row["batch"] / seconds
    return {**row, "size": f"{row['batch']} x {row['side']}", "milliseconds": milliseconds, "images_per_second": rate}
