"""What flags may be set to, without importing torch: `--help` must be quick."""

from __future__ import annotations

import argparse
import math

LOSSES = ("mse", "mae", "sa", "ssim")
"""The keys of `training.losses.losses`."""

SCHEDULERS = ("none", "plateau", "cosine")

PRECISIONS = ("fp32", "bf16", "fp16")


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of a script's docstring and adds each flag's default."""


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value


def natural_number(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def seed_number(text: str) -> int:
    value = natural_number(text)
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not below 2^32")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def non_negative_float(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def given(parser: argparse.ArgumentParser, argv: list[str]) -> dict:
    """The options that `argv` sets itself, without those that only have their default."""
    unset = object()
    blank = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([])), unset))
    return {name: value for name, value in vars(parser.parse_args(argv, blank)).items() if value is not unset}
