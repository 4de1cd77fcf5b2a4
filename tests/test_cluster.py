"""The same work by a Dask cluster: two workers on this machine, of which one is killed, and then the scheduler."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from coding.batch import read_manifest
from utils import workers
from utils.errors import ProjectError
from utils.workers import run

ROOT = Path(__file__).resolve().parents[1]
JOBS = """
import os, time

def wait(seconds):
    time.sleep(seconds)
    return os.getpid()

def divide(number):
    if number == 2:
        raise FileNotFoundError(2, "No such file", "two.tif")
    return 12 // number
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a module of jobs, on the path of this process and of workers."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "jobs_of_tests.py").write_text(JOBS)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def jobs(folder):
    import jobs_of_tests

    return jobs_of_tests


@pytest.fixture(scope="module")
def cluster(folder):
    """Return the scheduler's process and file; two workers wait for jobs."""
    file = folder / "scheduler.json"
    flags = ["--scheduler-file", str(file), "--no-dashboard"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}

    def start(*args):
        command = [sys.executable, "-m", "dask", *args]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)

    processes = [start("scheduler", "--host", "127.0.0.1", "--port", "0", *flags)]
    processes.append(
        start("worker", "--nthreads", "1", "--nworkers", "2", "--memory-limit", "2GB", "--host", "127.0.0.1", *flags)
    )
    yield processes[0], str(file)
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def address(cluster, jobs):
    """Return the file of the cluster, which has both workers by now."""
    _, file = cluster
    deadline = time.monotonic() + 60
    while not os.path.exists(file):
        assert time.monotonic() < deadline, "waited too long for the scheduler"
        time.sleep(0.05)
    pids: set = set()
    while len(pids) < 2:
        assert time.monotonic() < deadline, "waited too long for the workers"
        pids |= {outcome.value for outcome in run(jobs.wait, [0.05] * 4, num_workers=0, scheduler=file)}
    return file


@pytest.mark.parametrize("is_local", [True, False])
def test_a_job_that_fails_does_not_stop_the_others(request, jobs, is_local):
    scheduler = None if is_local else request.getfixturevalue("address")
    outcomes = {outcome.job: outcome for outcome in run(jobs.divide, range(5), num_workers=2, scheduler=scheduler)}
    assert [outcomes[number].value for number in (1, 3, 4)] == [12, 4, 3]
    assert "two.tif" in outcomes[2].error and outcomes[2].traceback == ""
    assert outcomes[0].error.startswith("ZeroDivisionError") and "Traceback" in outcomes[0].traceback


def test_unfit_clusters_are_refused(address, jobs, monkeypatch, capsys):
    with pytest.raises(ProjectError, match=r"may take 2\.0 GB of memory, but needs up to 3\.0 GB"):
        list(run(jobs.divide, [1], num_workers=0, scheduler=address, job_bytes=3 * 10**9))
    monkeypatch.setattr(workers, "_ROOT", workers._ROOT / "coding")
    workers.code_versions.cache_clear()
    with pytest.raises(ProjectError, match=r"^the scheduler at .* runs code \w+, here it is \w+: update that machine"):
        list(run(jobs.divide, [1], num_workers=0, scheduler=address))
    monkeypatch.undo()
    workers.code_versions.cache_clear()
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 0.5)
    with pytest.raises(ProjectError, match="no Dask scheduler answers there"):
        list(run(jobs.divide, [1], num_workers=0, scheduler="tcp://127.0.0.1:9"))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ProjectError, match=r"pip install -r requirements-cluster\.txt"):
        list(run(jobs.divide, [1], num_workers=0, scheduler=address))


def test_preprocessing(address, scripts, tmp_path, capsys):
    from datasets.preprocess import main

    root = tmp_path / "sample"
    for path in (ROOT / "datasets/sample/patches").rglob("*-SPECTRAL_IMAGE.TIF"):
        link = root / path.name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(path)
    assert main([str(root), "--scheduler", address]) == 0
    assert "2 made, 0 skipped, 0 failed" in capsys.readouterr().out
    assert sorted(np.load(path).shape for path in root.glob("*-DATA.npy")) == [(202, 128, 128)] * 2


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_and_a_lost_scheduler_no_finished_file(
    cluster, address, jobs, scripts, start, tmp_path, monkeypatch, capsys
):
    for number in range(12):
        rng = np.random.default_rng(number)
        np.save(tmp_path / f"s{number:02}.npy", rng.normal(2000, 100, (12, 40, 40)).astype(np.int16))
    scenes = sorted(map(str, tmp_path.glob("*.npy")))
    (pid, *_) = {outcome.value for outcome in run(jobs.wait, [0.1] * 4, num_workers=0, scheduler=address)}
    process = start("compress.py", *scenes, "--output-dir", tmp_path / "cluster", "--scheduler", address)
    deadline = time.monotonic() + 60
    while not read_manifest(tmp_path / "cluster") and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "12 made, 0 skipped, 0 failed" in out, err
    assert scripts.compress.main([*scenes, "--output-dir", str(tmp_path / "serial"), "-n", "1"]) == 0
    assert figures(tmp_path / "cluster") == figures(tmp_path / "serial")

    running = run(jobs.wait, [0.2] * 50, num_workers=0, scheduler=address)
    next(running)
    cluster[0].kill()
    with pytest.raises(ProjectError, match="went away: start it and its workers, and run the same command again"):
        list(running)


def figures(folder):
    """Return what a manifest says of each output, except for the time."""
    rows = read_manifest(folder)
    assert all(json.loads(row.settings)["codec"] == "klt-cm" for row in rows)
    return sorted((row.output, row.bytes, row.rate, row.psnr, row.largest_error, row.sha256) for row in rows)
