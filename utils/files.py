"""Writing files so that a killed process or a full disk never leaves half of one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside `path`; on leaving the block flush it to the disk and rename it.

    Whatever was at `path` stays until the new content is complete; after an exception, or a kill,
    it is still there. The temporary name is `.<name>.tmp`, always the same, so that the next write
    takes over what a killed one left; a path has one writer at a time. Folders on the way are created.

    Args:
        path: the file to write.
        mode: "wb", or "w" for UTF-8 text with Unix line ends.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
