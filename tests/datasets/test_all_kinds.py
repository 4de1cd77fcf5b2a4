"""Copy random scenes through `open_scene` and `create_scene`: a copy has all that rasterio reads from the original."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from datasets.losses import unkept
from datasets.scenes import create_scene, losses_of_writing, open_scene
from tests.scenes_of_all_kinds import content_of, scenes


def copy(source, target):
    with open_scene(source) as scene, create_scene(target, scene.info) as copied:
        for row in range(0, scene.info.height, 128):
            for column in range(0, scene.info.width, 128):
                window = (row, column, min(128, scene.info.height - row), min(128, scene.info.width - column))
                copied.write(row, column, scene.read(*window))
                copied.write_masks(row, column, scene.read_masks(*window))
        return scene.losses


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(scene=scenes())
def test_a_geotiff_is_copied_with_all_that_gdal_reads(scene):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.tif"), Path(folder, "out.tif")
        scene.write(source)
        assert copy(source, target) == ()
        assert content_of(target) == content_of(source)
        left = {path.name.removeprefix("out.tif") for path in Path(folder).iterdir() if path.name.startswith("out")}
        assert left <= {"", ".aux.xml", ".msk"}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(scene=scenes())
def test_an_envi_copy_has_all_but_what_is_named(scene):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.tif"), Path(folder, "out.img")
        scene.write(source)
        assume(scene.dtype != "int8")
        copy(source, target)
        with open_scene(source) as one, open_scene(target) as other:
            window = (0, 0, one.info.height, one.info.width)
            np.testing.assert_array_equal(other.read(*window), one.read(*window))
            np.testing.assert_array_equal(other.read_masks(*window), one.read_masks(*window))
            losses = losses_of_writing(target, one.info)
            assert unkept(one.info, other.info) == losses
            assert {loss.name for loss in losses} <= {"crs", "transform", "colors"}
            assert not (losses and scene.place == "north-up" and scene.crs == "EPSG:32633" and scene.colors is None)
