"""Functions in fresh processes, and signals."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from benchmarks.speed.measure import peak_growth
from utils import processes
from utils.processes import OutOfMemory, StopRequest, available_memory, in_fresh_process


def grow(megabytes):
    return peak_growth(lambda: torch.ones(megabytes, 2**18), torch.device("cpu"))


def too_much():
    return torch.ones(available_memory() // 4).sum()


def wrong():
    raise KeyError("a name")


@pytest.mark.skipif(not processes.PROCESS.exists(), reason="only Linux reports the peak memory of a process")
def test_memory_of_a_fresh_process(monkeypatch):
    # The processes import this file as a module.
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    large = torch.ones(2**26)  # the peak of this process must not count
    assert 64e6 < in_fresh_process("test_processes:grow", 64, preload=["torch"]) < 90e6
    del large
    with pytest.raises(OutOfMemory):
        in_fresh_process("test_processes:too_much", preload=["torch"])
    with pytest.raises(RuntimeError, match="KeyError: 'a name'"):
        in_fresh_process("test_processes:wrong", preload=["torch"])


def test_a_later_second_signal_stops_at_once(monkeypatch):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # a launcher passing it on
        assert stop.signum == signal.SIGINT
        monkeypatch.setattr(processes, "SAME_SIGNAL_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
