"""Measure training and coding on a GPU, as train.py and test.py do them, against the textbook form.

The textbook form runs in two precisions, and ours is also compiled. A training step consists of the gradients of
the squared error, clipping and Adam, without the metrics of train.py. Calls run back to back and are synchronized once,
at their end. Memory is what torch reserves on the GPU, without weights and input.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.measure import SEED
from benchmarks.speed.textbook import textbook
from models import models
from models.base import HSICompressionModel
from training.distributed import Process
from training.losses import losses
from training.state import State
from training.stepper import Stepper
from training.steps import loss_and_gradients
from utils.devices import autocast
from utils.environment import configure_backends
from utils.errors import ProjectError, one_line

BANDS = 202
SIZES = {"cae1d": (2, 128), "cae3d": (2, 128), "sscnet": (2, 128)}
"""Images in a training step, and their height and width in pixels. Other models take `OTHER_SIZE`."""
OTHER_SIZE = (2, 64)
LARGE_BATCH = 16
"""Images in a second, larger training step and in a larger batch to code, for the models in `SIZES`."""
CODED_SIDE = 128
CHECKED_SIDE = 32
"""Height and width in pixels of the image whose gradients or outputs are compared."""
WARM_UP = 4
BLOCKS = 3
BLOCK_SECONDS = 0.15
SLOW_SECONDS = 0.3
"""A warm-up call that takes longer is the last one. Only the textbook form takes as long, on large batches."""


@dataclass(frozen=True)
class Form:
    """A form of a model.

    Attributes:
        name: in the report.
        is_ours: whether it is our form, else the textbook form.
        precision: of autocast.
        compiles: whether it trains as train.py does with --compile.
    """

    name: str
    is_ours: bool
    precision: str = "fp32"
    compiles: bool = False


TRAINED = (
    Form("textbook, TF32", False),
    Form("textbook, bf16", False, "bf16"),
    Form("ours, TF32", True),
    Form("ours, bf16", True, "bf16"),
    Form("ours, bf16, compiled", True, "bf16", True),
)
CODED = (Form("textbook, fp32", False), Form("ours, fp32", True), Form("ours, bf16", True, "bf16"))


@dataclass(frozen=True)
class Task:
    """What a form is measured on.

    Attributes:
        model: its name in the registry.
        work: train or encode+decode.
        batch: number of images.
        side: their height and width in pixels.
    """

    model: str
    work: str
    batch: int
    side: int

    @property
    def trains(self) -> bool:
        """Whether the work is training."""
        return self.work == "train"

    def forms(self) -> Sequence[Form]:
        """Return the forms to measure; compiled ones only for small batches, as compiling takes half a minute.

        The 1-D models have kernels of their own, which --compile does not change.
        """
        if not self.trains:
            return CODED
        if models[self.model]().pixelwise or self.batch == LARGE_BATCH:
            return TRAINED[:-1]
        return TRAINED


def measure_gpu(names: Sequence[str], device: torch.device, say: Callable[[str], None]) -> Iterator[dict]:
    """Yield a row for each form, work and size of each model.

    Args:
        names: of models in the registry.
        device: a GPU.
        say: called with a line of text before every measurement.
    """
    tasks = [Task(name, "train", *SIZES.get(name, OTHER_SIZE)) for name in names]
    tasks += [Task(name, "encode+decode", 1, CODED_SIDE) for name in names if name in SIZES]
    for work, side in (("train", 128), ("encode+decode", CODED_SIDE)):
        tasks += [Task(name, work, LARGE_BATCH, side) for name in names if name in SIZES]
    for task in tasks:
        baseline = None
        for form in task.forms():
            say(f"{task.model}, {task.batch} x {task.side} px, {task.work}, {form.name}")
            row = _measure(task, form, device)
            if form is task.forms()[0]:
                baseline = row.get("seconds")
            row["speedup"] = baseline / row["seconds"] if "seconds" in row and baseline else None
            yield row


def _measure(task: Task, form: Form, device: torch.device) -> dict:
    """Return a row, with a note instead of figures if the GPU or torch cannot do the work."""
    row = {"model": task.model, "work": task.work, "batch": task.batch, "side": task.side, "form": form.name}
    # As train.py and test.py do.
    configure_backends(deterministic=False, tf32=task.trains)
    torch.manual_seed(SEED)
    model = models[task.model](src_channels=BANDS).train(task.trains).to(device)
    x = torch.rand(task.batch, BANDS, task.side, task.side, device=device)
    try:
        call = _training_step(model, task, form, x) if task.trains else _coding(model, task, form, x)
        figures = _time_and_memory(call)  # first, as the first call loads and compiles
        torch.manual_seed(SEED)
        model = models[task.model](src_channels=BANDS).train(task.trains).to(device)  # its steps changed the weights
        deviation = _deviation(model, task, form, x[:1, :, :CHECKED_SIDE, :CHECKED_SIDE].contiguous())
        return {**row, "deviation": deviation, **figures, "note": None}
    except RuntimeError as error:  # too little memory, or tensors too large for torch's own kernels
        return {**row, "note": one_line(error)[:100]}


def _training_step(model: HSICompressionModel, task: Task, form: Form, x: Tensor) -> Callable[[], object]:
    """Return a function that trains on `x` once."""
    if form.is_ours:
        args = argparse.Namespace(learning_rate=1e-4, precision=form.precision, compile=form.compiles, scheduler="none")
        process = Process(x.device)
        state = State(args, model, process)
        stepper = Stepper(state, losses["mse"](), process, 1.0, _diverged, metrics=lambda x_hat, x: {})
        return lambda: stepper.step(x, 1.0)
    net = textbook(model, task.model)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        _loss(net, form, x).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return step


def _coding(model: HSICompressionModel, task: Task, form: Form, x: Tensor) -> Callable[[], Tensor]:
    """Return a function that encodes and decodes `x`."""
    net = model if form.is_ours else textbook(model, task.model)

    def code() -> Tensor:
        with torch.no_grad(), autocast(form.precision, x.device):
            return net.decode(net.encode(x))

    return code


def _diverged(name: str, value: float) -> ProjectError:
    return ProjectError(f"the {name} is {value}")


def _loss(net: nn.Module, form: Form, x: Tensor) -> Tensor:
    with autocast(form.precision, x.device):
        x_hat = net(x)
    return F.mse_loss(x_hat.float(), x)


def _deviation(model: HSICompressionModel, task: Task, form: Form, x: Tensor) -> float:
    """Return the relative deviation of `form` from the textbook form in float32 without TF32, in the 2-norm.

    It is that of the whole gradient in training, else of the output.
    """
    net = textbook(model, task.model)

    def result(form: Form) -> Tensor:
        if not task.trains:
            return _coding(model, task, form, x)().float()
        owner = model if form.is_ours else net
        owner.zero_grad()
        torch.manual_seed(SEED)  # blocks that are skipped at random must be the same in both forms
        if form.is_ours:
            scaler = torch.amp.GradScaler(x.device.type, enabled=False)
            loss_and_gradients(model, model, losses["mse"](), x, 1.0, scaler, form.precision)
        else:
            _loss(net, form, x).backward()
        gradients = (parameter.grad for parameter in owner.parameters())
        return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])

    configure_backends(deterministic=False, tf32=False)
    expected = result(CODED[0])
    configure_backends(deterministic=False, tf32=task.trains)
    got = result(form)
    model.zero_grad()
    return float((got - expected).norm() / expected.norm())


def _time_and_memory(call: Callable[[], object]) -> dict:
    """Return time and memory of a first call and of the steady state."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    first_seconds = _seconds(call, 1)
    first_bytes = torch.cuda.max_memory_reserved() - before
    for _ in range(WARM_UP):
        if _seconds(call, 1) > SLOW_SECONDS:
            break
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    calls = max(1, round(BLOCK_SECONDS / max(_seconds(call, 1), 1e-6)))
    blocks = [_seconds(call, calls) / calls for _ in range(BLOCKS)]
    return {
        "seconds": statistics.median(blocks),
        "all_seconds": blocks,
        "first_seconds": first_seconds,
        "first_peak_bytes": first_bytes,
        "peak_bytes": torch.cuda.max_memory_reserved() - before,
    }


def _seconds(call: Callable[[], object], times: int) -> float:
    """Return the seconds of `times` calls, up to the end of their work on the GPU."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        call()
    torch.cuda.synchronize()
    return time.perf_counter() - start
