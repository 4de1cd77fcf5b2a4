"""The start of a run: from fresh weights, from given weights, or resumed from a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models import aliases
from training.progress import Progress
from training.run_folder import SETTINGS, read_settings, shown
from utils.checkpoint import load_checkpoint
from utils.errors import UsageError

# Arguments that a resumed run keeps: with others it would be another run, or its epochs would differ.
IDENTITY = ("model", "num_channels", "loss", "lmbda", "freeze", "seed", "repeats")


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        flags: arguments given on the command line.
        path: file of the checkpoint; None starts from fresh weights.
        checkpoint: its content.
        run_dir: folder of the run to resume; None starts a new run.
    """

    flags: Mapping
    path: Path | None = None
    checkpoint: dict | None = None
    run_dir: Path | None = None


def read_start(args: argparse.Namespace, flags: Mapping) -> tuple[argparse.Namespace, Start]:
    """Read `--checkpoint`.

    Args:
        args: all arguments.
        flags: those given on the command line.

    Returns:
        The arguments of the run (if it is resumed, the stored ones, overridden by `flags`), and its start.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        UsageError: the checkpoint is not in the folder of its run, or a flag would make it another run.
    """
    if not args.checkpoint:
        return args, Start(flags)
    path = Path(args.checkpoint)
    checkpoint = load_checkpoint(path)
    if "progress" not in checkpoint:
        return args, Start(flags, path, checkpoint)
    run_dir = path.resolve().parent
    if not (run_dir / SETTINGS).is_file():
        raise UsageError(f"{path} must be in the folder of its run to resume it, got one without {SETTINGS}")
    return _resumed_arguments(args, flags, checkpoint["arguments"]), Start(flags, path, checkpoint, run_dir)


def _resumed_arguments(args: argparse.Namespace, flags: Mapping, stored: Mapping) -> argparse.Namespace:
    for name in IDENTITY:
        own = stored.get(name)  # runs of older versions lack some
        given = aliases.get(flags[name], flags[name]) if name in flags else own
        if given != own:
            raise UsageError(
                f"--{name.replace('_', '-')} {given}: the run of {args.checkpoint} has {own}; "
                "leave the flag out to resume it, or start a new run without --checkpoint"
            )
    fixed = {name: stored.get(name) for name in (*IDENTITY, "checkpoint")}
    return argparse.Namespace(**{**vars(args), **stored, **flags, **fixed})


def refuse_finished(start: Start, args: argparse.Namespace) -> None:
    """Raise UsageError if the run to resume has finished and `args` do not extend it."""
    if not start.run_dir or not start.checkpoint:
        return
    finished = read_settings(start.run_dir).get("finished")
    if not finished:
        return
    stored, progress = start.checkpoint["arguments"], Progress(**start.checkpoint["progress"])
    early = finished["epochs"] < stored["epochs"]
    more = args.early_stopping > stored["early_stopping"] if early else args.epochs > finished["epochs"]
    # The position of `best` may lie before the end: resuming from it does not extend the run by itself.
    if progress.is_done(args.epochs, args.early_stopping) or not more:
        raise UsageError(
            f"the run in {shown(start.run_dir)} has finished after {finished['epochs']} epochs; "
            f"give a larger {'--early-stopping' if early else '--epochs'} to continue training"
        )


def refuse_other_data(start: Start, args: argparse.Namespace, data: Mapping) -> None:
    """Raise UsageError if the run to resume was trained on other data than `data` describes."""
    if start.run_dir and start.checkpoint and start.checkpoint["data"] != data:
        raise UsageError(
            f"the {args.mode} split of {args.dataset} is not the one that the run of {start.path} was trained on; "
            "give the same --dataset and --mode, or start a new run without --checkpoint"
        )
