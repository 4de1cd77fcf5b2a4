"""Processes for the tests that stop, kill or connect them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class WarmProcess:
    """A process of `warm_server.py`, used like a `subprocess.Popen`."""

    def __init__(self, ask, folder, argv, code, env):
        self._ask = ask
        self._files = [folder / "out", folder / "err"]
        out, err = map(str, self._files)
        self.pid = ask(code=code, argv=[*map(str, argv)], env=env, out=out, err=err)
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            self.returncode = self._ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout=60):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.01)
        return self.returncode

    def communicate(self, timeout=60):
        self.wait(timeout)
        return tuple(file.read_text() for file in self._files)

    def signal_group(self, number):
        """As a terminal or a batch system does: the processes that load data get it too."""
        while self.poll() is None:
            if os.getpgid(self.pid) == self.pid:  # a process that was just forked has no group of its own yet
                os.killpg(self.pid, number)
                return
            time.sleep(0.01)


@pytest.fixture(scope="session")
def warm_server():
    command = [sys.executable, Path(__file__).with_name("warm_server.py")]
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(**request):
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield ask
    server.kill()
    server.wait()


@pytest.fixture
def start_warm(warm_server, tmp_path):
    """start_warm(*argv, code=..., **env) -> WarmProcess of train.py, or of other code."""
    processes = []

    def begin(*argv, code="train.run_script(train.main)", **env):
        folder = tmp_path / f"process-{len(processes)}"
        folder.mkdir()
        processes.append(WarmProcess(warm_server, folder, argv, code, env))
        return processes[-1]

    yield begin
    for process in processes:
        process.signal_group(signal.SIGKILL)
        process.wait()
