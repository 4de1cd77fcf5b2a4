"""Signal, kill and break training in a process of its own."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from training.run_folder import shown
from utils.errors import BusyError

FLAGS = ["--devices", "cpu", "-lr", "0.001"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_names_the_command_that_resumes(
    start_warm, wait_for, data_flags, tmp_path, run_of, scripts, number
):
    save_dir = tmp_path / "runs"
    process = start_warm(*FLAGS, "-n", 2, *data_flags(), "--save-dir", save_dir, "-e", 10000)
    wait_for(lambda: list(save_dir.glob("*/last.pth.tar")), process)
    (last,) = save_dir.glob("*/last.pth.tar")
    with pytest.raises(BusyError, match=f"^{last.parent}: another process is training in it: wait"):
        scripts.train.main(["--checkpoint", str(last)])
    process.signal_group(number)
    out, err = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    command = out.splitlines()[-1].split()
    assert command[:3] == [shown(Path(sys.executable)), "train.py", "--checkpoint"]
    run = run_of(save_dir)
    epochs = run.checkpoint("last")["progress"]["epoch"] + 1
    assert scripts.train.main([*command[2:], "-n", "0", "-e", str(epochs)]) == 0
    assert len(run.rows()) == epochs


def test_a_signal_in_the_final_test_can_be_resumed(train, resume, data_flags, scripts, monkeypatch, capsys):
    original = scripts.train.test
    with monkeypatch.context() as patch:

        def test(run, loader):
            os.kill(os.getpid(), signal.SIGINT)
            return original(run, loader)

        patch.setattr(scripts.train, "test", test)
        run = train(*data_flags(train=2, test=2), "-e", 1, status=128 + signal.SIGINT)
    assert "resume with" in capsys.readouterr().out and run.settings()["finished"] is None
    resume(run)
    assert run.settings()["finished"]["test"]["psnr"] > 0 and len(run.rows()) == 1


@pytest.mark.slow
def test_kills_at_any_time_leave_checkpoints_that_load(start_warm, wait_for, data_flags, tmp_path, run_of, resume):
    """SIGKILL at random moments, while checkpoints are written in every step."""
    save_dir = tmp_path / "runs"
    code = "from training import checkpoints; checkpoints.CHECKPOINT_INTERVAL = 0; train.run_script(train.main)"
    flags = [*FLAGS, "-n", 0, *data_flags(train=6, val=1, test=1), "--transform", "random_2x2", "-e", 10000]
    process = start_warm(*flags, "--save-dir", save_dir, code=code)
    rng, steps = np.random.default_rng(0), []
    for _ in range(4):
        seen = [steps[-1] if steps else 0]

        def moved_on(seen=seen):
            # Reading while it is being written must work as well.
            for path in save_dir.glob("*/last.pth.tar"):
                seen.append(torch.load(path, weights_only=True)["progress"]["global_step"])
            return seen[-1] > seen[0]

        wait_for(moved_on, process)
        time.sleep(rng.random() * 0.3)
        process.signal_group(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        run = run_of(save_dir)
        for name in ("last", "best"):
            if (run.dir / f"{name}.pth.tar").exists():
                run.checkpoint(name)
        steps.append(run.checkpoint("last")["progress"]["global_step"])
        process = start_warm("--checkpoint", run.dir / "last.pth.tar", code=code)
    process.signal_group(signal.SIGKILL)
    process.wait()
    assert steps == sorted(set(steps)) and steps[0] > 0

    # And then it ends as if nothing had happened.
    epochs = run.checkpoint("last")["progress"]["epoch"] + 1
    resume(run, "-e", epochs)
    assert [int(row["epoch"]) for row in run.rows()] == list(range(1, epochs + 1))


def test_errors_are_one_line_with_an_exit_status(start_warm, data_flags, tmp_path):
    missing = start_warm(*FLAGS, "-n", 0, "-d", tmp_path / "nothing")
    data = data_flags()
    root = Path(data[1])
    damaged = root / "patches" / (root / "splits/easy/train.csv").read_text().splitlines()[2]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    # Found in a process that loads data, in the middle of the training.
    broken = start_warm(*FLAGS, "-n", 2, *data, "--save-dir", tmp_path / "runs")
    wrong = start_warm("--devices", "gpu")
    for process, status, words in (
        (missing, 1, ["nothing", "hyspecnet.rsim.berlin", "datasets.preprocess", "./datasets/sample/"]),
        (broken, 1, [damaged.name]),
        (wrong, 2, ["--devices gpu"]),
    ):
        _, err = process.communicate()
        assert process.returncode == status
        (line,) = err.strip().splitlines()
        assert line.startswith("error: ") and all(word in line for word in words)
