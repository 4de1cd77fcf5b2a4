"""Stored points: what makes them stale, and several writers."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.rd import store
from benchmarks.rd.images import Image
from benchmarks.rd.store import Writer, image_sha256, points_folder, read_rows


def row(kind, target, value):
    return {"kind": kind, "target": target, "bpppc": value}


def test_writers_keep_the_points_of_each_other(tmp_path):
    one, other = Writer(tmp_path / "points"), Writer(tmp_path / "points")
    one.add(row("lossy", 1.0, 1.0))
    other.add(row("lossy", 2.0, 2.0))
    one.add(row("lossless", None, 3.0))
    found = {(row["kind"], row["target"]): row["bpppc"] for row in read_rows(tmp_path / "points")}
    assert found == {("lossy", 1.0): 1.0, ("lossy", 2.0): 2.0, ("lossless", None): 3.0}
    other.add(row("lossless", None, 4.0))
    assert len(read_rows(tmp_path / "points")) == 3  # each point once


def test_a_file_that_a_killed_writer_left_is_no_point(tmp_path):
    writer = Writer(tmp_path)
    writer.add(row("lossy", 1.0, 1.0))
    (path,) = tmp_path.iterdir()
    path.with_name(f".{path.name}").write_text(path.read_text() + '{"kind": "los')
    assert read_rows(tmp_path) == [row("lossy", 1.0, 1.0)]


def test_every_part_of_an_image_counts():
    cube = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = Image(cube, np.ones(cube.shape, bool), 10000)
    other_cube, other_mask = cube.copy(), image.valid.copy()
    other_cube[1, 2, 3] += 1
    other_mask[0, 0, 0] = False
    images = [
        *(image, replace(image, cube=other_cube), replace(image, valid=other_mask), replace(image, peak=5000)),
        *(replace(image, cube=cube.astype(np.uint16)), Image(cube[:, :, :2], image.valid[:, :, :2], 10000)),
    ]
    assert len(set(map(image_sha256, images))) == len(images)
    # The order in memory does not count.
    assert image_sha256(replace(image, cube=np.asfortranarray(cube))) == image_sha256(image)


def test_settings_and_code_count(tmp_path):
    folders = {
        points_folder(tmp_path, image, {"codec": codec}, code) for image in "ab" for codec in "cd" for code in "ef"
    }
    assert len(folders) == 8


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write a project of a few modules; project(name, text) writes a module anew."""

    def write(name, text=""):
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        store.code_sha256.cache_clear()
        store._imports.cache_clear()

    monkeypatch.setattr(store, "ROOT", tmp_path)
    write("coding.codec", "import numpy\nfrom coding import part\nfrom utils.files import atomic_write\n")
    write("coding.part", "from coding.deep import function\n")
    for name in ("coding.deep", "coding.other", "utils.files", "utils.metrics", "benchmarks.rd.points"):
        write(name)
    yield write
    store.code_sha256.cache_clear()
    store._imports.cache_clear()


@pytest.mark.parametrize(
    ("module", "is_stale"),
    [
        *(("coding.codec", True), ("coding.deep", True), ("utils.metrics", True), ("benchmarks.rd.points", True)),
        *(("coding.other", False), ("utils.files", False)),
    ],
)
def test_points_are_stale_once_code_of_their_codec_changes(project, module, is_stale):
    before = store.code_sha256(("coding.codec",))
    project(module, "changed = True\n")
    assert (store.code_sha256(("coding.codec",)) != before) == is_stale


def test_a_library_that_changes_makes_points_stale(monkeypatch):
    store.code_sha256.cache_clear()
    before = [store.code_sha256(("coding.classical.jpegls",), has_model) for has_model in (False, True)]
    real = store.metadata.version
    monkeypatch.setattr(store.metadata, "version", lambda name: "0" if name == "torch" else real(name))
    store.code_sha256.cache_clear()
    after = [store.code_sha256(("coding.classical.jpegls",), has_model) for has_model in (False, True)]
    store.code_sha256.cache_clear()
    assert before[0] == after[0] and before[1] != after[1]
