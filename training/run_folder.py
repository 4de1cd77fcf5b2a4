"""settings.json in the folder of a run: its origin and its result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from utils.results import write_json

SETTINGS = "settings.json"


def shown(path: Path) -> str:
    """Return a path as a user would type it from the current folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def read_settings(run_dir: Path) -> dict:
    """Return the content of settings.json, empty if there is no such file."""
    path = run_dir / SETTINGS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def record_start(run_dir: Path, facts: Mapping, start: Mapping) -> None:
    """Record that the run begins or is resumed.

    Args:
        run_dir: folder of the run.
        facts: what stays the same during the whole run: model, rate, parameters, data.
        start: what belongs to this start alone: arguments, position, device, versions.
    """
    entry = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), **start}
    starts = [*read_settings(run_dir).get("starts", []), entry]
    write_json(run_dir / SETTINGS, {"run": run_dir.name, **facts, "starts": starts, "finished": None})


def record_end(run_dir: Path, finished: Mapping) -> None:
    """Record that the run has finished, and its result."""
    write_json(run_dir / SETTINGS, {**read_settings(run_dir), "finished": finished})
