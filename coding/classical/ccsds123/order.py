"""The order in which the samples of an image are coded: band-sequential, or band-interleaved of any depth.

A segment is a row of one band, or of up to M bands whose samples alternate. Segments follow each other in the order of
the stream, and so do the samples of a segment: for each column, those of its bands.
"""

from __future__ import annotations

from coding.entropy.compiled import inlined


def count_segments(shape: tuple[int, int, int], depth: int) -> int:
    """Return the number of segments of an image (C, H, W) with interleaving depth `depth`, 0 for band-sequential."""
    bands, height, _ = shape
    return height * (-(-bands // depth) if depth else bands)


@inlined
def segment_at(index, bands, height, depth):
    """Return the first band of a segment, the band after its last, and its row."""
    if depth == 0:
        return index // height, index // height + 1, index % height
    groups = (bands + depth - 1) // depth
    first = index % groups * depth
    return first, min(first + depth, bands), index // groups
