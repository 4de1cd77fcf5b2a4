"""Stored points of `benchmark.py rd`, found by content: what one machine has measured, no other measures again.

A folder holds the points of one codec on one image. Its name is a hash of all that their figures depend on: the
samples, the codec's settings, the sources of the codec and of the measurement, and the versions of the libraries that
they call. After a change of any of these the name is another, and the points are measured anew.

Any number of processes may add to a folder, on any file system: each has a file of its own, with a line of JSON for
each point, which it replaces by a longer one after each point. So files are always whole, and need no locks.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from utils.files import name_in_errors

if TYPE_CHECKING:
    from benchmarks.rd.images import Image

Point: TypeAlias = tuple[str, float | None]
"""Kind and target of a point."""

ROOT = Path(__file__).resolve().parents[2]
FOLLOWED = ("coding", "models")
"""Packages whose imports are followed. The others do not change what a codec writes for given samples."""
MEASUREMENT = ("benchmarks.rd.points", "utils.metrics")
"""Modules on which the figures of every codec depend."""
LIBRARIES = ("imagecodecs", "numba", "numpy")
MODEL_LIBRARIES = ("compressai", "torch")


def image_sha256(image: Image) -> str:
    """Return the SHA-256 of an image's type, shape, peak, samples and mask."""
    shape = "x".join(map(str, image.cube.shape))
    digest = hashlib.sha256(f"{image.cube.dtype} {shape} {image.peak:g}\n".encode())
    digest.update(image.cube.astype(image.cube.dtype.newbyteorder("<"), order="C", copy=False).data)
    digest.update(np.packbits(image.valid).data)
    return digest.hexdigest()


def points_folder(folder: Path, image: str, settings: Mapping, code: str) -> Path:
    """Return the folder for the points of a codec on an image.

    Args:
        folder: of the codec's points.
        image: of `image_sha256`.
        settings: of the codec, values for JSON.
        code: of `code_sha256`.
    """
    text = json.dumps([image, dict(settings), code], sort_keys=True)
    return folder / hashlib.sha256(text.encode()).hexdigest()[:32]


def read_rows(folder: Path) -> list[dict]:
    """Return the rows of a folder, each point once: `kind` and `target` with figures, or with a `note` why not."""
    rows: dict[Point, dict] = {}
    for path in sorted(folder.glob("[!.]*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.setdefault((row["kind"], row["target"]), row)
    return list(rows.values())


def points_of(rows: Iterable[Mapping]) -> set[Point]:
    """Return kind and target of each row."""
    return {(row["kind"], row["target"]) for row in rows}


class Writer:
    """Stores the points that this process measures for a folder.

    Args:
        folder: created with the first point.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._lines = folder / f"{uuid.uuid4().hex}.jsonl", ""

    def add(self, row: Mapping) -> None:
        """Store a row.

        Raises:
            OSError: the file cannot be written.
        """
        self._lines += json.dumps(dict(row)) + "\n"
        temporary = self._path.with_name(f".{self._path.name}")
        with name_in_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "w", encoding="utf-8") as file:
                    file.write(self._lines)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self._path)
            finally:
                temporary.unlink(missing_ok=True)


# -- the version of the code ----------------------------------------------------------------------


@functools.cache
def code_sha256(modules: tuple[str, ...], has_model: bool = False) -> str:
    """Return a hash of the sources that a codec's figures depend on, and of the versions of its libraries.

    Args:
        modules: of the codec; the modules of `FOLLOWED` that these and `MEASUREMENT` import, directly or not, count.
        has_model: whether `MODEL_LIBRARIES` count.
    """
    found: set[str] = set()
    pending = {*modules, *MEASUREMENT}
    while pending:
        module = pending.pop()
        found.add(module)
        pending |= {name for name in _imports(module) if name.partition(".")[0] in FOLLOWED} - found
    digest = hashlib.sha256()
    for library in (*LIBRARIES, *(MODEL_LIBRARIES if has_model else ())):
        digest.update(f"{library} {metadata.version(library)}\n".encode())
    for module in sorted(found):
        digest.update(f"{module}\n".encode() + _source(module))
    return digest.hexdigest()


@functools.cache
def _imports(module: str) -> set[str]:
    """Return the modules of this project that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if _file(name)}


def _source(module: str) -> bytes:
    file = _file(module)
    assert file is not None  # only modules of this project are looked up
    return file.read_bytes()


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
