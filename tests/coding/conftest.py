"""Small networks and scenes for the tests of codecs."""

import numpy as np
import pytest
import torch

from coding.learned.network import Network
from models import models


def strong(model):
    """Initialize weights that keep signals strong: with the default ones, the output is almost constant."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="leaky_relu")
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    return model


@pytest.fixture(scope="session")
def make_network():
    """make_network(name="cae1d", bands=12) -> Network with fixed random weights."""

    def make(name="cae1d", bands=12, seed=0):
        torch.manual_seed(seed)
        return Network(name, strong(models[name](src_channels=bands)))

    return make


@pytest.fixture(scope="session")
def make_cube():
    """make_cube(shape, dtype="int16", seed=0) -> smooth spectra with noise; some samples negative, some above 10000."""

    def make(shape=(12, 20, 24), dtype="int16", seed=0):
        bands, height, width = shape
        rng = np.random.default_rng(seed)
        spectra = 2000 + 1500 * np.sin(np.linspace(0, 5, bands))[:, None, None] * rng.random((1, height, width))
        cube = np.rint(spectra + rng.normal(0, 30, shape))
        cube.flat[rng.integers(0, cube.size, 3)] = -40 if dtype != "uint16" else 0
        cube.flat[rng.integers(0, cube.size, 3)] = 12000
        if dtype == "float32":
            return (np.clip(cube, 0, 10000).astype(np.float32) / np.float32(10000)).astype(np.float32)
        return cube.astype(dtype)

    return make
