import os
from itertools import chain

import pytest

from datasets.split import SPLITS, distribute, find_entries, main
from utils.errors import DatasetError, UsageError


def make_root(root, entry, tiles, patches_per_tile, suffix="-DATA.npy"):
    for tile in range(1, tiles + 1):
        for patch in range(1, patches_per_tile + 1):
            path = root / "patches" / entry(tile, patch).replace("-DATA.npy", suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def read(root, mode):
    return {split: (root / "splits" / mode / f"{split}.csv").read_text().splitlines() for split in SPLITS}


def files(root):
    return {path: path.read_bytes() for path in root.rglob("*.csv")}


def test_splits_cover_everything_once_and_hard_keeps_tiles_whole(tmp_path, entry, capsys):
    root = make_root(tmp_path, entry, tiles=10, patches_per_tile=5)
    assert main([str(root)]) == 0
    everything = sorted(entry(tile, patch) for tile in range(1, 11) for patch in range(1, 6))
    for mode in ("easy", "hard"):
        lists = read(root, mode)
        assert sorted(chain(*lists.values())) == everything
        assert [len(lists[split]) for split in SPLITS] == [35, 10, 5]
    tiles = [{line.split("/")[0] for line in lines} for lines in read(root, "hard").values()]
    assert [len(part) for part in tiles] == [7, 2, 1]
    assert not (tiles[0] & tiles[1] or tiles[0] & tiles[2] or tiles[1] & tiles[2])
    out = capsys.readouterr().out.split()
    assert out == ["train", "val", "test", "easy", "35", "10", "5", "hard", "35", "10", "5"]


def test_splits_depend_on_the_seed_but_not_on_the_listing_order(tmp_path, entry, monkeypatch):
    roots = [make_root(tmp_path / name, entry, 5, 4) for name in "abc"]
    main([str(roots[0])])
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *args, **kwargs: reversed(list(walk(*args, **kwargs))))
    main([str(roots[1])])
    main([str(roots[2]), "--seed", "1"])
    for mode in ("easy", "hard"):
        assert read(roots[0], mode) == read(roots[1], mode) != read(roots[2], mode)


def test_tifs_count_as_the_files_to_be_made_and_only_once(tmp_path, entry):
    make_root(tmp_path, entry, 3, 2)
    make_root(tmp_path, entry, 3, 3, suffix="-SPECTRAL_IMAGE.TIF")
    assert find_entries(tmp_path / "patches") == [entry(t, p) for t in (1, 2, 3) for p in (1, 2, 3)]


@pytest.mark.parametrize("n", range(3, 40))
@pytest.mark.parametrize("ratios", [(70, 20, 10), (1, 1, 1000), (1000, 0.1, 0.1)])
def test_every_split_gets_at_least_one(n, ratios):
    parts = distribute([f"{i:02}" for i in range(n)], ratios, seed=n)
    assert sorted(chain(*parts.values())) == [f"{i:02}" for i in range(n)]
    assert list(parts) == list(SPLITS) and all(parts.values())


def test_ratios_set_the_sizes(tmp_path, entry):
    main([str(make_root(tmp_path, entry, 10, 1)), "--ratios", "2", "2", "1"])
    assert [len(lines) for lines in read(tmp_path, "easy").values()] == [4, 4, 2]


@pytest.mark.parametrize("flags", [["--ratios", "70", "30", "0"], ["--ratios", "1", "nan", "1"], ["--seed", "-1"]])
def test_wrong_flags_are_refused(tmp_path, entry, flags, capsys):
    with pytest.raises(SystemExit) as info:
        main([str(make_root(tmp_path, entry, 3, 1)), *flags])
    assert info.value.code == 2 and flags[0] in capsys.readouterr().err
    assert not files(tmp_path)


def test_existing_splits_are_kept_without_overwrite(tmp_path, entry):
    root = make_root(tmp_path, entry, 5, 2)
    main([str(root)])
    (root / "splits/easy/val.csv").unlink()
    before = files(root)
    with pytest.raises(DatasetError) as info:
        main([str(root), "--seed", "1"])
    message = str(info.value)
    assert "--overwrite" in message and "\n" not in message
    assert all(str(path) in message for path in before) and "easy/val.csv" not in message
    assert files(root) == before
    assert main([str(root), "--seed", "1", "--overwrite"]) == 0
    assert len(files(root)) == 6 and files(root)[root / "splits/easy/train.csv"] != before


def test_few_tiles_make_no_hard_split(tmp_path, entry, capsys):
    assert main([str(make_root(tmp_path, entry, 2, 3))]) == 0
    assert "note: no hard split, it needs at least 3 tiles" in capsys.readouterr().out
    assert [len(lines) for lines in read(tmp_path, "easy").values()] == [4, 1, 1]
    assert not (tmp_path / "splits/hard").exists()


def test_too_few_patches_and_missing_folders_are_refused(tmp_path, entry):
    make_root(tmp_path / "two", entry, 2, 1)
    with pytest.raises(DatasetError, match=r"two/patches: 2 patches, train, val and test need at least 3$"):
        main([str(tmp_path / "two")])
    with pytest.raises(UsageError, match="none/patches: no such folder"):
        main([str(tmp_path / "none")])
