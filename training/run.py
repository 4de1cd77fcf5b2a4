"""Set up a run from its arguments, with everything that the loop in train.py needs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from datasets.loading import ThreadLoader
from models import models
from training.checkpoints import Checkpoints
from training.checks import check_run
from training.data import SplitLoader, image_loader, open_splits
from training.distributed import Process, check_share, join, launch
from training.launchers import find_place
from training.losses import RateDistortion, losses
from training.progress import Totals
from training.reporter import Reporter, SilentReporter
from training.resume import Start, read_start, refuse_finished, refuse_other_data
from training.run_folder import record_start, shown
from training.start import initialize, load_start
from training.state import State
from training.stepper import Stepper, sum_metrics
from training.steps import Outcome
from utils.devices import parse_devices
from utils.environment import configure_backends, provenance, seed_everything
from utils.errors import BusyError, ProjectError
from utils.evaluation import average, evaluate
from utils.files import locked, stamped_folder
from utils.processes import StopRequest

__all__ = ["Run", "launch_processes", "open_run", "read_start"]

LOCK = ".lock"
"""File in the folder of a run that exists, locked, while a process trains in it."""


@dataclass
class Run:
    """What the loop works with.

    Attributes:
        args: arguments of train.py, as `read_start` returned them.
        process: this process among those that train together.
        state: everything that training changes.
        criterion: the loss, one of `training.losses`.
        train_loader: batches of the training split.
        val_loader: batches of the validation split.
        test_loader: images of the test split; None if there is no such split.
        checkpoints: writes the checkpoints, in the main process.
        reporter: prints and logs, in the main process.
        stop: true once a signal asked this process to end.
    """

    args: argparse.Namespace
    process: Process
    state: State
    criterion: nn.Module
    train_loader: SplitLoader
    val_loader: SplitLoader
    test_loader: ThreadLoader | None
    checkpoints: Checkpoints
    reporter: SilentReporter
    stop: StopRequest

    def measure(self, outcome: Outcome, x: Tensor) -> Totals:
        """Return the sums of the metrics over a batch of all processes.

        Args:
            outcome: what the batch of this process gave.
            x: (N, C, H, W) in [0, 1], the images of this process; N may be 0.
        """
        return Totals(*sum_metrics(outcome, x, self.process).tolist())

    def means(self, loader: SplitLoader, totals: Totals, seconds: float) -> dict[str, float]:
        """Return the mean metrics over images of `loader`, and `images_per_second`.

        `ssim` and `aux_loss` are there if they apply; `bpppc` is estimated by the entropy model if there is one.
        """
        means = {**totals.means(), "images_per_second": totals.images / seconds}
        if not loader.has_ssim:
            del means["ssim"]
        if not self.state.model.has_entropy_model:
            means["bpppc"] = self.state.model.bpppc
            del means["aux_loss"]
        return means

    def evaluate(self, images: Iterable[Tensor]) -> dict[str, float]:
        """Return the mean metrics of batches (N, C, H, W), coded to bytes and back; see `utils.evaluation`.

        Tables of the range coder are those that `Checkpoints.save_final` made.
        """
        self.state.model.eval()
        return average(evaluate(self.state.model, images, self.process.device, self.args.precision))

    def make_stepper(self) -> Stepper:
        """Return the stepper that takes the training steps."""
        return Stepper(self.state, self.criterion, self.process, self.args.clip_max_norm, self.diverged)

    def diverged(self, name: str, value: float) -> ProjectError:
        """Return the error to raise for a `value` that is not finite."""
        progress, good = self.state.progress, self.checkpoints.last_good()
        return ProjectError(
            f"the {name} is {value} in epoch {progress.epoch + 1}, step {progress.step + 1}; "
            f"the last good checkpoint is {shown(good) if good else 'none yet'}; try a lower --learning-rate"
        )


def launch_processes(args: argparse.Namespace, script: str, argv: Sequence[str]) -> int | None:
    """Run `script` in one process per device if there are several, and wait.

    Returns:
        The exit status of `launch`; None if this process is to train itself.

    Raises:
        UsageError: a device does not exist, a batch size is not divisible by the number of devices, or this process
            is one of several and does not know its place.
    """
    devices = parse_devices(args.devices)
    if find_place(len(devices)) or len(devices) == 1:
        return None
    check_share(args.train_batch_size, len(devices), "--train-batch-size")
    check_share(args.val_batch_size, len(devices), "--val-batch-size")
    return launch(script, argv, devices)


@contextmanager
def open_run(args: argparse.Namespace, start: Start) -> Iterator[Run]:
    """Set up a run, and clean up after it.

    While it is open, SIGINT and SIGTERM only set `stop`.

    Args:
        args: arguments of train.py, as `read_start` returned them.
        start: what to start from.

    Yields:
        The run.

    Raises:
        ProjectError: the run cannot work; nothing has been written yet.
    """
    configure_backends(args.deterministic, tf32=not args.deterministic)
    process = join(parse_devices(args.devices))
    with ExitStack() as stack:
        stack.callback(process.leave)
        run = _set_up(args, start, process, stack)
        with run.stop:
            yield run
        run.reporter.close()


def _set_up(args: argparse.Namespace, start: Start, process: Process, stack: ExitStack) -> Run:
    refuse_finished(start, args)
    splits = open_splits(args, quiet=not process.is_main)
    data = splits.facts()
    refuse_other_data(start, args, data)
    seed_everything(args.seed)
    model = models[args.model](src_channels=args.num_channels)
    if args.lmbda is not None and not model.has_entropy_model:
        model.attach_entropy_model()
    if args.freeze:
        model.freeze_encoder()
    check_run(args, model, process, splits)
    state = State(args, model, process)
    _load(state, start, process)
    folder, reporter = _folder(args, start, process), SilentReporter()
    stack.enter_context(_locked(folder, start, process))
    if folder:
        record_start(folder, *_settings(args, state, process, data))
        reporter = Reporter(args, folder, state.progress.epoch)
        print(f"{'Resuming' if start.run_dir else 'Training in'} {shown(folder)}", flush=True)
    return Run(
        args=args,
        process=process,
        state=state,
        criterion=_criterion(args),
        train_loader=SplitLoader(args, splits.train, process, args.train_batch_size, shuffle=True),
        val_loader=SplitLoader(args, splits.val, process, args.val_batch_size, shuffle=False),
        test_loader=image_loader(args, splits.test, process) if splits.test else None,
        checkpoints=Checkpoints(folder, data),
        reporter=reporter,
        stop=StopRequest(),
    )


def _load(state: State, start: Start, process: Process) -> None:
    """Give a resumed run its state, and a new one the weights that it starts from."""
    has_codec = False
    if start.run_dir and start.checkpoint and start.path:
        state.load(start.checkpoint, start.path, start.flags)
        return
    if start.checkpoint and start.path:
        has_codec = load_start(state.model, start.checkpoint, start.path)
    if state.model.has_entropy_model and not has_codec:
        initialize(state.model, state.args, process, is_fresh=start.checkpoint is None)


def _criterion(args: argparse.Namespace) -> nn.Module:
    distortion = losses[args.loss]()
    return distortion if args.lmbda is None else RateDistortion(distortion, args.lmbda)


def _folder(args: argparse.Namespace, start: Start, process: Process) -> Path | None:
    """Return the folder of the run, which is created if it is new; None in a process that writes nothing."""
    if not process.is_main:
        return None
    rate = "" if args.lmbda is None else f"-lmbda{args.lmbda:g}"
    name = f"{args.mode}-{args.model}-{args.loss}-{args.learning_rate}{rate}"
    return start.run_dir or stamped_folder(args.save_dir, name)


@contextmanager
def _locked(folder: Path | None, start: Start, process: Process) -> Iterator[None]:
    """Hold the lock of the run's folder; raise BusyError in each of its processes if another run holds it."""
    with ExitStack() as stack:
        is_busy = False
        if folder:
            try:
                stack.enter_context(locked(folder / LOCK, ""))
            except BusyError:
                is_busy = True
        if process.any(is_busy):
            run_dir = shown(start.run_dir or Path())  # a new folder is not busy
            raise BusyError(f"{run_dir}: another process is training in it: wait until it ends, or stop it")
        yield


def _settings(args: argparse.Namespace, state: State, process: Process, data: dict) -> tuple[dict, dict]:
    """Return what settings.json records of the whole run, and of this start alone."""
    model = state.model
    facts = {
        "model": args.model,
        "bpppc": model.bpppc,
        "compression_ratio": model.compression_ratio,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data": data,
    }
    start = {
        "epoch": state.progress.epoch,
        "step": state.progress.step,
        "arguments": vars(args),
        "processes": process.world_size,
        "pixels_per_chunk": state.pixels_per_chunk,
        **provenance(process.device),
    }
    return facts, start
