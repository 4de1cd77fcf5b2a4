"""Evaluation needs bounded memory, whatever the batch: measured as the growth of a process's peak."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch
from models import models
from benchmarks.speed.measure import peak_growth
name, images, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = models[name]().eval()
x = torch.rand(images, 202, side, side)
with torch.no_grad():
    model.decode(model.encode(x[:1, :, :8, :8]))  # what libraries allocate once
    kept = 4 * (x.numel() + len(x) * model.encode(x[:1, :, :8, :8]).numel() * (side // 8) ** 2)
    print(peak_growth(lambda: model.decode(model.encode(x)), torch.device("cpu")) - kept)
"""


def peak(name, images, side):
    """Bytes beside weights, input and output at the peak of encoding and decoding."""
    command = [sys.executable, "-c", SCRIPT, name, str(images), str(side)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


# Sizes at which one activation of the whole batch would take more than the bound. Chunks do not grow
# with the batch, so what holds for these sizes holds for all.
@pytest.mark.parametrize(
    ("name", "images", "side"),
    [("cae1d", 8, 32), ("cae1d_1bpppc", 3, 16), ("sscnet_1bpppc", 8, 64), ("cae3d_1bpppc", 16, 32)],
)
def test_peak_does_not_grow_with_the_batch(name, images, side):
    assert peak(name, images, side) < 0.25e9


def test_peak_of_a_whole_patch():
    """The largest: one activation of the 3-D decoder takes 0.43 GB for 128 x 128 pixels, the same for all widths."""
    assert peak("cae3d_1bpppc", 1, 128) < 1.5e9
