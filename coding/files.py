"""What compress.py and decompress.py have in common: files, cores, and a bar."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from coding import codecs
from coding.base import CodingError, DamagedError, TileCoder
from coding.hsc.container import Reader
from models import models
from utils.errors import UsageError
from utils.processes import limit_threads, num_cores

# torch is imported where it is used: --info must not wait for it.


@contextlib.contextmanager
def open_file(path: str | os.PathLike) -> Iterator[Reader]:
    """A `.hsc` file.

    Raises:
        DamagedError: there is none, or it is damaged before its records.
    """
    if not os.path.exists(path):
        raise DamagedError(f"{path}: no such file")
    if os.path.isdir(path):
        raise DamagedError(f"{path} is a folder: name a .hsc file")
    with open(path, "rb") as file:
        yield Reader(file, str(path))


def print_info(path: str) -> int:
    with open_file(path) as reader:
        print(reader.info())
    return 0


def check_output(output: str, source: str, overwrite: bool) -> Path:
    """The path to write.

    Raises:
        UsageError: it is there, or what is to be read.
    """
    path = Path(output)
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise UsageError(f"{output} is what is to be read: give another name")
    if path.is_dir():
        raise UsageError(f"{output} is a folder: give the name of a file in it")
    if path.exists() and not overwrite:
        raise UsageError(f"{output} is there already: give --overwrite to replace it")
    return path


def use_cores(num_workers: int) -> int:
    """How many tiles to work on at a time; each takes its share of the cores.

    Args:
        num_workers: 0 for as many as there are cores.
    """
    cores = num_cores()
    num_workers = num_workers or cores
    limit_threads(max(1, cores // num_workers))
    return num_workers


@contextlib.contextmanager
def pixel_bar(description: str, num_pixels: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where someone watches, moved on by pixels."""
    hidden = not sys.stderr.isatty()
    with tqdm(desc=description, total=num_pixels, unit="px", unit_scale=True, leave=False, disable=hidden) as bar:
        yield bar.update


def open_coder(reader: Reader, checkpoint: str | None, device: str) -> TileCoder:
    """What decodes the tiles of a file.

    Raises:
        DamagedError: a codec or a model that is not known here, or parameters that cannot be.
        CodingError: other weights than the file was coded with, or any where it needs none.
    """
    header = reader.header
    if header.codec not in codecs:
        raise DamagedError(f"header field 'codec' is {header.codec!r}, known are {', '.join(codecs)}")
    network = None
    if header.model is not None:
        name = header.model["name"]
        if name not in models:
            raise DamagedError(f"header field 'model.name' is {name!r}, which is no model of the registry")
        from coding.learned.network import load_network

        network = load_network(name, checkpoint, header.model["num_channels"], device)
    elif checkpoint is not None:
        raise CodingError(f"the file was coded by {header.codec}, which has no weights: leave --checkpoint out")
    return codecs[header.codec](header, reader.shared, network)
