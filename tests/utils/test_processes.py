"""Functions in fresh processes, and signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.speed.measure import peak_growth
from utils import environment, processes
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


V2 = "0::/user.slice/job"
V1 = "3:cpuset:/\n2:cpu,cpuacct:/docker/abc\n0::/"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        (V2, {}, 8),
        (V2, {"user.slice/job/cpu.max": "max 100000"}, 8),
        (V2, {"user.slice/job/cpu.max": "200000 100000"}, 2),
        (V2, {"user.slice/job/cpu.max": "150000 100000"}, 2),
        (V2, {"user.slice/job/cpu.max": "1000 100000"}, 1),
        (V2, {"user.slice/job/cpu.max": "max 100000", "user.slice/cpu.max": "300000 100000"}, 3),
        ("0::/", {"cpu.max": "400000 100000"}, 4),  # docker --cpus 4
        ("0::/docker/abc", {"cpu.max": "400000 100000"}, 4),  # without a namespace of its own
        ("0::/../../other", {"cpu.max": "6400000 100000"}, 8),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "-1", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "50000", "cpu/docker/abc/cpu.cfs_period_us": "25000"}, 2),
        (V1, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        (None, {}, 8),
    ],
)
def test_cores_are_those_of_the_control_group(tmp_path, monkeypatch, groups, files, cores):
    monkeypatch.setattr(processes, "PROCESS", tmp_path / "self")
    monkeypatch.setattr(processes, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    if groups is not None:
        files = {"../self/cgroup": groups + "\n", **files}
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert processes.num_cores() == cores


def test_torch_computes_with_no_more_threads_than_cores(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(environment, "num_cores", lambda: 3)
        environment.configure_backends(deterministic=False, tf32=False)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_is_stopped_while_it_starts_prints_nothing():
    code = (
        "import os, signal; from utils import workers\n"
        "workers._exit_with_parent = lambda: None\n"
        "workers._start_worker()\n"
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
