"""test.py: metrics, files, checkpoints of every kind, and what is refused."""

import csv
import functools
import json
import pickle
import runpy
import sys

import numpy as np
import pytest
import torch

from benchmarks import testing
from models import models
from utils.checkpoint import save_checkpoint
from utils.errors import CheckpointError, DatasetError, ProjectError, UsageError


@pytest.fixture
def make_dataset(make_dataset):
    """make_dataset(...) as in conftest, with patches of 202 x 16 x 16 by default."""
    return functools.partial(make_dataset, bands=202, side=16)


@pytest.fixture
def weights(tmp_path):
    """weights(name, **kwargs) -> path of a file with fresh weights of a model, in the published format."""

    def make(name="cae1d", file=None, **kwargs):
        torch.manual_seed(1)
        path = tmp_path / "weights" / f"{file or name}.pth.tar"
        save_checkpoint({"state_dict": models[name](**kwargs).state_dict()}, path)
        return path

    return make


@pytest.fixture
def run_test(scripts, tmp_path):
    """run_test(*flags, name=..., draw=False) -> content of the JSON; without pictures by default, to save time."""

    def run(*flags, name, save_dir="tests", draw=False):
        folder = tmp_path / save_dir
        with pytest.MonkeyPatch.context() as patch:
            if not draw:
                patch.setattr(testing.Test, "_write_picture", lambda *args: None)
            assert scripts.test.main(["--device", "cpu", "--save-dir", str(folder), *map(str, flags)]) == 0
        return json.loads((folder / f"{name}.json").read_text())

    return run


def test_patches_of_the_training_set_need_a_flag(run_test, weights, make_dataset):
    root = make_dataset(train=1, test=1)
    flags = ("-d", root, "--checkpoint", weights())
    (root / "splits/easy/train.csv").write_text((root / "splits/easy/test.csv").read_text())
    with pytest.raises(DatasetError, match=r"test\.csv: 1 of its 1 patches are in train\.csv, too.*--allow-overlap"):
        run_test(*flags, name="cae1d")
    assert run_test(*flags, "--allow-overlap", name="cae1d")["settings"]["images"] == 1
    assert run_test(*flags, "--split", "train", name="cae1d")["settings"]["images"] == 1


def test_metrics_equal_a_computation_by_hand(run_test, weights, make_dataset, tmp_path):
    root = make_dataset(test=3)
    result = run_test("-d", root, "--checkpoint", weights(), name="cae1d")
    with open(tmp_path / "tests" / "cae1d.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    model = models["cae1d"]().eval()
    model.load_state_dict(torch.load(weights())["state_dict"])
    entries = (root / "splits/easy/test.csv").read_text().split()
    mses, psnrs = [], []
    for row, entry in zip(rows, entries, strict=True):
        x = np.load(root / "patches" / entry)
        assert entry.endswith(f"/{row['image']}-DATA.npy")
        with torch.no_grad():
            x_hat = model(torch.from_numpy(x)[None])["x_hat"][0].numpy()
        mses.append(np.mean((x_hat.astype(np.float64) - x) ** 2))
        psnrs.append(-10 * np.log10(mses[-1]))
        assert float(row["mse"]) == pytest.approx(mses[-1], rel=1e-6)
        assert float(row["psnr"]) == pytest.approx(psnrs[-1], abs=1e-5)
        assert float(row["bpppc"]) == pytest.approx(32 * 51 / 202, rel=1e-12)

    means = {key: value[0] for key, value in result["results"].items()}
    assert means["psnr"] == means["psnr-rgb"] == pytest.approx(np.mean(psnrs), abs=1e-5)
    assert means["psnr_pooled"] == pytest.approx(-10 * np.log10(np.mean(mses)), abs=1e-5)
    assert means["mse"] == pytest.approx(np.mean(mses), rel=1e-6)
    assert means["bpp"] == pytest.approx(32 * 51, rel=1e-12)
    assert {"ssim", "sa", "encoding_time", "decoding_time"} <= set(means)
    assert means["encoding_time"] > 0 and means["decoding_time"] > 0
    assert np.std(psnrs) > 0


def test_result_file_is_read_by_compressai(run_test, weights, make_dataset, tmp_path, monkeypatch):
    root = make_dataset(test=1)
    result = run_test("-d", root, "--checkpoint", weights(), name="cae1d")
    assert list(result) == ["name", "description", "results", "settings"]
    assert all(len(values) == 1 for values in result["results"].values())
    settings = result["settings"]
    assert settings["dataset"] == "tiny" and settings["images"] == 1
    assert settings["arguments"]["seed"] == 10587 and settings["arguments"]["model"] == "cae1d"
    assert {"torch", "compressai"} <= set(settings["versions"]) and settings["device"]
    assert str(tmp_path) not in json.dumps(result) and "/" not in settings["arguments"]["checkpoint"]

    plot = tmp_path / "plot.png"
    file = tmp_path / "tests" / "cae1d.json"
    for metric in ("psnr", "sa"):
        # Like `python -m compressai.utils.plot`, without starting another interpreter.
        monkeypatch.setattr(sys, "argv", ["plot", "-f", str(file), "-m", metric, "-o", str(plot)])
        runpy.run_module("compressai.utils.plot", run_name="__main__")
        assert plot.stat().st_size > 1000
        plot.unlink()


@pytest.mark.parametrize("name", ["cae1d", "sscnet_1bpppc", "cae3d_1bpppc"])
def test_metrics_do_not_depend_on_the_batch_size(run_test, weights, make_dataset, name):
    root = make_dataset(test=5)
    flags = ["-d", root, "-m", name, "--checkpoint", weights(name)]
    one = run_test(*flags, "--batch-size", 1, name=name, save_dir="one")["results"]
    many = run_test(*flags, "--batch-size", 64, "-n", 1, name=name, save_dir="many")["results"]
    assert one.keys() == many.keys()
    for key in one.keys() - {"encoding_time", "decoding_time"}:
        assert many[key][0] == pytest.approx(one[key][0], abs=1e-5), key


def test_half_runs_the_model_in_fp16_and_measures_in_float32(run_test, weights, make_dataset):
    flags = ["-d", make_dataset(test=2), "--checkpoint", weights()]
    full = run_test(*flags, name="cae1d")["results"]
    half = run_test(*flags, "--half", name="cae1d")["results"]
    assert half["bpppc"] == full["bpppc"]
    assert half["psnr"][0] != full["psnr"][0] and half["psnr"][0] == pytest.approx(full["psnr"][0], abs=0.1)
    assert half["sa"][0] == pytest.approx(full["sa"][0], abs=0.1)


def test_bf16_changes_little_and_contradictions_are_refused(scripts, run_test, weights, make_dataset, capsys):
    root = make_dataset(test=1, bands=12)
    flags = ["-d", root, "--num-channels", 12, "--checkpoint", weights(src_channels=12)]
    full = run_test(*flags, name="cae1d")
    bf16 = run_test(*flags, "--precision", "bf16", name="cae1d")
    assert bf16["settings"]["arguments"]["precision"] == "bf16"
    assert bf16["results"]["bpppc"] == full["results"]["bpppc"]
    assert bf16["results"]["psnr"][0] != full["results"]["psnr"][0]
    assert bf16["results"]["psnr"][0] == pytest.approx(full["results"]["psnr"][0], abs=0.2)
    for wrong, message in (
        (["--half", "--precision", "bf16"], "--half is fp16 without autocast, --precision bf16 is autocast: give one"),
        (["--precision", "fp16"], "--precision fp16 is for GPUs: give bf16 or fp32 on a CPU"),
    ):
        with pytest.raises(UsageError, match=message):
            scripts.test.main(["--device", "cpu", *map(str, flags), *wrong])


def test_small_images_have_no_ssim(run_test, weights, make_dataset, capsys):
    result = run_test("-d", make_dataset(test=1, side=8), "--checkpoint", weights(), name="cae1d")
    assert "ssim" not in result["results"] and "psnr" in result["results"]
    assert "SSIM is left out" in capsys.readouterr().out


def test_results_are_named_after_the_checkpoint(scripts, run_test, weights, make_dataset, tmp_path):
    name = testing.result_name
    assert name("results/weights/cae1d_8bpppc.pth.tar") == "cae1d_8bpppc"
    for kind in ("best", "last", "final"):
        assert name(f"results/trains/2026_01_01-easy/{kind}.pth.tar") == f"2026_01_01-easy-{kind}"
    assert name("model.pt") == "model.pt"

    # An existing result is replaced, and no other file is left.
    root = make_dataset(test=1)
    flags = ["-d", root, "--checkpoint", weights(file="cae1d_8bpppc"), "-m", "cae1d_8bpppc"]
    for _ in range(2):
        run_test(*flags, name="cae1d_8bpppc", draw=True)
    names = {path.name for path in (tmp_path / "tests").iterdir()}
    assert names == {"cae1d_8bpppc.json", "cae1d_8bpppc.csv", "cae1d_8bpppc.png"}


def test_checkpoints_of_a_run_give_its_own_test_result(scripts, run_test, make_dataset, tmp_path, run_of):
    root = make_dataset(train=2, val=1, test=2)
    flags = ["--devices", "cpu", "-n", "0", "-d", str(root), "-e", "1", "--save-dir", str(tmp_path / "runs")]
    scripts.train.main(flags)
    run = run_of(tmp_path / "runs")
    for kind in ("last", "best", "final"):
        result = run_test("-d", root, "--checkpoint", run.dir / f"{kind}.pth.tar", name=f"{run.dir.name}-{kind}")
        with pytest.raises(UsageError, match="was trained as cae1d: give -m cae1d"):
            run_test("-d", root, "-m", "sscnet", "--checkpoint", run.dir / f"{kind}.pth.tar", name="none")
        expected = run.settings()["finished"]["test"]
        assert result["results"]["psnr"][0] == pytest.approx(expected["psnr"], abs=1e-5)


@pytest.mark.parametrize("layout", ["state_dict", "network", "model_state_dict", "bare", "module", "more keys"])
def test_all_layouts_of_checkpoints_load(run_test, make_dataset, tmp_path, layout):
    state = models["cae1d"]().state_dict()
    content = {
        "bare": state,
        "module": {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}},
        "more keys": {"state_dict": state, "epoch": 3, "loss": 0.5, "optimizer": {"state": {}}},
    }.get(layout, {layout: state})
    path = tmp_path / "some.pth.tar"
    torch.save(content, path)
    run_test("-d", make_dataset(test=1), "--checkpoint", path, name="some")


def test_weights_saved_on_a_gpu_load_without_one(run_test, make_dataset, tmp_path, monkeypatch):
    path = tmp_path / "gpu.pth.tar"
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save({"state_dict": models["cae1d"]().state_dict()}, path)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)
    run_test("-d", make_dataset(test=1), "--checkpoint", path, name="gpu")


class Code:
    def __reduce__(self):
        return (print, ("this ran",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("truncated", "is damaged or not a checkpoint"),
        (b"", "is damaged or not a checkpoint"),
        (b"\x00" * 1000, "is damaged or not a checkpoint"),
        (b"<html>not found</html>", "is damaged or not a checkpoint"),
        (pickle.dumps({"a": 1}, protocol=2), "is damaged or not a checkpoint|holds no weights"),
        ({"state_dict": {"a": Code()}}, "more than tensors and plain values"),
        ({"epoch": 3}, "holds no weights"),
        ({"state_dict": {}}, "empty state dict"),
        ([1, 2], "holds a list"),
    ],
)
def test_bad_checkpoints_are_one_line(scripts, make_dataset, tmp_path, capfd, content, message):
    path = tmp_path / "bad.pth.tar"
    if content == "truncated":
        save_checkpoint({"state_dict": models["cae1d"]().state_dict()}, path)
        content = path.read_bytes()[:-2000]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        scripts.test.main(["--device", "cpu", "-d", str(make_dataset(test=1)), "--checkpoint", str(path)])
    assert "\n" not in str(caught.value) and "bad.pth.tar" in str(caught.value)
    assert "this ran" not in capfd.readouterr().out


def test_weights_of_another_model_are_refused(scripts, weights, make_dataset):
    flags = ["--device", "cpu", "-d", str(make_dataset(test=1)), "--checkpoint", str(weights("cae1d"))]
    with pytest.raises(CheckpointError, match=r"do not belong to this SSCNet.*missing: .* more; ") as caught:
        scripts.test.main([*flags, "-m", "sscnet"])
    assert "\n" not in str(caught.value)


def test_other_numbers_of_bands_need_num_channels(scripts, run_test, weights, make_dataset):
    root = make_dataset(test=2, bands=50)
    flags = ["-d", root, "-m", "sscnet_1bpppc", "--checkpoint", weights("sscnet_1bpppc", src_channels=50)]
    result = run_test(*flags, "--num-channels", 50, name="sscnet_1bpppc")
    assert result["results"]["bpppc"][0] == pytest.approx(32 * 404 / (64 * 50))
    with pytest.raises(ProjectError):
        run_test(*flags, name="sscnet_1bpppc")


def test_wrong_usage_is_one_line(scripts, weights, make_dataset, tmp_path):
    root = str(make_dataset(test=1, side=12))
    for flags, error, message in (
        ([], UsageError, r"no --checkpoint: .*python -m models.zoo.*results/weights/cae1d_8bpppc.pth.tar"),
        (["-m", "sscnet"], UsageError, "sscnet_2point5bpppc.pth.tar"),
        (["--checkpoint", str(tmp_path / "no.pth.tar")], CheckpointError, "no.pth.tar: no such"),
        (["--checkpoint", str(tmp_path)], CheckpointError, "is a folder"),
        (["--checkpoint", str(weights()), "--split", "dev"], DatasetError, "dev.csv"),
        (["--checkpoint", str(weights("sscnet")), "-m", "sscnet"], DatasetError, "12 x 12 pixels.*multiples of 8"),
    ):
        with pytest.raises(error, match=message) as caught:
            scripts.test.main(["--device", "cpu", "-d", root, *flags])
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_error_names_the_cpu(scripts, weights):
    with pytest.raises(UsageError, match=r"--device 0: this machine has no GPU.*--device cpu"):
        scripts.test.main(["--checkpoint", str(weights())])


def test_published_figures_are_shown_for_the_full_test_set_only(
    scripts, run_test, weights, make_dataset, capsys, monkeypatch
):
    root = make_dataset(train=5, val=2, test=3)
    flags = ["-d", root, "--checkpoint", weights()]
    run_test(*flags, name="cae1d")
    assert "54.85" not in capsys.readouterr().out
    monkeypatch.setattr("benchmarks.testing.NUM_PATCHES", 10)
    run_test(*flags, name="cae1d")
    out = capsys.readouterr().out
    assert "54.85" in out and "8.08" in out and "not known" in out
    run_test(*flags, "--split", "val", name="cae1d")
    assert "54.85" not in capsys.readouterr().out
