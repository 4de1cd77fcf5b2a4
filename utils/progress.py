"""Progress bars."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

LOG_SECONDS = 60.0


@contextlib.contextmanager
def pixel_bar(description: str, num_pixels: int) -> Iterator[Callable[[int], object]]:
    """Yield a function that advances a progress bar by a number of pixels; the bar is shown on terminals only."""
    hidden = not sys.stderr.isatty()
    with tqdm(desc=description, total=num_pixels, unit="px", unit_scale=True, leave=False, disable=hidden) as bar:
        yield bar.update


@contextlib.contextmanager
def job_bar(description: str, num_jobs: int, num_done: int = 0) -> Iterator[tqdm]:
    """Yield a progress bar of jobs with an estimate of the rest; in a log file it is a line a minute.

    Args:
        description: before the bar.
        num_jobs: of the bar.
        num_done: jobs that were done before, which the estimate must not count.
    """
    seconds = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    # Jobs differ in length: the mean over all of them estimates better than that over recent ones.
    with tqdm(desc=description, total=num_jobs, initial=num_done, mininterval=seconds, smoothing=0) as bar:
        yield bar
