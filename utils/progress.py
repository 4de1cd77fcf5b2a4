"""Progress bars."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def pixel_bar(description: str, num_pixels: int) -> Iterator[Callable[[int], object]]:
    """Yield a function that advances a progress bar by a number of pixels; the bar is shown on terminals only."""
    hidden = not sys.stderr.isatty()
    with tqdm(desc=description, total=num_pixels, unit="px", unit_scale=True, leave=False, disable=hidden) as bar:
        yield bar.update
