"""How a script starts and ends: imports, errors, the exit status."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from utils.errors import ProjectError, one_line, user_message


@contextlib.contextmanager
def lasting_imports() -> Iterator[None]:
    """Import heavy modules in the block: a sixth of the time would go to looking for garbage among their objects.

    The garbage collector does not look at them while the script runs either, nor at its end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.unregister(_end_quickly)
        atexit.register(_end_quickly)


def _end_quickly() -> None:
    """Leave all objects uncollected, except with triton, whose bindings print what is left of theirs."""
    if "triton" in sys.modules:
        gc.unfreeze()
    else:
        gc.freeze()


def run_script(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Run `main(None)` of a script and exit with its status, None counting as 0.

    Errors exit with 2 for wrong usage, 1 for a failed run, 130 after Ctrl-C and 141 for a closed pipe. Exceptions that
    only a bug can cause keep their traceback. Where stdout cannot show a character of a file's name, it is escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main(None)
    except ProjectError as error:
        status = _fail(one_line(error), error.exit_code)
    except BrokenPipeError:  # `... | head` closed the pipe
        sys.stderr.close()
        status = 141
    except (OSError, RuntimeError, MemoryError) as error:
        message = user_message(error)
        if message is None:
            raise
        status = _fail(message)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status or 0)


def _fail(message: str, status: int = 1) -> int:
    rank = os.environ.get("RANK", "0")
    print(f"error{'' if rank == '0' else f' in process {rank}'}: {message}", file=sys.stderr)
    return status
