"""benchmark.py curves: the table and the figure of several runs of train.py."""

import json
import shutil

import pytest

import benchmark
from utils.errors import UsageError


def copy_of(run, folder, transform):
    """Copy a run, as if it had been started with another transform."""
    shutil.copytree(run, folder)
    settings = json.loads((folder / "settings.json").read_text())
    settings["starts"][-1]["arguments"]["transform"] = transform
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def test_curves(scripts, data_flags, tmp_path, capsys):
    scripts.train.main([*data_flags(), "--devices", "cpu", "-n", "0", "-e", "2", "--save-dir", str(tmp_path / "runs")])
    (run,) = (tmp_path / "runs").iterdir()
    others = [copy_of(run, tmp_path / name, "random_4x4") for name in "ab"]
    flags = ["--name", "all", "--save-dir", str(tmp_path)]
    assert benchmark.main(["curves", *map(str, (run, *others)), *flags]) == 0
    content = json.loads((tmp_path / "all" / "curves.json").read_text())
    assert (
        content["curves"]["columns"] == ["run", "epoch", "seconds", "val_psnr"] and len(content["curves"]["data"]) == 6
    )
    names = ["cae1d, none", "cae1d, random_4x4", "cae1d, random_4x4, b"]
    assert list(content["settings"]["runs"]) == names
    assert str(tmp_path) not in json.dumps(content)
    text = (tmp_path / "all" / "curves.md").read_text()
    assert all(f"| {name} " in text for name in names) and "seconds to" in text
    assert (tmp_path / "all" / "curves.png").read_bytes()[1:4] == b"PNG"
    assert "curves.md" in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="must be the folder of a run"):
        benchmark.main(["curves", str(tmp_path), "--save-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
