import pickle
import re
import shutil

import numpy as np
import pytest
import torch

from datasets import HySpecNet11k
from datasets.hyspecnet11k import refuse_overlap
from datasets.loading import ThreadLoader
from datasets.transforms import get_transform
from training.sampler import EpochBatchSampler
from utils.errors import DatasetError


def csv_of(root):
    return root / "splits" / "easy" / "train.csv"


def message_of(callable, *args, **kwargs):
    """Return the one-line message of the DatasetError that the call raises."""
    with pytest.raises(DatasetError) as info:
        callable(*args, **kwargs)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_reads_patches_in_the_order_of_the_csv(dataset_root, entry):
    dataset = HySpecNet11k(dataset_root)
    assert len(dataset) == 5
    assert (dataset.root_dir, dataset.mode, dataset.split) == (dataset_root, "easy", "train")
    assert dataset.paths[3] == dataset_root / "patches" / entry(2, 4)
    assert dataset.names[3] == dataset.paths[3].name.replace("-DATA.npy", "")
    assert dataset.file_shape == dataset.image_shape == (202, 12, 10)
    for x, path in zip(dataset, dataset.paths, strict=True):
        assert x.dtype == torch.float32
        np.testing.assert_array_equal(x.numpy(), np.load(path))
    for index in (-1, 5):
        with pytest.raises(IndexError):
            dataset[index]


def test_byte_order_does_not_matter(dataset_root):
    dataset = HySpecNet11k(dataset_root)
    expected = dataset[1].numpy()
    np.save(dataset.paths[1], expected.astype(">f4"))
    np.testing.assert_array_equal(dataset[1].numpy(), expected)


def test_csv_tolerates_bom_crlf_blank_lines_and_spaces(dataset_root):
    plain = HySpecNet11k(dataset_root)
    lines = csv_of(dataset_root).read_text().splitlines()
    text = "\ufeff\r\n  " + " \t\r\n\r\n ".join(lines) + "\r\n\r\n"
    csv_of(dataset_root).write_bytes(text.encode())
    dataset = HySpecNet11k(dataset_root)
    assert dataset.paths == plain.paths
    assert dataset.fingerprint() == plain.fingerprint()


def tif_names(lines):
    endings = ("-SPECTRAL_IMAGE.TIF", "-spectral_image.tif", "-SPECTRAL_IMAGE_COG.TIF", "-DATA.npy")
    return [line.replace("-DATA.npy", ending) for line, ending in zip(lines, [*endings, ".tiff"], strict=True)]


FORMS = {
    "quotes": lambda lines: [f'"{line}"' for line in lines],
    "index and header": lambda lines: [",0", *(f"{i},{line}" for i, line in enumerate(lines))],
    "index": lambda lines: [f"{i},{line}" for i, line in enumerate(lines)],
    "header": lambda lines: ["patch", *lines],
    "table": lambda lines: ["id,path,cloud", *(f'a{i},"{line}",0.5' for i, line in enumerate(lines))],
    "trailing comma": lambda lines: [f"{line}," for line in lines],
    "semicolons": lambda lines: [f"{line};;" for line in lines],
    "backslashes": lambda lines: [line.replace("/", "\\") for line in lines],
    "TIF names": tif_names,
}


@pytest.mark.parametrize("form", FORMS)
def test_csv_of_other_programs_is_read(dataset_root, form):
    plain = HySpecNet11k(dataset_root)
    lines = csv_of(dataset_root).read_text().splitlines()
    csv_of(dataset_root).write_text("".join(f"{line}\r\n" for line in FORMS[form](lines)))
    dataset = HySpecNet11k(dataset_root)
    assert dataset.paths == plain.paths and dataset.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize(
    "line",
    ["tile_001/tile_001-patch_01", "a-DATA.npy,b-DATA.npy", "tile_001,a-DATA.npy,0.5", '"a-DATA.npy","b"', "a-QL.jpg"],
)
def test_a_line_that_is_not_clear_is_named(dataset_root, line):
    good = csv_of(dataset_root).read_text()
    csv_of(dataset_root).write_text(f"\n{good}\n{line}\n")
    message = message_of(HySpecNet11k, dataset_root)
    assert message.startswith(f"{csv_of(dataset_root)}: line 8 is {line!r}, expected one path of a patch per line")


def test_overlapping_splits_are_refused(dataset_root, entry):
    folder = csv_of(dataset_root).parent
    assert refuse_overlap(folder) is None
    (folder / "val.csv").write_text(f"x-DATA.npy\n{entry(2, 4)}\n".replace("-DATA.npy", "-SPECTRAL_IMAGE.TIF"))
    message = message_of(refuse_overlap, folder)
    assert message.startswith(f"{folder}/val.csv: 1 of its 2 patches are in train.csv, too, first {entry(2, 4)};")
    assert "--allow-overlap" in message

    (folder / "val.csv").write_text("x-DATA.npy\ny-DATA.npy\n")
    (folder / "test.csv").write_text("y-DATA.npy\nz-DATA.npy\n")
    assert f"{folder}/test.csv: 1 of its 2 patches are in val.csv, too" in message_of(refuse_overlap, folder)
    assert refuse_overlap(folder, ("train", "test")) is None
    (folder / "test.csv").write_text("y-DATA.npy\nx-DATA.npy\n")
    assert "val and test are the same patches" in refuse_overlap(folder), "as in the bundled sample: noted, not refused"


def test_any_file_name_and_number_of_channels_is_read(tmp_path, save_cube):
    cube = save_cube(tmp_path / "patches" / "sub folder" / "Indian pines, nord.npy", (5, 3, 7))
    csv_path = tmp_path / "splits" / "mine" / "test.csv"
    csv_path.parent.mkdir(parents=True)
    csv_path.write_text("sub folder/Indian pines, nord.npy\n")
    dataset = HySpecNet11k(tmp_path, mode="mine", split="test", num_channels=5)
    assert dataset.names == ["Indian pines, nord.npy"]
    np.testing.assert_array_equal(dataset[0].numpy(), cube)


def test_fingerprint_depends_on_the_entries_not_on_the_folder(dataset_root, tmp_path):
    fingerprint = HySpecNet11k(dataset_root).fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", fingerprint)
    moved = tmp_path / "moved"
    shutil.copytree(dataset_root, moved)
    assert HySpecNet11k(moved, transform=get_transform("random_2x2")).fingerprint() == fingerprint
    lines = csv_of(moved).read_text().splitlines()
    for other in (lines[::-1], lines[:-1]):
        csv_of(moved).write_text("\n".join(other))
        assert HySpecNet11k(moved).fingerprint() != fingerprint


# Errors in the folder and the CSV


@pytest.mark.parametrize("exists", [False, True])
def test_a_missing_data_set_says_how_to_get_it(tmp_path, exists):
    root = tmp_path / "hyspecnet 11k"
    if exists:
        root.mkdir()
    message = message_of(HySpecNet11k, root)
    for part in (
        f"{root}/patches: no such folder",
        "https://hyspecnet.rsim.berlin",
        f"python -m datasets.preprocess '{root}'",
        "-d ./datasets/sample/",
    ):
        assert part in message


def test_a_missing_csv_says_how_to_make_it(dataset_root):
    message = message_of(HySpecNet11k, dataset_root, mode="hard", split="val")
    assert f"{dataset_root}/splits/hard/val.csv: no such file" in message
    assert f"python -m datasets.split {dataset_root}" in message


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf\r\n \n"])
def test_an_empty_split_is_refused(dataset_root, content):
    csv_of(dataset_root).write_bytes(content)
    assert message_of(HySpecNet11k, dataset_root).startswith(f"{csv_of(dataset_root)}: empty")


def test_a_csv_that_is_no_text_is_refused(dataset_root):
    csv_of(dataset_root).write_bytes(b"\xff\xfe\x00")
    assert message_of(HySpecNet11k, dataset_root).startswith(f"{csv_of(dataset_root)}: not UTF-8 text")


@pytest.mark.parametrize("entry", ["{}/outside.npy", "tile_001/../../outside.npy", "C:/data/outside.npy"])
def test_entries_outside_patches_are_refused(dataset_root, save_cube, entry):
    save_cube(dataset_root / "outside.npy")
    entry = entry.format(dataset_root)
    csv_of(dataset_root).write_text(f"{entry}\n")
    message = message_of(HySpecNet11k, dataset_root)
    assert message.startswith(f"{csv_of(dataset_root)}: {entry!r} points outside patches/")


def test_missing_patches_are_counted_and_the_first_is_named(dataset_root, save_tif):
    paths = HySpecNet11k(dataset_root).paths
    for path in paths[2:]:
        path.unlink()
    message = message_of(HySpecNet11k, dataset_root)
    assert f"3 of the 5 patches in {csv_of(dataset_root)} are missing, first {paths[2]};" in message
    assert "datasets.preprocess" not in message
    save_tif(paths[2].with_name(paths[2].name.replace("-DATA.npy", "-SPECTRAL_IMAGE.TIF")))
    assert f"`python -m datasets.preprocess {dataset_root}`" in message_of(HySpecNet11k, dataset_root)


# Errors in a patch


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def with_value(value):
    def write(path):
        cube = np.load(path)
        cube[201, 11, 9] = value
        np.save(path, cube)

    return write


def save_archive(path):
    with open(path, "wb") as file:
        np.savez(file, np.zeros((202, 12, 10), np.float32))


DAMAGES = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "truncated": (truncate, "damaged"),
    "too long": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "longer than its header"),
    "text": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "damaged"),
    "header": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"'shape': (", b"'shape': [")),
        "damaged",
    ),
    "zip magic": (lambda path: path.write_bytes(b"PK\x03\x04 no zip"), "damaged"),
    "archive": (save_archive, "no .npy file"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps([1, 2])), "damaged"),
    "objects": (lambda path: np.save(path, np.array([{}, "\n"], dtype=object)), "damaged"),
    "2-D": (lambda path: np.save(path, np.zeros((202, 12), np.float32)), "shape (202, 12)"),
    "raw bands": (lambda path: np.save(path, np.zeros((224, 12, 10), np.float32)), "shape (224, 12, 10)"),
    "other size": (lambda path: np.save(path, np.zeros((202, 12, 11), np.float32)), "shape (202, 12, 11)"),
    "float64": (lambda path: np.save(path, np.zeros((202, 12, 10))), "dtype float64"),
    "nan": (with_value(np.nan), "NaN or infinite"),
    "uint16 above 10000": (
        lambda path: np.save(path, np.full((202, 12, 10), 10001, np.uint16)),
        "digital numbers above 10000",
    ),
    "inf": (with_value(-np.inf), "NaN or infinite"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_patch_is_refused(dataset_root, damage):
    dataset = HySpecNet11k(dataset_root)
    write, expected = DAMAGES[damage]
    path = dataset.paths[2]
    write(path)
    message = message_of(lambda: dataset[2])
    assert message.startswith(f"{path}: ") and expected in message
    assert f"`python -m datasets.preprocess {dataset_root}`" in message
    assert torch.isfinite(dataset[1]).all(), "the other patches stay usable"


def test_damaged_first_patch_is_an_error_at_construction(dataset_root):
    path = HySpecNet11k(dataset_root).paths[0]
    np.save(path, np.zeros((224, 12, 10), np.float32))
    message = message_of(HySpecNet11k, dataset_root)
    assert message.startswith(f"{path}: shape (224, 12, 10), expected (202, 12, 10)")


def test_transforms_read_and_check_only_what_they_pick(dataset_root):
    dataset = HySpecNet11k(dataset_root, transform=get_transform("centercrop_2x2"))
    with_value(np.nan)(dataset.paths[0])
    assert torch.isfinite(dataset[0]).all()


# Transforms and random draws


def test_transforms_set_the_image_shape(dataset_root):
    dataset = HySpecNet11k(dataset_root, transform=get_transform("random_4x4"))
    assert dataset.image_shape == tuple(dataset[0].shape) == (202, 4, 4)
    assert dataset.file_shape == (202, 12, 10)
    message = message_of(HySpecNet11k, dataset_root, transform=get_transform("centercrop_16x16"))
    assert message.startswith(f"{dataset.paths[0]}: centercrop_16x16 needs patches of at least 16x16, not 12x10")


def test_a_callable_is_a_transform(dataset_root):
    dataset = HySpecNet11k(dataset_root, transform=lambda x: x[:100, ::2])
    assert dataset.image_shape == (100, 6, 10)
    np.testing.assert_array_equal(dataset[1].numpy(), np.load(dataset.paths[1])[:100, ::2])


def test_draws_depend_on_seed_epoch_and_index_alone(dataset_root):
    def dataset(seed=0):
        return HySpecNet11k(dataset_root, transform=get_transform("random_4x4"), seed=seed)

    first = dataset()
    expected = first[3, 2]
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(first[3, 2], expected), "history or global state matters"
    assert torch.equal(dataset()[3, 2], expected)
    assert torch.equal(first[0, 2], first[2]), "a plain index is epoch 0"
    for other in (first[4, 2], dataset(seed=1)[3, 2]):
        assert not torch.equal(other, expected)


def test_draws_differ_between_patches_of_the_same_content(dataset_root):
    dataset = HySpecNet11k(dataset_root, transform=get_transform("random_4x4"))
    shutil.copyfile(dataset.paths[0], dataset.paths[1])
    assert not torch.equal(dataset[0], dataset[1])


def test_repeats_draw_other_pixels(dataset_root):
    dataset = HySpecNet11k(dataset_root, transform=get_transform("randomcrop_4x4"), repeats=20)
    assert len(dataset) == 100 and len(dataset.paths) == 5
    crops = {dataset[i].numpy().tobytes() for i in range(2, 100, 5)}
    assert len(crops) > 10, "the same crop of patch 2 again and again"
    whole = HySpecNet11k(dataset_root, repeats=3)
    assert torch.equal(whole[12], whole[2])
    assert "repeats must be at least 1, got 0" in message_of(HySpecNet11k, dataset_root, repeats=0)


def epochs(dataset, num_workers, batch_size=2):
    sampler = EpochBatchSampler(len(dataset), batch_size, shuffle=True, seed=1)
    loader = ThreadLoader(dataset, sampler, torch.device("cpu"), num_workers)
    result = []
    for epoch in range(2):
        sampler.set_position(epoch)
        result.append(torch.cat(list(loader)))
    return result


def test_two_epochs_are_the_same_with_any_number_of_workers(dataset_root):
    dataset = HySpecNet11k(dataset_root, transform=get_transform("random_2x2"), seed=1, repeats=2)
    alone = epochs(dataset, num_workers=0)
    assert not torch.equal(alone[0].sort(0).values, alone[1].sort(0).values), "epochs draw the same pixels"
    for num_workers, batch_size in ((2, 2), (1, 3)):
        assert torch.equal(torch.stack(epochs(dataset, num_workers, batch_size)), torch.stack(alone))
