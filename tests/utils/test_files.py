"""Files that several processes write, full disks, and folders named by time."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from utils import files
from utils.errors import BusyError

WRITER = """
import sys, time
from utils.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half a file")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """writer: a process that is writing `a.npy`."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "a.npy"], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def write(path, content=b"new"):
    with files.atomic_write(path) as file:
        file.write(content)


def test_a_file_has_one_writer_at_a_time(tmp_path, writer):
    path = tmp_path / "a.npy"
    path.write_bytes(b"old")
    with pytest.raises(BusyError) as caught:
        write(path)
    assert str(caught.value) == f"{path}: another process is writing it: wait for it, or name another output"
    write(tmp_path / "b.npy")
    assert path.read_bytes() == b"old" and (tmp_path / ".a.npy.tmp").is_dir()


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path, writer):
    path = tmp_path / "a.npy"
    path.write_bytes(b"old")
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert path.read_bytes() == b"old"
    write(path)
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_of_many_simultaneous_writers_exactly_one_is_at_work(tmp_path):
    path, barrier, done, refused, at_work = tmp_path / "a", threading.Barrier(8), [], [], threading.Lock()

    def run(number):
        barrier.wait()
        for _ in range(20):
            try:
                with files.atomic_write(path) as file:
                    assert at_work.acquire(blocking=False)
                    file.write(b"%d" % number * 1000)
                    at_work.release()
                done.append(number)
            except BusyError:
                refused.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) + len(refused) == 160 and done
    assert list(tmp_path.iterdir()) == [path] and len(set(path.read_bytes())) == 1


def test_a_folder_that_another_writer_deletes_in_this_moment_is_made_again(tmp_path, monkeypatch):
    path, claim, mkdir, deleted = tmp_path / "a", tmp_path / ".a.tmp", os.mkdir, []
    claim.mkdir()

    def mkdir_beside_a_writer_that_ends(folder, *arguments, **options):
        try:
            mkdir(folder, *arguments, **options)
        except FileExistsError:
            if Path(folder) == claim:
                claim.rmdir()
                deleted.append(folder)
            raise

    monkeypatch.setattr(os, "mkdir", mkdir_beside_a_writer_that_ends)
    write(path)
    assert len(deleted) == 1 and path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_lock_below_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError), files.locked(tmp_path / "file" / "lock", "busy"):
        pass


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_without_locks_each_writer_has_a_file_of_its_own(tmp_path, monkeypatch, error):
    def flock(_descriptor, _operation):
        raise OSError(error, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "a"
    with files.atomic_write(path) as first:
        first.write(b"first")
        write(path, b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_files_of_a_format_appear_together_and_the_named_one_last(tmp_path, monkeypatch):
    path, renamed = tmp_path / "new" / "a.img", []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (renamed.append(b.name), replace(a, b)))
    with files.atomic_folder(path) as folder:
        for name in ("a.img", "a.hdr", "a.img.aux.xml"):
            (folder / name).write_text(name)
        assert [file.name for file in path.parent.iterdir()] == [".a.img.tmp"]
    assert sorted(renamed[:2]) == ["a.hdr", "a.img.aux.xml"] and renamed[2:] == ["a.img"]
    assert {file.name: file.read_text() for file in path.parent.iterdir()} == {name: name for name in renamed}


def test_the_leftover_file_of_an_older_version_is_replaced(tmp_path):
    (tmp_path / ".a.tmp").write_bytes(b"half a file")
    write(tmp_path / "a")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_errors_name_the_file_and_not_a_temporary_one(tmp_path):
    path = tmp_path / "a"
    for error in (OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded")):
        with pytest.raises(OSError) as caught, files.atomic_write(path):
            raise error
        assert str(caught.value) == f"[Errno {error.errno}] {error.strerror}: '{path}'"
    with pytest.raises(FileNotFoundError) as caught, files.atomic_path(path):
        pass  # nothing is written
    assert str(caught.value) == f"[Errno 2] No such file or directory: '{path}'"
    for other in (OSError(errno.EIO, "Input/output error"), OSError(errno.ENOSPC, "No space", "elsewhere")):
        with pytest.raises(OSError) as caught, files.atomic_write(path):
            raise other
        assert caught.value is other
    assert list(tmp_path.iterdir()) == []


def test_folders_of_one_second_have_different_names(tmp_path, monkeypatch):
    class Clock(files.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(files, "datetime", Clock)
    made = [files.stamped_folder(tmp_path / "runs", "cae1d") for _ in range(2)] + [files.stamped_folder(tmp_path)]
    assert [path.name for path in made] == [
        "2026_01_02-03_04_05-cae1d",
        "2026_01_02-03_04_05-cae1d-2",
        "2026_01_02-03_04_05",
    ]
    assert all(path.is_dir() and path.is_absolute() for path in made)
