"""Models compared with their textbook form: what is measured, and what is not. No time is asserted."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.speed import models as speed
from utils import devices as precision

CPU = torch.device("cpu")
LIMITS = {
    **{"device": "cpu", "precision": "fp32"},
    **{"flops_per_second": 1e12, "training_flops_per_second": 1e12, "bytes_per_second": 1e6},
}


@pytest.fixture
def fitting(monkeypatch):
    """fitting(side): images above that side need more memory than there is; others take 100 bytes, ours 25."""

    def limit(largest):
        def peak(name, work, side, device, precision, ours):
            if side > largest:
                raise speed.OutOfMemory
            return 25 if ours else 100

        monkeypatch.setattr(speed, "peak", peak)

    return limit


@pytest.mark.parametrize("work", ["encode", "decode", "encode+decode", "train"])
def test_work_that_does_not_fit_is_measured_on_smaller_images(fitting, work):
    fitting(8)
    row = speed.measure_work("cae1d", 16, work, CPU, LIMITS, 1)
    assert (row["side"], row["batch"]) == (8, 2 if work == "train" else 1)
    assert row["note"].startswith("16 px needs more memory than there is")
    assert (row["baseline_peak_bytes"], row["peak_bytes"], row["peak_ratio"]) == (100, 25, 0.25)


def test_work_that_never_fits_has_no_figures(fitting):
    fitting(4)
    row = speed.measure_work("cae1d", 16, "encode", CPU, LIMITS, 1)
    assert row == {
        **{"model": "cae1d", "work": "encode", "device": "cpu", "precision": "fp32"},
        "note": "16 px needs more memory than there is",
    }


def test_figures_are_per_image(fitting):
    fitting(8)
    row = speed.measure_work("sscnet", 8, "train", CPU, LIMITS, 3)
    model = speed.contenders("sscnet", "train", CPU, "fp32")[1].net
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert row["limited_by"] == "memory"  # LIMITS has a slow one
    assert row["limit_seconds"] == pytest.approx((4 * 2 * 202 * 8 * 8 + 24 * weights) / 2 / 1e6)
    assert row["megabytes_per_second"] == pytest.approx(4 * 202 * 8 * 8 / 1e6 * row["images_per_second"])
    assert len(row["all_seconds"]) == len(row["all_baseline_seconds"]) == row["repeats"] == 3
    assert row["seconds"] == sorted(row["all_seconds"])[1]


def test_both_forms_have_the_same_weights_every_time():
    def weights():
        return [
            torch.cat([parameter.flatten() for parameter in contender.net.parameters()])
            for contender in speed.contenders("cae1d", "encode", CPU, "fp32")
        ]

    (baseline, ours), (_, again) = weights(), weights()
    assert torch.equal(baseline.sort()[0], ours.sort()[0])  # each form has an order of its own
    assert torch.equal(ours, again)


def test_both_forms_train_alike():
    pair = speed.contenders("cae1d", "train", CPU, "fp32")
    x, y = speed.inputs(pair[1].net, "train", 8, CPU)
    before, after = [], []
    for contender in pair:
        step = contender.work("train", x, y)
        step()
        before.append(contender.flat_gradient())
        for _ in range(3):
            step()
        after.append(contender.flat_gradient())
    assert torch.allclose(*before, rtol=1e-3, atol=1e-6) and torch.allclose(*after, rtol=1e-2, atol=1e-5)
    assert not torch.allclose(before[0], after[0], rtol=1e-2, atol=1e-5)


def test_compulsory_bytes():
    model = nn.Module()
    model.encoder, model.decoder = nn.Linear(3, 2, bias=False), nn.Linear(2, 5, bias=False)  # 6 and 10 weights
    model.encoder_parameters = model.encoder.parameters
    x, y = torch.zeros(1, 100, 1, 1), torch.zeros(1, 7, 1, 1)
    found = {
        work: speed.compulsory_bytes(model, work, x, y, itemsize=2)
        for work in ("encode", "decode", "encode+decode", "train")
    }
    assert found == {
        "encode": 4 * (100 + 6) + 2 * 7,
        "decode": 4 * (7 + 10) + 2 * 100,
        "encode+decode": 4 * (100 + 16) + 2 * 100,
        "train": 4 * 100 + 4 * 6 * 16,
    }


@pytest.mark.parametrize(
    ("device", "name", "flags", "reason"),
    [
        ("cpu", "fp32", "avx2", None),
        ("cpu", "fp16", "avx512_bf16", "fp16 is for GPUs"),
        ("cpu", "bf16", "avx512_bf16", None),
        ("cpu", "bf16", "avx2", "this processor has no bf16 arithmetic: emulated, it would run for hours"),
        ("cuda", "fp16", "avx2", None),
        ("cuda", "bf16", "avx2", None),
    ],
)
def test_unsupported_precisions_are_left_out(monkeypatch, tmp_path, device, name, flags, reason):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: fpu {flags}\n")
    monkeypatch.setattr(precision, "CPUINFO", cpuinfo)
    assert speed.reason_to_leave_out(SimpleNamespace(type=device), name) == reason
