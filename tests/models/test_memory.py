"""Evaluation needs bounded memory, whatever the batch: measured as the growth of a process's peak."""

import json
import subprocess
import sys

import pytest

# Sizes at which one activation of the whole batch would take more than the bound. Chunks do not grow
# with the batch, so a bound that holds for these sizes holds for all.
BATCHES = [("cae1d", 8, 32), ("cae1d_1bpppc", 3, 16), ("sscnet_1bpppc", 8, 64), ("cae3d_1bpppc", 16, 32)]
PATCH = ("cae3d_1bpppc", 1, 128)

# One fresh interpreter. Each case forks, so that the allocator holds no memory of the others.
SCRIPT = """
import json, os, sys, torch
from models import models
from benchmarks.speed.measure import peak_growth

def growth(name, images, side):
    model = built[name]
    x = torch.rand(images, 202, side, side)
    with torch.no_grad():
        model.decode(model.encode(x[:1, :, :8, :8]))  # allocates what libraries keep
        kept = 4 * (x.numel() + len(x) * model.encode(x[:1, :, :8, :8]).numel() * (side // 8) ** 2)
        return peak_growth(lambda: model.decode(model.encode(x)), torch.device("cpu")) - kept

cases = json.loads(sys.argv[1])
built = {name: models[name]().eval() for name, *_ in cases}
for case in cases:
    if os.fork() == 0:
        print(growth(*case), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit("a case failed")
"""


@pytest.fixture
def peaks(once):
    """Map (name, images, side) to the bytes that encoding and decoding need besides weights, input and output."""
    cases = [*BATCHES, PATCH]

    def measure(folder):
        done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(cases)], stdout=subprocess.PIPE, check=True)
        (folder / "peaks").write_bytes(done.stdout)

    return dict(zip(cases, map(int, (once("peaks", measure) / "peaks").read_text().split()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", BATCHES)
def test_peak_does_not_grow_with_the_batch(peaks, case):
    assert peaks[case] < 0.25e9


@pytest.mark.slow
def test_peak_of_a_whole_patch_is_bounded(peaks):
    """The largest activation of the 3-D decoder takes 0.43 GB for 128 x 128 pixels, at any latent width."""
    assert peaks[PATCH] < 1.5e9
