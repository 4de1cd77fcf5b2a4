"""Types and choices of command-line flags. Does not import torch, so that `--help` is quick."""

from __future__ import annotations

import argparse
import math

LOSSES = ("mse", "mae", "sa", "ssim")
"""The keys of `training.losses.losses`."""

SCHEDULERS = ("none", "plateau", "cosine")

PRECISIONS = ("fp32", "bf16", "fp16")


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keep the line breaks of a script's docstring and add each flag's default."""


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name many files."""
    add = parser.add_argument
    add(
        "--output-dir",
        default=None,
        metavar="DIR",
        help="write an output for each input into this folder, and manifest.csv",
    )
    add(
        "--list", default=None, metavar="FILE", help="with --output-dir: a text file that names more inputs, one a line"
    )


def positive_int(text: str) -> int:
    """Parse an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text}")
    return value


def natural_number(text: str) -> int:
    """Parse an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, got {text}")
    return value


def seed_number(text: str) -> int:
    """Parse an integer from 0 to 2^32 - 1."""
    value = natural_number(text)
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"must be below 2^32, got {text}")
    return value


def positive_float(text: str) -> float:
    """Parse a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
    return value


def non_negative_float(text: str) -> float:
    """Parse a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text}")
    return value


def given(parser: argparse.ArgumentParser, argv: list[str]) -> dict:
    """Return the options that `argv` sets, even if to their default, and no others."""
    unset = object()
    blank = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([])), unset))
    return {name: value for name, value in vars(parser.parse_args(argv, blank)).items() if value is not unset}
