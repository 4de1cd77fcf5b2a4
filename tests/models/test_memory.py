"""Evaluation needs bounded memory, whatever the batch: measured as the growth of a process's peak."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from models import models
name, images, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = models[name]().eval()
x = torch.rand(images, 202, side, side)
with torch.no_grad():
    model.decode(model.encode(x[:1, :, :8, :8]))  # what libraries allocate once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    y = model.encode(x)
    x_hat = model.decode(y)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024 - 4 * (y.numel() + x_hat.numel()))
"""


# Sizes at which one activation of the whole batch would take more than the bound. Chunks do not grow
# with the batch, so what holds for these sizes holds for all.
@pytest.mark.parametrize(
    ("name", "images", "side"),
    [("cae1d", 8, 32), ("cae1d_1bpppc", 3, 16), ("sscnet_1bpppc", 8, 64), ("cae3d_1bpppc", 16, 32)],
)
def test_peak_beside_input_and_output(name, images, side):
    command = [sys.executable, "-c", SCRIPT, name, str(images), str(side)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 0.25e9
