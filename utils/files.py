"""Output files and folders: written atomically, by one process at a time, checked before the work, named by time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from utils.errors import BusyError, ProjectError, UsageError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder to write `path` and its side files in; at the end move all files beside `path`.

    The files have their final names: `path.name` and, for formats of several files, any others. They are flushed to
    the disk, then renamed, `path.name` last. Until then, and after an exception or a kill, the old files stay.

    The folder lies in `.<name>.tmp`, which the process locks. The next writer removes what a killed one left there.
    On a file system without locks, several writers do not notice each other, but each has a folder of its own and
    the last one to end wins. Parent folders are created.

    Raises:
        BusyError: another process is writing `path`.
        OSError: the files cannot be written.
    """
    path = Path(path)
    with name_in_errors(path), contextlib.ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        claim = stack.enter_context(_claimed(path))
        folder = Path(tempfile.mkdtemp(dir=claim))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder
        files = [*(file for file in folder.iterdir() if file.name != path.name), folder / path.name]
        for file in files:
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        for file in files:
            os.replace(file, path.with_name(file.name))


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[Path]:
    """Yield the locked folder for temporary files of `path`, without what a killed writer left in it."""
    claim = path.with_name(f".{path.name}.tmp")
    if claim.is_file():  # left by version 0.2, which had no folder
        claim.unlink()
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, claim)
        busy = f"{path}: another process is writing it: wait for it, or name another output"
        is_alone = stack.enter_context(locked(claim / "lock", busy))
        for leftover in claim.iterdir() if is_alone else ():
            shutil.rmtree(leftover, ignore_errors=True)  # the lock, a file, stays
        yield claim


def remove_leftovers(path: Path) -> None:
    """Remove what a killed writer of `path` left beside it.

    Raises:
        OSError: it cannot be removed.
    """
    if path.with_name(f".{path.name}.tmp").exists():
        with contextlib.suppress(BusyError), _claimed(path):
            pass


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the path in the folder of `atomic_folder` to write a file to, which is renamed to `path` at the end.

    Raises:
        BusyError: another process is writing `path`.
        OSError: the file cannot be written.
    """
    with atomic_folder(path) as folder:
        yield folder / Path(path).name


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open the temporary file of `atomic_path` for writing.

    Args:
        path: the file to write.
        mode: "wb", or "w" for UTF-8 text with Unix line ends.

    Raises:
        BusyError: another process is writing `path`.
        OSError: the file cannot be written.
    """
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    with atomic_path(path) as temporary, open(temporary, mode, encoding=encoding, newline=newline) as file:
        yield file


@contextlib.contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Name `path` in errors about its temporary files, and about a full disk, which come without a name.

    Raises:
        OSError: as in the block.
    """
    try:
        yield
    except OSError as error:
        is_temporary = f".{path.name}.tmp" in Path(str(error.filename)).parts
        if is_temporary or (error.filename is None and error.errno in _NO_ROOM):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[bool]:
    """Hold the lock of the file `path`, which is created, and deleted at the end.

    The lock of a process that was killed is free. The folder of `path` is created, but not the parents of the folder.

    Args:
        path: the file.
        busy: the message of the error.

    Yields:
        False on a file system without locks, where nobody is excluded.

    Raises:
        BusyError: another process holds the lock.
        OSError: the file cannot be created.
    """
    while (descriptor := _open_to_lock(path)) is None or (is_locked := _lock(path, descriptor, busy)) is None:
        pass  # another process has just deleted the file
    try:
        yield is_locked
    finally:
        path.unlink(missing_ok=True)  # before the lock is released: later, the file may be another's
        os.close(descriptor)


def _open_to_lock(path: Path) -> int | None:
    """Return the descriptor of the file; None if its folder is deleted in this moment."""
    with contextlib.suppress(FileExistsError):  # exist_ok=True still raises it if the folder is deleted meanwhile
        path.parent.mkdir()
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # NFS only locks files that are open for writing
    return None


def _lock(path: Path, descriptor: int, busy: str) -> bool | None:
    """Lock the file; return False if the file system has no locks, None, with the file closed, if it was deleted."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BusyError(busy) from None
    except OSError:
        return False
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), os.fstat(descriptor)):
            return True
    os.close(descriptor)
    return None


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # the next writer has locked it already
        folder.rmdir()


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
