"""Models beside their textbook form: time, memory, arithmetic, deviation, and what the machine allows.

The baseline is `benchmarks/speed/textbook.py` in float32 with the same weights, the whole batch at once. Images are
random, (N, 202, side, side) in [0, 1]; one of them, without gradients, but for training, which takes two.
"""

from __future__ import annotations

import copy
import os
import statistics
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from benchmarks.speed.measure import (
    SEED,
    copy_rate,
    count_flops,
    interleaved,
    least_seconds,
    matmul_rate,
    peak_growth,
)
from models import models
from training.losses import losses
from training.steps import loss_and_gradients
from utils.devices import autocast, has_native_bf16
from utils.environment import configure_backends
from utils.errors import is_out_of_memory
from utils.evaluation import timed
from utils.processes import OutOfMemory, in_fresh_process

BANDS = 202
MIN_SIDE = 8  # of images, also of those by which a fresh process warms up
_TRAIN_BATCH = 2
_SLOW, _SLOW_REPEATS = 20.0, 2  # a pass of that many seconds is repeated so often only
_SPREAD = 1.5  # between the slowest and the fastest of equal calls: more is worth a note
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Contender:
    """A network that is measured.

    Attributes:
        net: with `encode` and `decode`, on its device, weights in float32.
        precision: of autocast.
        is_ours: whether it trains as train.py does; the textbook form trains as torch's tutorials do.
    """

    net: nn.Module
    precision: str
    is_ours: bool

    def work(self, name: str, x: Tensor, y: Tensor) -> Callable:
        """A function without arguments that does the work on images `x` or latent `y`.

        Args:
            name: encode, decode, encode+decode or train.
            x: (N, C, H, W) in [0, 1].
            y: (N, *latent_shape, h, w).
        """
        if name == "train":
            return self.training_step(x)
        calls = {
            "encode": lambda: self.net.encode(x),
            "decode": lambda: self.net.decode(y),
            "encode+decode": lambda: self.net.decode(self.net.encode(x)),
        }

        def call():
            # The shadow of the textbook form that counts FLOPs is on a device that knows no autocast.
            with torch.no_grad(), nullcontext() if self.precision == "fp32" else autocast(self.precision, x.device):
                return calls[name]()

        return call

    def gradients(self, x: Tensor, scaler: torch.amp.GradScaler | None = None) -> None:
        """Gradients of the mean squared error on batch `x` into the parameters, scaled by `scaler` if given."""
        for parameter in self.net.parameters():
            parameter.grad = None
        if self.is_ours:
            scaler = scaler or torch.amp.GradScaler(x.device.type, enabled=False)
            loss_and_gradients(self.net, self.net, losses["mse"](), x, 1.0, scaler, self.precision)
        else:
            F.mse_loss(self.net(x), x).backward()

    def training_step(self, x: Tensor) -> Callable[[], None]:
        """A function that trains on batch `x` once: gradients, clipping, Adam, whose moments stay with it."""
        parameters = list(self.net.parameters())
        optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True if self.is_ours else None)
        scaler = torch.amp.GradScaler(x.device.type, enabled=self.precision == "fp16")

        def step():
            self.gradients(x, scaler)
            scaler.unscale_(optimizer)
            clip_grad_norm_(parameters, 1.0)
            scaler.step(optimizer)
            scaler.update()

        return step

    def flat_gradient(self) -> Tensor:
        """The gradients of all parameters as one vector of float64, in their order."""
        return torch.cat([parameter.grad.double().flatten() for parameter in self.net.parameters()])


def contenders(name: str, work: str, device: torch.device, precision: str) -> tuple[Contender, Contender]:
    """The textbook form of a model in float32 and ours in `precision`, both with the weights of seed 0."""
    # As test.py and train.py do.
    configure_backends(deterministic=False, tf32=work == "train")
    torch.manual_seed(SEED)
    model = models[name](src_channels=BANDS).train(work == "train").to(device)
    # Not at the top: it needs CompressAI, whose warnings the registry silences when it is the first to import it.
    from benchmarks.speed.textbook import textbook

    return Contender(textbook(model, name), "fp32", False), Contender(model, precision, True)


def inputs(model: nn.Module, work: str, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Batch (N, 202, side, side) and a latent (1, *latent_shape, h, w) of the size that belongs to it."""
    generator = torch.Generator().manual_seed(SEED)
    x = torch.rand(_TRAIN_BATCH if work == "train" else 1, BANDS, side, side, generator=generator).to(device)
    stride = model.size_multiple
    y = torch.rand(1, *model.latent_shape, side // stride, side // stride, generator=generator).to(device)
    return x, y


# -- memory -------------------------------------------------------------------------------------


def peak(name: str, work: str, side: int, device: torch.device, precision: str, ours: bool) -> int | None:
    """Bytes that the memory grows by, beside weights and input; None where the system does not tell.

    Raises:
        OutOfMemory: there is not that much.
    """
    arguments = (name, work, side, str(device), precision, ours)
    if device.type == "cpu":
        # torch_geometric, which CompressAI imports, uses what torch has deprecated.
        os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
        preload = ("torch", "compressai.models")
        return in_fresh_process("benchmarks.speed.models:peak_in_this_process", *arguments, preload=preload)
    try:
        return peak_in_this_process(*arguments)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemory(str(error)) from None
        raise


def peak_in_this_process(name: str, work: str, side: int, device: str, precision: str, ours: bool) -> int | None:
    """Bytes that the memory grows by; meant for a process of its own where `device` is the CPU."""
    device = torch.device(device)
    pair = contenders(name, work, device, precision)
    model, contender = pair[1].net, pair[ours]
    x, y = inputs(model, work, side, device)
    del pair
    small = MIN_SIDE // model.size_multiple
    if device.type == "cpu":  # what libraries allocate once
        contender.work(work, x[..., :MIN_SIDE, :MIN_SIDE].contiguous(), y[..., :small, :small].contiguous())()
    call = contender.work(work, x, y)
    if work == "train":
        call()  # Adam makes its moments in its first step
    return peak_growth(call, device)


# -- limits -------------------------------------------------------------------------------------


def reason_to_leave_out(device: torch.device, precision: str) -> str | None:
    """Why a precision is not measured on a device, or None."""
    if device.type == "cuda" or precision == "fp32":
        return None
    if precision == "fp16":
        return "fp16 is for GPUs"
    return None if has_native_bf16() else "this processor has no bf16 arithmetic: emulated, it would run for hours"


def measure_limits(device: torch.device, precision: str) -> dict[str, float]:
    """What `device` does at best: FLOP/s in `precision`, of training too, and bytes/s."""
    rates = {}
    for tf32 in (False, True):  # which is for training, and means nothing on a CPU
        configure_backends(deterministic=False, tf32=tf32)
        rates[tf32] = matmul_rate(device, _DTYPES[precision])
    return {
        "flops_per_second": rates[False],
        "training_flops_per_second": rates[True],
        "bytes_per_second": copy_rate(device),
    }


def textbook_flops(baseline: Contender, work: str, x: Tensor, y: Tensor) -> int:
    """FLOPs of the baseline, found without computing: torch only follows the shapes."""
    shadow = Contender(copy.deepcopy(baseline.net).to("meta"), "fp32", False)
    x, y = x.to("meta"), y.to("meta")
    return count_flops((lambda: shadow.gradients(x)) if work == "train" else shadow.work(work, x, y))[1]


def compulsory_bytes(model: nn.Module, work: str, x: Tensor, y: Tensor, itemsize: int) -> int:
    """Bytes that must be read or written at least.

    Input, output and weights once; in training the batch once, weights and both moments of Adam read and
    written. Inputs, weights and moments are float32 in every precision; outputs have values of `itemsize` bytes.
    """

    def num_parameters(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    if work == "train":
        return 4 * x.numel() + 4 * 2 * 3 * num_parameters(model)
    if work == "encode":
        return 4 * (x.numel() + num_parameters(model.encoder)) + itemsize * y.numel()
    if work == "decode":
        return 4 * (y.numel() + num_parameters(model.decoder)) + itemsize * x.numel()
    return 4 * (x.numel() + num_parameters(model)) + itemsize * x.numel()


# -- one work of one model ------------------------------------------------------------------------


def measure_work(name: str, side: int, work: str, device: torch.device, limits: Mapping, repeats: int) -> dict:
    """One row: see the keys below. Seconds, FLOPs and limits are of one image, bytes of memory of the batch.

    What does not fit in memory is measured on images of half the side, and the row's note says so; where
    even `MIN_SIDE` does not fit, the row has a note and no figures.

    Args:
        name: of the model, in the registry.
        side: of the images, in pixels.
        work: encode, decode, encode+decode or train.
        limits: those of `measure_limits`, and of what: "device", as the report names it, and "precision".
        repeats: timed calls, fewer if they are slow.
    """
    precision = limits["precision"]
    note = None
    wanted = side
    while True:  # memory first: what does not fit must not end the run
        try:
            peaks = [peak(name, work, side, device, precision, ours) for ours in (False, True)]
            break
        except OutOfMemory:
            side //= 2
            note = f"{wanted} px needs more memory than there is"
            if side < MIN_SIDE:
                return {"model": name, "work": work, "device": limits["device"], "precision": precision, "note": note}

    baseline, ours = contenders(name, work, device, precision)
    x, y = inputs(ours.net, work, side, device)
    num_images = len(x)
    baseline_flops = textbook_flops(baseline, work, x, y)
    if work == "train":
        calls = [lambda: baseline.gradients(x), lambda: ours.gradients(x)]
    else:
        calls = [contender.work(work, x, y) for contender in (baseline, ours)]
    # These calls warm up, too.
    expected, slowest = timed(calls[0], device)
    got, flops = count_flops(calls[1])
    if work == "train":
        expected, got = baseline.flat_gradient(), ours.flat_gradient()
        deviation = float((got - expected).norm() / expected.norm())
        calls = [contender.work(work, x, y) for contender in (baseline, ours)]
        slowest = max(timed(call, device)[1] for call in calls)
    else:
        deviation = float((got.float() - expected).abs().max())
    del expected, got
    repeats = min(repeats, _SLOW_REPEATS) if slowest > _SLOW else repeats
    all_baseline, all_ours = (
        [seconds / num_images for seconds in times] for times in interleaved(calls, repeats, device)
    )
    baseline_seconds, seconds = statistics.median(all_baseline), statistics.median(all_ours)
    spread = max(max(times) / min(times) for times in (all_baseline, all_ours))
    if spread > _SPREAD:
        busy = f"equal calls differ by a factor of {spread:.1f} in time, was the machine busy?"
        note = f"{note}; {busy}" if note else busy
    num_bytes = compulsory_bytes(ours.net, work, x, y, _DTYPES[precision].itemsize)
    flops_per_second = limits["training_flops_per_second" if work == "train" else "flops_per_second"]
    limit_seconds, limited_by = least_seconds(
        flops / num_images, num_bytes / num_images, flops_per_second, limits["bytes_per_second"]
    )
    return {
        "model": name,
        "work": work,
        "device": limits["device"],
        "precision": precision,
        "side": side,
        "batch": num_images,
        "repeats": repeats,
        "baseline_seconds": baseline_seconds,
        "seconds": seconds,
        "speedup": baseline_seconds / seconds,
        "images_per_second": 1 / seconds,
        "megabytes_per_second": 4 * x[0].numel() / 1e6 / seconds,
        "deviation": deviation,
        "baseline_peak_bytes": peaks[0],
        "peak_bytes": peaks[1],
        "peak_ratio": peaks[1] / peaks[0] if peaks[0] and peaks[1] is not None else None,
        "baseline_flops": baseline_flops / num_images,
        "flops": flops / num_images,
        "limit_seconds": limit_seconds,
        "limited_by": limited_by,
        "limit_share": limit_seconds / seconds,
        "all_baseline_seconds": all_baseline,
        "all_seconds": all_ours,
        "note": note,
    }
