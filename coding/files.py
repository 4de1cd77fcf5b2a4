"""What compress.py and decompress.py have in common: files and a bar."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

from coding import codecs
from coding.base import CodingError, DamagedError, TileCoder
from coding.hsc.container import Reader
from models import models

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
