"""Hyperspectral data: HySpecNet-11k, scenes in files, and the scripts that prepare data.

HySpecNet-11k is a torch data set of patches (C, H, W) in [0, 1]:

    from datasets import HySpecNet11k

Scenes of any size are read and written window by window:

    from datasets.scenes import create_scene, open_scene

The scripts convert products to scenes, cut scenes into patches, and make the `DATA.npy` files and splits of a folder of
patches:

    python -m datasets.convert PRODUCT SCENE
    python -m datasets.tile SCENE... -o ROOT
    python -m datasets.preprocess ROOT
    python -m datasets.split ROOT
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets.hyspecnet11k import HySpecNet11k

__all__ = ["HySpecNet11k"]


def __getattr__(name: str) -> type[HySpecNet11k]:
    # Lazy (PEP 562): the reader imports torch, which takes seconds and which the scripts do not need.
    if name == "HySpecNet11k":
        from datasets.hyspecnet11k import HySpecNet11k

        return HySpecNet11k
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
