"""Training for rate: `--lmbda`, both optimizers, real bytes, frozen encoders, fine-tuning of published models."""

import math

import numpy as np
import pytest
import torch

from models import models
from models.weights import LATENT_CODEC
from training.losses import RateDistortion, estimated_bpppc, losses
from utils.checkpoint import load_state_dict
from utils.errors import CheckpointError, UsageError

KLT = ["-m", "ours_klt", "--transform", "randomcrop_8x8"]


def test_loss_is_that_of_compressai():
    from compressai.losses import RateDistortionLoss

    x, x_hat = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    likelihoods = {"y": torch.rand(2, 5, 4, 4), "z": torch.rand(2, 5, 1, 1)}
    theirs = RateDistortionLoss(lmbda=0.02)({"x_hat": x_hat, "likelihoods": likelihoods}, x)
    bpppc = estimated_bpppc(likelihoods, x)
    assert float(bpppc) == pytest.approx(float(theirs["bpp_loss"]) / 3, rel=1e-6)  # theirs is for each pixel
    loss = RateDistortion(losses["mse"](), 0.02)(x_hat, x, bpppc)
    assert float(loss - bpppc) == pytest.approx(float(theirs["loss"] - theirs["bpp_loss"]), rel=1e-5)
    assert float(RateDistortion(losses["sa"](), 2.0)(x_hat, x, bpppc) - bpppc) == pytest.approx(
        2 * float(losses["sa"]()(x_hat, x)), rel=1e-5
    )


def draw_alike(root):
    """Replace the patches by mixtures of the same spectra: those of the test split are then like those trained on."""
    rng = np.random.default_rng(0)
    spectra = rng.random((12, 3))
    for path in root.rglob("*.npy"):
        shares = np.cumsum(rng.standard_normal((3, 32, 32)), axis=1) / 60
        cube = 0.4 + np.einsum("ck,khw->chw", spectra, shares) + 0.004 * rng.standard_normal((12, 32, 32))
        np.save(path, cube.clip(0, 1).astype(np.float32))


@pytest.fixture
def first(once, scripts, make_dataset, run_of):
    """Return a run of ours_klt for rate, its data in `flags`."""
    root = make_dataset(train=12, val=1, test=2, side=32, name="rate")
    draw_alike(root)
    data = ["-d", str(root), "--num-channels", "12"]

    def make(folder):
        argv = ["--devices", "cpu", "-n", "0", "-lr", "0.001", *data, *KLT, "--lmbda", "3", "-e", "2", "--repeats", "3"]
        assert scripts.train.main([*argv, "--save-dir", str(folder / "runs")]) == 0

    run = run_of(once("rate", make) / "runs")
    run.flags = data
    return run


def test_a_run_reports_its_rate(first):
    assert first.dir.name.endswith("-easy-ours_klt-mse-0.001-lmbda3")
    for row in first.rows():
        for split in ("train", "val"):
            assert 0.1 < float(row[f"{split}_bpppc"]) < 20 and 0 < float(row[f"{split}_aux_loss"]) < math.inf
    assert first.settings()["bpppc"] is None
    last = first.checkpoint("last")
    assert len(last["aux_optimizer"]["state"]) == 1 and len(last["optimizer"]["state"]) > 10
    assert not any(tensor.numel() for key, tensor in last["state_dict"].items() if key.endswith("_quantized_cdf"))


def test_real_rate_is_the_estimated_one(first):
    """Within 1 %, on the test split, whose bytes are counted."""
    from datasets import HySpecNet11k

    model = models["ours_klt"](src_channels=12)
    model.load_state_dict(load_state_dict(first.dir / "final.pth.tar"))
    dataset = HySpecNet11k(first.flags[1], split="test", num_channels=12)
    x = torch.stack([dataset[index] for index in range(len(dataset))])
    with torch.no_grad():
        out = model.eval()(x)
    real = first.settings()["finished"]["test"]["bpppc"]
    assert float(estimated_bpppc(out["likelihoods"], x)) == pytest.approx(real, rel=0.01)
    coded = model.compress(x)
    assert torch.equal(model.decompress(**coded)["x_hat"], out["x_hat"])


def test_test_py_makes_tables_where_there_are_none(first, scripts, tmp_path):
    import json

    rates = []
    for name in ("best", "final"):
        path = first.dir / f"{name}.pth.tar"
        argv = ["--device", "cpu", "-m", "ours_klt", "--checkpoint", path, *first.flags, "--save-dir", tmp_path]
        assert scripts.test.main([*map(str, argv)]) == 0
        content = json.loads((tmp_path / f"{first.dir.name}-{name}.json").read_text())
        rates.append(content["results"]["bpppc"])
    assert rates[0] == rates[1] == [first.settings()["finished"]["test"]["bpppc"]]
    with pytest.raises(UsageError, match="--precision fp16"):
        scripts.test.main([*map(str, argv), "--half"])


def test_three_lambdas_give_three_rates_in_order(train, data_flags):
    data = data_flags(train=2, val=1, test=1, side=16)
    tests = []
    for lmbda in ("0.1", "1", "10"):
        run = train(*data, *KLT, "-e", 1, "--lmbda", lmbda, name=f"lmbda{lmbda}")
        tests.append(run.settings()["finished"]["test"])
    assert tests[0]["bpppc"] < tests[1]["bpppc"] < tests[2]["bpppc"]
    assert tests[0]["psnr"] < tests[1]["psnr"] < tests[2]["psnr"]


@pytest.mark.parametrize(
    "flags",
    [
        ["-m", "ours_klt"],
        ["-m", "ours_factorized_s0", "--precision", "bf16"],
        ["-m", "cae1d", "--transform", "random_16x16"],  # in chunks
    ],
)
def test_resume_is_exact_with_both_optimizers(train, resume, data_flags, stop_in_step, assert_same_run, flags):
    flags = [*data_flags(train=3, val=1, test=1, side=16), *flags, "--lmbda", 1, "-e", 2, "--repeats", 2]
    whole = train(*flags, name="whole")
    with stop_in_step(5):
        run = train(*flags, name="part", status=143)
    resume(run)
    assert_same_run(whole, run)


def test_a_run_keeps_lambda_and_frozen_parts(first, scripts):
    last = str(first.dir / "last.pth.tar")
    for flags in (["--lmbda", "2.0"], ["--freeze", "encoder"]):
        with pytest.raises(UsageError, match=f"{flags[0]} {flags[1]}: the run of .* has"):
            scripts.train.main(["--checkpoint", last, *flags])


def test_a_hyperprior_starts_from_a_spectral_network_and_leaves_it(train, data_flags):
    """The step-wise recipe: encoder and decoder with a factorized prior first, then the whole with that encoder."""
    data = data_flags(train=2, val=1, test=1)
    spectral = train(*data, "-m", "ours_factorized_s0", "--lmbda", 10, "-e", 1, name="spectral")
    weights = spectral.checkpoint("final")["state_dict"]
    start = ["--checkpoint", spectral.dir / "final.pth.tar", "--freeze", "encoder"]
    run = train(*data, "-m", "ours_hyperprior_s0", "--lmbda", 1, "-e", 1, *start, name="whole")
    found = run.checkpoint("final")["state_dict"]
    for key, tensor in weights.items():
        if not key.startswith(LATENT_CODEC):
            assert torch.equal(found[key], tensor) == key.startswith("encoder."), key


@pytest.mark.parametrize("model", ["cae1d", "sscnet_1bpppc"])
def test_a_published_model_is_fine_tuned_and_still_loads(train, scripts, data_flags, tmp_path, model):
    torch.manual_seed(0)
    data = data_flags(train=2, val=1, test=1, bands=16, side=16)
    torch.save(models[model](src_channels=16).state_dict(), tmp_path / "published.pth.tar")
    start = ["-m", model, "--checkpoint", tmp_path / "published.pth.tar"]
    run = train(*data, *start, "--lmbda", 1, "-e", 1)
    final = run.checkpoint("final")
    plain = models[model](src_channels=16)
    torch.nn.Module.load_state_dict(plain, final["state_dict"], strict=True)  # as any other program
    assert final["latent_codec"]["log_steps"].numel() == plain.latent_shape[0]
    nominal, measured = plain.bpppc, run.settings()["finished"]["test"]["bpppc"]
    assert measured < 0.5 * nominal
    argv = ["--device", "cpu", "-m", model, "--checkpoint", run.dir / "final.pth.tar", *data, "--save-dir", tmp_path]
    assert scripts.test.main([*map(str, argv)]) == 0
    assert f'"bpppc": [{measured}]' in (tmp_path / f"{run.dir.name}-final.json").read_text()


def test_what_cannot_be_trained_for_rate_is_refused(train, data_flags, tmp_path):
    data = data_flags(train=1, val=1, test=1, side=16)
    with pytest.raises(UsageError, match=r"ours_klt has an entropy model: give .*--lmbda"):
        train(*data, "-m", "ours_klt")
    with pytest.raises(UsageError, match="--loss ssim compares neighbors"):
        train(*data, "-m", "cae1d", "--lmbda", 1, "--loss", "ssim")
    with pytest.raises(UsageError, match="--freeze encoder keeps the weights of --checkpoint: give one"):
        train(*data, "-m", "cae1d", "--freeze", "encoder")
    torch.save(models["cae1d"](src_channels=12).state_dict(), tmp_path / "other.pth.tar")
    with pytest.raises(CheckpointError, match="do not belong to this LearnedKLT"):
        train(*data, "-m", "ours_klt", "--lmbda", 1, "--checkpoint", tmp_path / "other.pth.tar")
