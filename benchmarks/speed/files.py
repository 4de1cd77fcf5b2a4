"""Read files and do nothing with them: the baseline of loading and preprocessing.

Nothing here imports torch: processes that read scenes must not wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from datasets.scenes import open_scene


def drop_from_cache(paths: Iterable[Path]) -> None:
    """Ask the system to forget the contents of files, which must be on the disk: `fsync` them when written.

    Layers below the system, such as the host of a virtual machine, may still hold them.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read_files(paths: Iterable[Path]) -> None:
    """Read files from beginning to end into one buffer, and do nothing with them."""
    buffer = bytearray()
    for path in paths:
        size = path.stat().st_size
        if len(buffer) < size:
            buffer = bytearray(size)
        with open(path, "rb", buffering=0) as file:
            file.readinto(buffer)


def read_scene(path: Path) -> None:
    """Read and decode all bands of a scene, and do nothing with them."""
    with open_scene(path) as scene:
        scene.read(0, 0, scene.info.height, scene.info.width)
