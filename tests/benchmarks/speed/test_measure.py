"""The tools that measure. No time is asserted."""

import torch
from torch import nn

from benchmarks.speed import measure


def test_flops_of_a_known_layer():
    layer = nn.Conv2d(3, 5, 3, padding=1)
    value, flops = measure.count_flops(lambda: layer(torch.zeros(2, 3, 8, 8)))
    assert value.shape == (2, 5, 8, 8)
    assert flops == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)


def test_interleaved_takes_turns():
    calls = []
    times = measure.interleaved(
        [lambda: calls.append("a"), lambda: calls.append("b")], 3, before=lambda: calls.append("-")
    )
    assert "".join(calls) == "-a-b" * 3
    assert [len(seconds) for seconds in times] == [3, 3]


def test_least_seconds():
    assert measure.least_seconds(10, 1, 5, 1) == (2, "arithmetic")
    assert measure.least_seconds(1, 12, 5, 4) == (3, "memory")
