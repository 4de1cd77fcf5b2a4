"""Errors that a user can cause, reported by the scripts in one line without a traceback."""

from __future__ import annotations

import errno
import re


class ProjectError(Exception):
    """An error that the user can fix. The message says what is wrong, where, and what to do."""

    exit_code = 1


class UsageError(ProjectError):
    """A flag or a combination of flags that cannot work."""

    exit_code = 2


class BusyError(ProjectError):
    """A file or a folder that another process is writing."""


class DatasetError(ProjectError, ValueError):
    """A data set, split, patch or scene that is missing, damaged or of the wrong shape."""


class CheckpointError(ProjectError, ValueError):
    """A file that is missing, damaged, not a checkpoint, or of another model."""


def one_line(error: BaseException) -> str:
    """Return the message of `error` on one line, or the name of its class if it has none."""
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line) or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` is one by which Python, numpy or torch report that memory ran out."""
    # torch.OutOfMemoryError by its name, as this module must not import torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(
        re.search(r"can't allocate memory|bad_alloc|out of memory|can't start new thread", str(error))
    )


def user_message(error: BaseException) -> str | None:
    """Return what to tell the user about an error in one line; None for an error that only a bug can cause."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    if type(error).__name__ == "OutOfMemoryError":  # of a GPU
        return f"{first} Give a smaller batch size, or another device."
    if is_out_of_memory(error):
        detail = f" ({first.rstrip('.')})" if first else ""
        return f"memory ran out{detail}: give a smaller batch or tile size, or fewer --num-workers"
    is_expected = isinstance(error, ProjectError | OSError)  # OSError: a full disk, a read-only folder
    return one_line(error) if is_expected else None
