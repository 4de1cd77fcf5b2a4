"""Errors that a user can cause, and how the scripts report them: one line, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


class ProjectError(Exception):
    """Something the user can put right: the message says what is wrong, where, and what to do."""

    exit_code = 1


class UsageError(ProjectError):
    """A flag or a combination of flags that cannot work."""

    exit_code = 2


class DatasetError(ProjectError, ValueError):
    """A data set, split or patch that is missing, damaged or of another shape."""


class CheckpointError(ProjectError, ValueError):
    """A file that is no checkpoint, is damaged, or belongs to another model."""


def one_line(error: BaseException) -> str:
    """The message of `error` on its own.

    An error raised in a DataLoader worker arrives as the text of a whole traceback; its last line
    reads `package.module.Class: message`.
    """
    text = str(error).strip()
    if "Original Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return text


def run_script(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Run `main(argv)` of a script and exit: 0, its status, 2 for wrong usage, 1 for a failed run."""
    try:
        status = main(None)
    except ProjectError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        status = error.exit_code
    except BrokenPipeError:  # `... | head` closed the pipe
        sys.stderr.close()
        status = 141
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status or 0)
