"""Measure models against their textbook form: time, memory, arithmetic, deviation, and the machine's limits.

The baseline is `benchmarks/speed/textbook.py` in float32 with the same weights, the whole batch at once. Images are
random, (N, 202, side, side) in [0, 1]: one without gradients, two in training.
"""

from __future__ import annotations

import copy
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

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
from benchmarks.speed.textbook import Textbook, textbook
from models import models, support
from models.base import HSICompressionModel
from training.losses import losses
from training.steps import loss_and_gradients
from utils.devices import autocast, has_native_bf16
from utils.environment import configure_backends
from utils.errors import is_out_of_memory
from utils.evaluation import timed
from utils.processes import OutOfMemory, in_fresh_process

BANDS = 202
MIN_SIDE = 8
"""Height and width in pixels of the smallest images, and of those that warm up a fresh process."""
TRAIN_BATCH = 2
SLOW_SECONDS = 20.0
SLOW_REPEATS = 2
"""Repetitions at most if a call takes longer than `SLOW_SECONDS`."""
NOTED_SPREAD = 1.5
"""Ratio of the slowest to the fastest of equal calls above which a row gets a note."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Net = TypeVar("Net", bound=HSICompressionModel | Textbook)


@dataclass
class Contender(Generic[Net]):
    """A network that is measured.

    Attributes:
        net: on its device, weights in float32. A model trains as in train.py, a textbook form as in torch's tutorials.
        precision: of autocast.
    """

    net: Net
    precision: str

    def work(self, name: str, x: Tensor, y: Tensor) -> Callable:
        """Return a function without arguments that does one kind of work on images `x` or latent `y`.

        Args:
            name: of the work: encode, decode, encode+decode or train.
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

        def call() -> Tensor:
            # The meta device, on which the FLOPs of the textbook form are counted, has no autocast.
            with torch.no_grad(), nullcontext() if self.precision == "fp32" else autocast(self.precision, x.device):
                return calls[name]()

        return call

    def gradients(self, x: Tensor, scaler: torch.amp.GradScaler | None = None) -> None:
        """Compute the gradients of the mean squared error on batch `x`, scaled by `scaler` if given."""
        for parameter in self.net.parameters():
            parameter.grad = None
        torch.manual_seed(SEED)  # blocks that are skipped at random must be the same in both forms
        if isinstance(self.net, Textbook):
            F.mse_loss(self.net(x), x).backward()
        else:
            scaler = scaler or torch.amp.GradScaler(x.device.type, enabled=False)
            loss_and_gradients(self.net, self.net, losses["mse"](), x, 1.0, scaler, self.precision)

    def training_step(self, x: Tensor) -> Callable[[], None]:
        """Return a function that trains on batch `x` once: gradients, clipping, Adam, whose moments it keeps."""
        parameters = list(self.net.parameters())
        optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=None if isinstance(self.net, Textbook) else True)
        scaler = torch.amp.GradScaler(x.device.type, enabled=self.precision == "fp16")

        def step() -> None:
            self.gradients(x, scaler)
            scaler.unscale_(optimizer)
            clip_grad_norm_(parameters, 1.0)
            scaler.step(optimizer)
            scaler.update()

        return step

    def flat_gradient(self) -> Tensor:
        """Return the gradients of all trained parameters, in their order, as one vector of float64."""

        def flat(parameter: nn.Parameter) -> Tensor:
            assert parameter.grad is not None  # a model trains no parameters that it does not use
            return parameter.grad.double().flatten()

        return torch.cat([flat(parameter) for parameter in self.net.parameters() if parameter.requires_grad])


def contenders(
    name: str, work: str, device: torch.device, precision: str
) -> tuple[Contender[Textbook], Contender[HSICompressionModel]]:
    """Return the textbook form of a model in float32 and ours in `precision`, with the same weights every time."""
    # As test.py and train.py do.
    configure_backends(deterministic=False, tf32=work == "train")
    torch.manual_seed(SEED)
    model = models[name](src_channels=BANDS).train(work == "train").to(device)
    return Contender(textbook(model, name), "fp32"), Contender(model, precision)


def inputs(model: HSICompressionModel, work: str, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Generate a batch (N, 202, side, side) and a latent (1, *latent_shape, h, w) of the size that belongs to it."""
    generator = torch.Generator().manual_seed(SEED)
    x = torch.rand(TRAIN_BATCH if work == "train" else 1, BANDS, side, side, generator=generator).to(device)
    stride = model.size_multiple
    y = torch.rand(1, *model.latent_shape, side // stride, side // stride, generator=generator).to(device)
    return x, y


# -- memory -------------------------------------------------------------------------------------


def peak(name: str, work: str, side: int, device: torch.device, precision: str, ours: bool) -> int | None:
    """Return the peak growth of memory in bytes, without weights and input; None where the system does not report it.

    Args:
        name: of the model, in the registry.
        work: encode, decode, encode+decode or train.
        side: of the images, in pixels.
        device: to work on; on the CPU the work runs in a process of its own.
        precision: of our form.
        ours: whether to measure our form or the textbook form.

    Raises:
        OutOfMemory: the work needs more memory than there is.
    """
    arguments = (name, work, side, str(device), precision, ours)
    if device.type == "cpu":
        # torch_geometric, which CompressAI imports, uses a deprecated part of torch.
        os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
        preload = ("benchmarks.speed.models", "compressai.models", "torch._dynamo")
        return in_fresh_process("benchmarks.speed.models:peak_in_this_process", *arguments, preload=preload)
    try:
        return peak_in_this_process(*arguments)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemory(str(error)) from None
        raise


def peak_in_this_process(name: str, work: str, side: int, device_name: str, precision: str, ours: bool) -> int | None:
    """Return the result of `peak`, measured in this process, which should be a fresh one on the CPU."""
    device = torch.device(device_name)
    pair = contenders(name, work, device, precision)
    model, contender = pair[1].net, pair[ours]
    x, y = inputs(model, work, side, device)
    del pair
    small = MIN_SIDE // model.size_multiple
    if device.type == "cpu":  # for the memory that libraries allocate once
        contender.work(work, x[..., :MIN_SIDE, :MIN_SIDE].contiguous(), y[..., :small, :small].contiguous())()
    call = contender.work(work, x, y)
    if work == "train":
        call()  # Adam allocates its moments in the first step
    return peak_growth(call, device)


# -- limits -------------------------------------------------------------------------------------


def reason_to_leave_out(device: torch.device, precision: str) -> str | None:
    """Return why a precision cannot be measured on a device; None if it can."""
    if device.type == "cuda" or precision == "fp32":
        return None
    if precision == "fp16":
        return "fp16 is for GPUs"
    return None if has_native_bf16() else "this processor has no bf16 arithmetic: emulated, it would run for hours"


def measure_limits(device: torch.device, precision: str) -> dict[str, float]:
    """Measure the limits of `device`: FLOP/s in `precision`, those with TF32 for training, and bytes/s."""
    rates = {}
    for tf32 in (False, True):  # True in training; a CPU has none
        configure_backends(deterministic=False, tf32=tf32)
        rates[tf32] = matmul_rate(device, DTYPES[precision])
    return {
        "flops_per_second": rates[False],
        "training_flops_per_second": rates[True],
        "bytes_per_second": copy_rate(device),
    }


def textbook_flops(baseline: Contender, work: str, x: Tensor, y: Tensor) -> int:
    """Count the FLOPs of the baseline from its shapes alone, on torch's meta device."""
    shadow = Contender(copy.deepcopy(baseline.net).to("meta"), "fp32")
    x, y = x.to("meta"), y.to("meta")
    return count_flops((lambda: shadow.gradients(x)) if work == "train" else shadow.work(work, x, y))[1]


def compulsory_bytes(model: HSICompressionModel, work: str, x: Tensor, y: Tensor, itemsize: int) -> int:
    """Return the least bytes that the work must read and write.

    These are input, output and weights once; in training the batch once, and weights and both moments of Adam read
    and written. Inputs, weights and moments are float32 in every precision; values of outputs have `itemsize` bytes.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    of_encoder = sum(parameter.numel() for parameter in model.encoder_parameters())
    if work == "train":
        return 4 * x.numel() + 4 * 2 * 3 * weights
    if work == "encode":
        return 4 * (x.numel() + of_encoder) + itemsize * y.numel()
    if work == "decode":
        return 4 * (y.numel() + weights - of_encoder) + itemsize * x.numel()
    return 4 * (x.numel() + weights) + itemsize * x.numel()


# -- one work of one model ------------------------------------------------------------------------


def measure_work(name: str, side: int, work: str, device: torch.device, limits: Mapping, repeats: int) -> dict:
    """Measure one work of one model and return a row of the report.

    Seconds, FLOPs and limits are per image, bytes of memory per batch. Work that does not fit into
    memory is measured on images of half the side, with a note in the row; if even `MIN_SIDE` does not fit, the row
    has a note and no figures.

    Args:
        name: of the model, in the registry.
        side: of the images, in pixels.
        work: encode, decode, encode+decode or train.
        device: to work on.
        limits: from `measure_limits`, with "device", as the report names it, and "precision".
        repeats: timed calls, fewer if they are slow.
    """
    precision = limits["precision"]
    row = {"model": name, "work": work, "device": limits["device"], "precision": precision}
    # Memory first: work that does not fit must not end the run.
    largest, peaks = _largest_that_fits(name, work, side, device, precision)
    notes = [] if largest == side else [f"{side} px needs more memory than there is"]
    if peaks is None:
        return {**row, "note": notes[0]}
    baseline, ours = contenders(name, work, device, precision)
    x, y = inputs(ours.net, work, largest, device)
    deviation, flops, calls, slowest = _compare(baseline, ours, work, x, y)
    times = _times(calls, min(repeats, SLOW_REPEATS) if slowest > SLOW_SECONDS else repeats, x)
    spread = max(max(times[key]) / min(times[key]) for key in ("all_baseline_seconds", "all_seconds"))
    if spread > NOTED_SPREAD:
        notes.append(f"equal calls differ by a factor of {spread:.1f} in time, was the machine busy?")
    limit_seconds, limited_by = least_seconds(
        flops / len(x),
        compulsory_bytes(ours.net, work, x, y, DTYPES[precision].itemsize) / len(x),
        limits["training_flops_per_second" if work == "train" else "flops_per_second"],
        limits["bytes_per_second"],
    )
    return {
        **row,
        "side": largest,
        "batch": len(x),
        **times,
        "deviation": deviation,
        "baseline_peak_bytes": peaks[0],
        "peak_bytes": peaks[1],
        "peak_ratio": peaks[1] / peaks[0] if peaks[0] and peaks[1] is not None else None,
        "baseline_flops": textbook_flops(baseline, work, x, y) / len(x),
        "flops": flops / len(x),
        "limit_seconds": limit_seconds,
        "limited_by": limited_by,
        "limit_share": limit_seconds / times["seconds"],
        "note": "; ".join(notes) or None,
    }


def _times(calls: Sequence[Callable], repeats: int, x: Tensor) -> dict:
    """Time the textbook form and ours in turn, and return the figures per image of the batch `x`."""
    all_baseline, all_ours = (
        [seconds / len(x) for seconds in times] for times in interleaved(calls, repeats, x.device)
    )
    baseline_seconds, seconds = statistics.median(all_baseline), statistics.median(all_ours)
    return {
        "repeats": repeats,
        "baseline_seconds": baseline_seconds,
        "seconds": seconds,
        "speedup": baseline_seconds / seconds,
        "images_per_second": 1 / seconds,
        "megabytes_per_second": 4 * x[0].numel() / 1e6 / seconds,
        "all_baseline_seconds": all_baseline,
        "all_seconds": all_ours,
    }


def _largest_that_fits(
    name: str, work: str, side: int, device: torch.device, precision: str
) -> tuple[int, list[int | None] | None]:
    """Return the first of `side`, its half, ... that fits into memory, with the peaks of the textbook form and ours.

    The peaks are None if `MIN_SIDE` does not fit.
    """
    while side >= MIN_SIDE:
        try:
            return side, [peak(name, work, side, device, precision, ours) for ours in (False, True)]
        except OutOfMemory:
            side //= 2
    return side, None


def _compare(
    baseline: Contender, ours: Contender, work: str, x: Tensor, y: Tensor
) -> tuple[float, int, list[Callable], float]:
    """Do a work once in both forms, which also warms them up.

    Returns:
        The deviation of ours, its FLOPs, the calls to time, and the seconds of the slower one.
    """
    calls = [contender.work(work, x, y) for contender in (baseline, ours)]
    if work == "train":
        baseline.gradients(x)
        _, flops = _value_and_flops(lambda: ours.gradients(x), x.device)
        expected, got = baseline.flat_gradient(), ours.flat_gradient()
        slowest = max(timed(call, x.device)[1] for call in calls)
        return float((got - expected).norm() / expected.norm()), flops, calls, slowest
    expected, slowest = timed(calls[0], x.device)
    got, flops = _value_and_flops(calls[1], x.device)
    return float((got.float() - expected).abs().max()), flops, calls, slowest


def _value_and_flops(call: Callable, device: torch.device) -> tuple:
    """Return the result of `call` and its FLOPs. For kernels, which torch cannot count, its own layers are counted."""
    value, flops = count_flops(call)
    if support.is_available(device):
        with support.disabled():
            _, of_layers = count_flops(call)
        flops = max(flops, of_layers)
        value = call()  # leaves gradients of the kernels, not of the layers
    return value, flops
