"""The model registry: `models[name](src_channels=202)` builds a model with fresh weights.

The names are those of the published table. `aliases` maps the name of a weight file to its model where the
two differ. A model's module is imported when the model is first requested: importing CompressAI takes
seconds, and listing the names must not.

To add a model: write `models/<module>.py` with a factory under CompressAI's `register_model`, and add its
name to `_NAMES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import utils  # noqa: F401  # silences a warning when CompressAI is imported
from models.published import read_published

if TYPE_CHECKING:
    from models.base import HSICompressionModel

HYCASS_RATIOS = ("cr004", "cr008", "cr016", "cr032", "cr050", "cr101", "cr202", "cr404")
HYCASS_NAMES = tuple(
    f"hycass_{ratio}_s{stages}"
    for stages in range(4)
    for ratio in HYCASS_RATIOS
    if (ratio, stages) != ("cr404", 0)  # less than one value for a pixel
)

_NAMES = {
    "cae1d": ("cae1d_1bpppc", "cae1d_2bpppc", "cae1d_4bpppc", "cae1d"),
    "cae1da": ("cae1da",),
    "cae1de": ("cae1de",),
    "sscnet": ("sscnet_1bpppc", "sscnet_2bpppc", "sscnet", "sscnet_4bpppc", "sscnet_6bpppc", "sscnet_8bpppc"),
    "cae3d": ("cae3d_1bpppc", "cae3d", "cae3d_4bpppc", "cae3d_8bpppc"),
    "hycot": ("hycot_1bpppc", "hycot_2bpppc", "hycot_4bpppc", "hycot"),
    "hycass": HYCASS_NAMES,
    "variational": tuple(f"ours_{prior}_s{stages}" for prior in ("factorized", "hyperprior") for stages in range(3)),
    "learned_klt": ("ours_klt",),
}
"""Module -> names of the models that it defines."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names}

aliases = {row.stem: row.model for row in read_published() if row.stem != row.model}

unverified = tuple(row.model for row in read_published() if not row.verified)
"""Models whose architecture could not be confirmed against published code: see their docstrings."""


class _Registry(Mapping):
    """Map a name or alias to its factory. Iteration yields names only."""

    def __getitem__(self, name: str) -> Callable:
        name = aliases.get(name, name)
        importlib.import_module(f"models.{_MODULES[name]}")
        return importlib.import_module("compressai.registry").MODELS[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and aliases.get(name, name) in _MODULES

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


models: Mapping[str, Callable[..., HSICompressionModel]] = _Registry()


def names_for_help() -> str:
    """Return the list of all names that ends a script's `--help`."""
    others = (name for name in models if name not in HYCASS_NAMES)
    return (
        f"models: {', '.join(others)}\n"
        "ours_*: this project's own, with an entropy model; to train them, give --lmbda\n"
        f"hycass_RATIO_sSTAGES: RATIO {', '.join(HYCASS_RATIOS)}; STAGES 0, 1, 2, 3; but not cr404 with 0\n"
        f"by the names of their weight files: {', '.join(aliases)}\n"
        f"architecture not confirmed against published code: {', '.join(unverified)}"
    )
