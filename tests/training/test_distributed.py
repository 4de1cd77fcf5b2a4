"""Training with several processes on CPUs (gloo) equals one process on the same batches."""

import io
import os
import signal
import socket
import time

import pytest
import torch

from training import distributed
from training.distributed import check_share, join
from training.launchers import find_place
from utils.devices import get_device, parse_devices
from utils.errors import ProjectError, UsageError

FLAGS = ["--devices", "cpu", "-n", "0", "-lr", "0.001"]


@pytest.fixture
def start_pair(start_warm):
    """start_pair(*flags) -> two processes of train.py that find each other as if torchrun had started them."""

    def begin(*flags):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        return [start_warm(*flags, **address, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]

    return begin


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        # 5 patches in batches of 2: the second process has no image in the last one, the first two chunks of pixels.
        ["-m", "cae1d"],
        ["-m", "cae1d", "--loss", "ssim"],
        ["-m", "sscnet_1bpppc", "--loss", "sa", "--train-batch-size", "4"],
    ],
)
def test_two_processes_do_what_one_does(start_pair, train, data_flags, tmp_path, run_of, flags):
    flags = [*data_flags(train=5, val=3, test=1, bands=32, side=16), "-e", "2", *flags]
    processes = start_pair(*FLAGS, *flags, "--save-dir", tmp_path / "two")
    one = train(*flags, name="one")
    (out, err), (silence, second_err) = (process.communicate() for process in processes)
    assert [process.returncode for process in processes] == [0, 0], err + second_err
    assert out.count("epoch 2/2") == 1 and silence == ""  # one process prints and writes

    two = run_of(tmp_path / "two")
    for a, b in zip(one.rows(), two.rows(), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert float(b[key]) == pytest.approx(float(a[key]), rel=2e-4, nan_ok=True), key
    for key, tensor in one.checkpoint("final")["state_dict"].items():
        # Where a gradient is 0, Adam turns its rounding into a full step: allow that for one weight in ten thousand.
        apart = (two.checkpoint("final")["state_dict"][key] - tensor).abs() > 1e-4
        assert apart.double().mean() < 1e-4, key
    assert two.settings()["starts"][0]["processes"] == 2


@pytest.mark.slow
def test_two_processes_train_for_rate(start_pair, data_flags, tmp_path, run_of):
    """Their noise differs from that of one process. The second has no image in the last batch."""
    data = data_flags(train=5, val=3, test=1, side=16)
    flags = ["-m", "ours_hyperprior_s1", "--lmbda", "1", "-e", "2", "--save-dir", tmp_path / "runs"]
    processes = start_pair(*FLAGS, *data, *flags)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    run = run_of(tmp_path / "runs")
    assert all(float(row["val_bpppc"]) > 0 and float(row["train_aux_loss"]) > 0 for row in run.rows())
    assert run.settings()["finished"]["test"]["bpppc"] > 0


@pytest.mark.slow
def test_a_run_stopped_under_torchrun_resumes_with_one_process(
    start_warm, wait_for, data_flags, tmp_path, run_of, resume
):
    save_dir = tmp_path / "runs"
    torchrun = "from torch.distributed import run; run.main(sys.argv[1:])"
    flags = [*FLAGS, *data_flags(train=5, val=2, test=1), "-e", 10000, "--save-dir", save_dir]
    process = start_warm("--standalone", "--nproc-per-node", 2, "train.py", *flags, code=torchrun)
    wait_for(lambda: list(save_dir.glob("*/last.pth.tar")), process)
    os.kill(process.pid, signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode != 0 and out.count("resume with") == 1
    run = run_of(save_dir)
    epochs = run.checkpoint("last")["progress"]["epoch"] + 1
    resume(run, "-e", epochs)
    assert len(run.rows()) == epochs


def test_one_stopped_process_stops_all(start_pair, wait_for, data_flags, tmp_path):
    processes = start_pair(*FLAGS, *data_flags(train=2, val=2, test=1), "-e", 10000, "--save-dir", tmp_path / "runs")
    wait_for(lambda: list((tmp_path / "runs").glob("*/last.pth.tar")), processes[0])
    os.kill(processes[1].pid, signal.SIGTERM)
    assert [process.wait() for process in processes] == [128 + signal.SIGTERM] * 2


def test_batch_norm_on_several_cpus_is_refused(start_pair, data_flags, tmp_path):
    processes = start_pair(*FLAGS, "-m", "cae3d", *data_flags(), "--save-dir", tmp_path / "runs")
    for process, prefix in zip(processes, ("error: ", "error in process 1: "), strict=True):
        _, err = process.communicate()
        assert process.returncode == 2
        assert f"{prefix}cae3d has batch norm, which torch cannot synchronize on CPUs: train it with one process" in err
    assert not (tmp_path / "runs").exists()


def test_a_script_starts_its_own_processes(start_warm, wait_for, tmp_path):
    """As for `--devices 0,1`, which needs GPUs. Status and signal are passed on, and only the script prints."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, signal, sys, time\n"
        "rank, command = os.environ['RANK'], sys.argv[1]\n"
        "if command == 'wait':\n"
        "    signal.signal(signal.SIGTERM, lambda *_: (print('stopped', flush=True), sys.exit(128 + signal.SIGTERM)))\n"
        "    pathlib.Path(sys.argv[2], rank).touch()\n"
        "    time.sleep(60)\n"
        "print('rank', rank, 'of', os.environ['WORLD_SIZE'], 'at', os.environ['MASTER_ADDR'], flush=True)\n"
        "sys.exit(int(command))\n"
    )
    code = "from training.distributed import launch; sys.exit(launch(sys.argv[1], sys.argv[2:], ['cpu', 'cpu']))"
    waiting = start_warm(script, "wait", tmp_path, code=code)
    done, failed = (start_warm(script, status, code=code) for status in (0, 2))

    out, err = done.communicate()
    assert done.returncode == 0 and err == ""
    # Not at the name of this machine, which may have no address.
    assert sorted(out.splitlines()) == ["rank 0 of 2 at 127.0.0.1", "rank 1 of 2 at 127.0.0.1"]
    out, err = failed.communicate()
    assert failed.returncode == 2 and err == ""
    wait_for(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists(), waiting)
    os.kill(waiting.pid, signal.SIGTERM)
    out, err = waiting.communicate()
    assert waiting.returncode == 128 + signal.SIGTERM and "Traceback" not in err
    assert out.count("stopped") == 2  # lines of two processes may mix


def test_devices_are_parsed_or_refused():
    assert parse_devices("cpu") == ["cpu"]
    assert parse_devices("0") == ["0"]
    assert parse_devices("0,2,5,7") == ["0", "2", "5", "7"]
    for wrong in ("", "cuda", "cpu,0", "0,", "1,1", "-1", "0;1"):
        with pytest.raises(UsageError, match="--devices"):
            parse_devices(wrong)


def test_a_device_must_exist(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert get_device("cpu", "--device") == torch.device("cpu")
    assert get_device("1", "--device") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="--device 2: this machine has GPUs 0 to 1"):
        get_device("2", "--device")
    for wrong in ("cuda", "cuda:0", "0,1", "-1", ""):
        with pytest.raises(UsageError, match="give cpu or the number of a GPU"):
            get_device(wrong, "--device")


def test_batch_sizes_are_totals():
    check_share(8, 4, "--train-batch-size")
    for total, advice in ((2, 4), (9, 8), (11, 12)):
        with pytest.raises(
            UsageError, match=f"size {total} is the total over all devices.*divisible by 4: use {advice}"
        ):
            check_share(total, 4, "--train-batch-size")


def test_batch_sizes_are_checked_before_processes_are_started(scripts, monkeypatch):
    started = []
    monkeypatch.setattr("training.run.launch", lambda *args: started.append(args) or 3)
    with pytest.raises(UsageError, match="--train-batch-size 3 is the total over all devices"):
        scripts.train.main(["--devices", "0,1", "--train-batch-size", "3"])
    with pytest.raises(UsageError, match="--val-batch-size 5 is the total over all devices"):
        scripts.train.main(["--devices", "0,1", "--val-batch-size", "5"])
    assert not started
    argv = ["--devices", "0,1"]
    assert scripts.train.main(argv) == 3
    assert started == [(scripts.train.__file__, argv, ["0", "1"])]


# The environments of launchers

MASTER = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
MPIEXEC = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
RANKS = {"RANK": "5", "WORLD_SIZE": "8"}


@pytest.fixture
def environment(monkeypatch):
    """environment(**variables): set them, and remove all others of launchers."""
    names = (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_",
        "MASTER_",
        "SLURM_",
        "OMPI_",
        "PMI_",
        "MPI_",
        "TORCHELASTIC",
        "ENVIRONMENT",
    )

    def prepare(**variables):
        for name in [name for name in os.environ if name.startswith(names)]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.stdin", io.StringIO())  # no terminal

    return prepare


@pytest.mark.parametrize(
    ("variables", "local_world_size"),
    [
        ({**RANKS, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}, 4),
        ({**RANKS, "LOCAL_RANK": "1"}, None),
        (SRUN, 4),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4,2"}, None),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, None),
        ({**SRUN, "WORLD_SIZE": "8"}, 4),  # as batch scripts export it
        ({**SRUN, **RANKS}, 4),
        (MPIRUN, 4),
        (MPIEXEC, 4),
    ],
)
def test_a_process_finds_its_place(environment, variables, local_world_size):
    environment(**variables, **MASTER)
    place = find_place(4)
    assert (place.rank, place.world_size, place.local_rank, place.local_world_size) == (5, 8, 1, local_world_size)
    assert (place.address, place.port, place.is_torchrun) == ("10.0.0.1", 29500, "TORCHELASTIC_RUN_ID" in variables)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", **MASTER},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},  # srun -n 1 in a larger job
        {"SLURM_NTASKS": "8"},  # salloc
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "ENVIRONMENT": "BATCH"},  # sbatch without srun
        {**SRUN, "SLURM_STEP_ID": "4294967290", "PMI_RANK": "0", "PMI_SIZE": "8"},  # a shell of salloc
    ],
)
def test_a_single_process_is_alone(environment, variables):
    environment(**variables)
    assert find_place(1) is None


def test_a_shell_of_srun_is_alone(environment, monkeypatch):
    environment(**SRUN)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert find_place(1) is None


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({**RANKS, **MASTER}, "LOCAL_RANK"),
        ({**RANKS, **MASTER, "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"}, "LOCAL_RANK"),  # differ
        ({"LOCAL_RANK": "0", **MASTER}, "RANK, WORLD_SIZE"),
        ({"WORLD_SIZE": "2", **MASTER}, "RANK, LOCAL_RANK"),
        ({**RANKS, "LOCAL_RANK": "1"}, "MASTER_ADDR, MASTER_PORT"),
        ({**SRUN, "SLURM_JOB_ID": "7", "SLURM_STEP_NUM_NODES": "2"}, "MASTER_ADDR, MASTER_PORT"),
        ({**SRUN, "MASTER_ADDR": "10.0.0.1"}, "MASTER_PORT"),
    ],
)
def test_one_of_several_that_does_not_know_its_place_is_refused(environment, variables, missing):
    environment(**variables)
    with pytest.raises(UsageError, match=rf"but not {missing}: start .* torchrun --nnodes NODES --nproc-per-node 4 "):
        find_place(4)


def test_wrong_numbers_of_a_launcher_are_refused(environment):
    environment(RANK="8", WORLD_SIZE="8", LOCAL_RANK="0", **MASTER)
    with pytest.raises(UsageError, match="RANK is out of range"):
        find_place(4)
    environment(RANK="x", WORLD_SIZE="8", LOCAL_RANK="0", **MASTER)
    with pytest.raises(UsageError, match="RANK must be a number, got 'x'"):
        find_place(4)


def test_processes_and_devices_must_agree(environment, monkeypatch):
    environment(RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="2", TORCHELASTIC_RUN_ID="x", **MASTER)
    with pytest.raises(UsageError, match=r"torchrun started 2 processes on this node for --devices 0: .*per-node 1"):
        join(["0"])
    environment(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", **MASTER)
    with pytest.raises(UsageError, match=r"the launcher started 2 processes on this node for --devices 0: give as"):
        join(["0"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # of srun --gpus-per-task 1
    monkeypatch.setattr(distributed, "use_device", lambda name, _flag: torch.device("cuda", int(name)))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    assert join(["0"]).device == torch.device("cuda", 0)


def test_processes_that_do_not_meet_say_so_in_one_line(environment, monkeypatch, capsys):
    def wait(_backend):
        time.sleep(0.1)
        raise RuntimeError("timed out\nwith details")

    monkeypatch.setattr(torch.distributed, "init_process_group", wait)
    monkeypatch.setattr(distributed, "NOTE_SECONDS", 0.01)
    environment(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", **MASTER)
    waits = "process 1 of 2 waits for the others at 10.0.0.1:29500"
    with pytest.raises(ProjectError, match=f"^{waits}, but they do not meet: timed out with details; check MASTER"):
        join(["cpu"])
    assert capsys.readouterr().err == waits + "\n"


def test_tasks_of_srun_on_one_node_train_one_run(start_warm, data_flags, tmp_path, run_of):
    with socket.socket() as probe:  # the port follows from the numbers of job and step
        ports = range(20_003 + os.getpid() % 9_000, 30_000)
        port = next(port for port in ports if probe.connect_ex(("127.0.0.1", port)))
    job = {"SLURM_JOB_ID": str(port - 20_003), "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_NODES": "1"}
    flags = [*FLAGS, *data_flags(train=2, val=2, test=1), "-e", 1, "--save-dir", tmp_path / "runs"]
    tasks = [
        start_warm(*flags, **job, SLURM_PROCID=rank, SLURM_LOCALID=rank, SLURM_STEP_NUM_TASKS="2") for rank in "01"
    ]
    (out, err), (silence, second_err) = (task.communicate() for task in tasks)
    assert [task.returncode for task in tasks] == [0, 0], err + second_err
    assert "epoch 1/1" in out and silence == ""
    assert run_of(tmp_path / "runs").settings()["starts"][0]["processes"] == 2
