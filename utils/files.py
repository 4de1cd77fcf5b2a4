"""Output files and folders: written atomically, checked before the work, named by time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from utils.errors import ProjectError, UsageError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write a file to; at the end flush it to the disk and rename it.

    The old file at `path` stays until the new one is complete, also after an exception or a kill. The
    temporary name is always `.<name>.tmp`, so that the next write replaces the leftover of a killed one; a path
    must have one writer at a time. Parent folders are created.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open the temporary file of `atomic_path` for writing.

    Args:
        path: the file to write.
        mode: "wb", or "w" for UTF-8 text with Unix line ends.

    Raises:
        OSError: the file cannot be written.
    """
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    with atomic_path(path) as temporary, open(temporary, mode, encoding=encoding, newline=newline) as file:
        yield file


def check_output(output: str, source: str, overwrite: bool) -> Path:
    """Return the path of a file to write.

    Args:
        output: the file to write.
        source: the file that is read.
        overwrite: whether `output` may exist.

    Raises:
        UsageError: `output` is `source` or a folder, or exists and must not be replaced.
    """
    path = Path(output)
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise UsageError(f"{output} is the input: give another name for the output")
    if path.is_dir():
        raise UsageError(f"{output} is a folder: give the name of a file in it")
    if path.exists() and not overwrite:
        raise UsageError(f"{output} exists: give --overwrite to replace it")
    return path


def stamped_folder(parent: str | os.PathLike, suffix: str = "") -> Path:
    """Create a new folder in `parent`, named by the time, and return its absolute path.

    Args:
        parent: created if missing.
        suffix: added to the name after a hyphen.

    Returns:
        `parent`/YYYY_MM_DD-HH_MM_SS-`suffix`, with -2, -3, ... after it where that exists.

    Raises:
        ProjectError: 99 folders of this second exist already.
    """
    parent = Path(parent).resolve()
    parent.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now():%Y_%m_%d-%H_%M_%S}" + (f"-{suffix}" if suffix else "")
    for ending in ("", *(f"-{number}" for number in range(2, 100))):
        folder = parent / (name + ending)
        with contextlib.suppress(FileExistsError):  # taken by another process in the same second
            folder.mkdir()
            return folder
    raise ProjectError(f"{parent / name}: 99 folders of this second exist already: try again")
