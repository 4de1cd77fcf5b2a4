"""A run's folder: its name, and settings.json, which tells how it came about."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from utils.environment import git_commit, versions
from utils.errors import UsageError
from utils.results import write_json

SETTINGS = "settings.json"


def shown(path: Path) -> str:
    """A path as a user would type it from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def read_settings(run_dir: Path) -> dict:
    """The content of settings.json, empty where there is none yet."""
    path = run_dir / SETTINGS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def record_start(run_dir: Path, facts: Mapping, start: Mapping) -> None:
    """Note that the run begins, or goes on.

    Args:
        facts: what stays the same in all of the run: model, rate, parameters, data.
        start: of this start alone: arguments, device, position.
    """
    entry = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        **start,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    starts = [*read_settings(run_dir).get("starts", []), entry]
    write_json(run_dir / SETTINGS, {"run": run_dir.name, **facts, "starts": starts, "finished": None})


def record_end(run_dir: Path, finished: Mapping) -> None:
    """Note that the run has done all it was to do, and with what result."""
    write_json(run_dir / SETTINGS, {**read_settings(run_dir), "finished": finished})


def refuse_finished(run_dir: Path, arguments: Mapping, stored: Mapping, done: bool) -> None:
    """UsageError if the run in `run_dir` has finished and nothing asks for more.

    Args:
        arguments: with which it is to go on.
        stored: its arguments so far.
        done: whether its checkpoint, by `arguments`, is at the end; `best` lies before it.
    """
    finished = read_settings(run_dir).get("finished")
    if not finished:
        return
    early = finished["epochs"] < stored["epochs"]
    more = arguments["early_stopping"] > stored["early_stopping"] if early else arguments["epochs"] > finished["epochs"]
    if done or not more:
        raise UsageError(
            f"the run in {shown(run_dir)} has finished after {finished['epochs']} epochs; "
            f"give a larger {'--early-stopping' if early else '--epochs'} to train on"
        )
