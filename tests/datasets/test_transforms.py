import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.transforms import SIZES, TRANSFORMS, get_transform
from utils.errors import UsageError


def coordinates(height, width):
    """Return a cube whose two channels hold every pixel's row and column."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns]).astype(np.float32)


def test_names_are_kinds_and_sizes():
    assert SIZES == (1, 2, 4, 8, 16, 32, 64)
    kinds = ("random", "centercrop", "randomcrop")
    assert set(TRANSFORMS) == {"none"} | {f"{kind}_{n}x{n}" for kind in kinds for n in SIZES}
    assert get_transform(None) is None
    assert get_transform("none") is None
    with pytest.raises(UsageError, match=r"unknown transform 'random_3x3'.*random_16x16"):
        get_transform("random_3x3")


@pytest.mark.parametrize("name", TRANSFORMS[1:])
def test_every_transform_copies_pixels_of_the_stated_shape(name):
    transform = get_transform(name)
    assert transform.name == name
    size = transform.size
    assert transform.keeps_neighbors is not name.startswith("random_")
    cube = coordinates(67, 70)
    out = transform(cube, np.random.default_rng(0))
    assert out.shape == (2, size, size) == transform.output_shape(cube.shape)
    assert out.dtype == np.float32 and out.flags.c_contiguous and type(out) is np.ndarray
    assert not np.shares_memory(out, cube)
    np.testing.assert_array_equal(out, transform(cube, np.random.default_rng(0)))
    rows, columns = out
    if transform.keeps_neighbors:
        assert (np.diff(rows, axis=0) == 1).all() and (np.diff(columns, axis=1) == 1).all()
    with pytest.raises(ValueError, match=f"{name} needs patches of at least {size}x{size}, not"):
        transform(coordinates(size - 1, 70), np.random.default_rng(0))


@pytest.mark.parametrize("name", ["random_4x4", "randomcrop_4x4"])
def test_other_generators_draw_other_pixels(name):
    cube = coordinates(33, 70)
    draws = {get_transform(name)(cube, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(draws) > 15


def test_random_takes_one_pixel_from_each_cell_and_reaches_all_of_the_cell():
    height, width, size = 11, 9, 4
    row_borders = [i * height // size for i in range(size + 1)]
    column_borders = [i * width // size for i in range(size + 1)]
    seen = set()
    for seed in range(200):
        rows, columns = get_transform("random_4x4")(coordinates(height, width), np.random.default_rng(seed))
        for i in range(size):
            assert (rows[i] >= row_borders[i]).all() and (rows[i] < row_borders[i + 1]).all()
            assert (columns[:, i] >= column_borders[i]).all() and (columns[:, i] < column_borders[i + 1]).all()
        seen |= set(zip(rows.ravel(), columns.ravel(), strict=True))
    assert len(seen) == height * width
    assert len(set(rows[0] - row_borders[0])) > 1 or len(set(rows[1] - row_borders[1])) > 1, "cells draw alike"


def test_crops_are_centered_or_reach_every_position():
    rows, columns = get_transform("centercrop_4x4")(coordinates(12, 9), np.random.default_rng(0))
    assert rows[0, 0] == 4 and columns[0, 0] == 2
    corners = set()
    for seed in range(100):
        rows, columns = get_transform("randomcrop_8x8")(coordinates(9, 10), np.random.default_rng(seed))
        corners.add((rows[0, 0], columns[0, 0]))
    assert corners == {(row, column) for row in range(2) for column in range(3)}


def test_listing_the_names_imports_no_torch():
    modules = "datasets, datasets.enmap, datasets.transforms, datasets.preprocess, datasets.split"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
