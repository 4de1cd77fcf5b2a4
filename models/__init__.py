"""The model registry: `models[name](src_channels=202)` builds a model with fresh weights.

Names are those of the published table; `aliases` maps the stems of the published weight files that
differ from the model's name. A model's file is imported when the model is first asked for, because
CompressAI takes seconds to import and listing the names must not.

To add a model: write `models/<file>.py` with a factory under CompressAI's `register_model`, and name
it in `_FILES`.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping

_FILES = {
    "cae1d_1bpppc": "cae1d",
    "cae1d_2bpppc": "cae1d",
    "cae1d_4bpppc": "cae1d",
    "cae1d": "cae1d",
    "cae1da": "cae1da",
    "cae1de": "cae1de",
    "sscnet_1bpppc": "sscnet",
    "sscnet_2bpppc": "sscnet",
    "sscnet": "sscnet",
    "sscnet_4bpppc": "sscnet",
    "sscnet_6bpppc": "sscnet",
    "sscnet_8bpppc": "sscnet",
    "cae3d_1bpppc": "cae3d",
    "cae3d": "cae3d",
    "cae3d_4bpppc": "cae3d",
    "cae3d_8bpppc": "cae3d",
}

aliases = {
    "cae1d_8bpppc": "cae1d",
    "cae1da_8bpppc": "cae1da",
    "cae1de_8bpppc": "cae1de",
    "sscnet_2point5bpppc": "sscnet",
    "cae3d_2bpppc": "cae3d",
}

# Their architecture could not be confirmed against published code: see the docstrings of their files.
unverified = ("cae1da", "cae1de")


class _Registry(Mapping):
    """Name or alias -> factory; iterating gives the sixteen names without their aliases."""

    def __getitem__(self, name: str) -> Callable:
        with warnings.catch_warnings():
            # torch_geometric, which CompressAI imports, uses what torch has deprecated.
            warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
            importlib.import_module(f"models.{_FILES[aliases.get(name, name)]}")
        from compressai.registry import MODELS

        return MODELS[name]

    def __contains__(self, name: object) -> bool:
        return aliases.get(name, name) in _FILES

    def __iter__(self) -> Iterator[str]:
        return iter(_FILES)

    def __len__(self) -> int:
        return len(_FILES)


models: Mapping[str, Callable] = _Registry()


def names_for_help() -> str:
    """All names, as the scripts list them."""
    return (
        f"models: {', '.join(models)}\n"
        f"by the names of their weight files: {', '.join(aliases)}\n"
        f"architecture not confirmed against published code: {', '.join(unverified)}"
    )
