"""HySpecNet-11k: the reader, its transforms and sampler, and the scripts that prepare the data.

The reader is a torch data set of patches (C, H, W) in [0, 1]:

    from datasets import HySpecNet11k

The scripts make its `DATA.npy` files, and splits of a folder of patches of one's own:

    python -m datasets.preprocess ROOT
    python -m datasets.split ROOT
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets.hyspecnet11k import HySpecNet11k

__all__ = ["HySpecNet11k"]


def __getattr__(name: str):
    # Lazy (PEP 562): the reader imports torch, which takes seconds and which the scripts do not need.
    if name == "HySpecNet11k":
        from datasets.hyspecnet11k import HySpecNet11k

        return HySpecNet11k
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
