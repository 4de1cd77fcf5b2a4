"""What scripts import for good, print and return: one line and a status."""

import gc
import os
import subprocess
import sys

import pytest
import torch

from utils.errors import DatasetError, ProjectError, UsageError
from utils.scripts import lasting_imports, run_script


def outcome(error, capsys):
    def main(_argv):
        raise error

    with pytest.raises(SystemExit) as caught:
        run_script(main)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ProjectError("it broke"), 1, "error: it broke"),
        (UsageError("--flag is wrong"), 2, "error: --flag is wrong"),
        (DatasetError("a.npy: damaged:\n  make it again\n"), 1, "error: a.npy: damaged: make it again"),
        (OSError(28, "No space left on device", "a.json"), 1, "error: [Errno 28] No space left on device: 'a.json'"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
            1,
            "error: CUDA out of memory. Tried to allocate 2 GiB. Give a smaller batch size, or another device.",
        ),
        (MemoryError(), 1, "error: memory ran out: give a smaller batch or tile size, or fewer --num-workers"),
        (
            MemoryError("Unable to allocate 2 GiB"),
            1,
            "error: memory ran out (Unable to allocate 2 GiB): "
            "give a smaller batch or tile size, or fewer --num-workers",
        ),
        (
            OSError(12, "Cannot allocate memory"),
            1,
            "error: memory ran out ([Errno 12] Cannot allocate memory): "
            "give a smaller batch or tile size, or fewer --num-workers",
        ),
        (
            RuntimeError("can't start new thread"),
            1,
            "error: memory ran out (can't start new thread): give a smaller batch or tile size, or fewer --num-workers",
        ),
    ],
)
def test_one_line_and_a_status(error, status, line, capsys):
    code, err = outcome(error, capsys)
    assert code == status
    assert err == line + "\n"


def test_a_process_of_many_names_its_rank(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    assert outcome(ProjectError("it broke"), capsys)[1] == "error in process 3: it broke\n"


def test_bugs_keep_their_traceback():
    def main(_argv):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_script(main)


def test_garbage_is_collected_after_imports_that_fail_too():
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), lasting_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() > frozen


def test_status_of_a_script():
    for value, status in ((None, 0), (0, 0), (143, 143)):
        with pytest.raises(SystemExit) as caught:
            run_script(lambda _argv, value=value: value)
        assert caught.value.code == status


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_names_that_stdout_cannot_show_are_escaped(encoding):
    code = (
        "import sys; from utils.errors import ProjectError; from utils.scripts import run_script\n"
        "def main(_):\n    print(sys.argv[1])\n    raise ProjectError(sys.argv[1])\n"
        "run_script(main)"
    )
    name = "\u5317".encode() + b"\xe8.hsc"  # not UTF-8 as a whole
    done = subprocess.run(
        [sys.executable, "-c", code, name], env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True
    )
    first = b"\xe5\x8c\x97" if encoding == "utf-8" else b"\\u5317"
    assert (done.returncode, done.stdout) == (1, first + b"\\udce8.hsc\n")
    assert done.stderr == b"error: " + done.stdout


@pytest.mark.parametrize("module", ["numba", "triton"])
def test_the_end_of_a_script_prints_nothing(module):
    pytest.importorskip(module)
    code = (
        "from utils.scripts import lasting_imports, run_script\n"
        f"def main(_):\n    with lasting_imports():\n        import {module}\n"
        "run_script(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
