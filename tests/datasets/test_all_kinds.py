"""Copy random scenes through `open_scene` and `create_scene`: a copy has all that rasterio reads from the original."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from datasets.scenes import create_scene, open_scene
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
