"""Folders named by time."""

from utils import files


def test_folders_of_one_second_have_different_names(tmp_path, monkeypatch):
    class Clock(files.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(files, "datetime", Clock)
    made = [files.stamped_folder(tmp_path / "runs", "cae1d") for _ in range(2)] + [files.stamped_folder(tmp_path)]
    assert [path.name for path in made] == [
        "2026_01_02-03_04_05-cae1d",
        "2026_01_02-03_04_05-cae1d-2",
        "2026_01_02-03_04_05",
    ]
    assert all(path.is_dir() and path.is_absolute() for path in made)
