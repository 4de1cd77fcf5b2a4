"""Measure this project against plain implementations of the same, and against what the machine allows.

a first look, three minutes     python benchmark.py speed --quick
all default models, long        python benchmark.py speed
a GPU, several precisions       python benchmark.py speed --devices 0 --precision fp32 bf16 fp16
one model, nothing else         python benchmark.py speed --models sscnet --only models
a narrow model on a small image python benchmark.py speed --models cae1d cae1d_1bpppc@32
trainings over wall time        python benchmark.py curves results/trains/RUN results/trains/OTHER
scenes by a learned codec       python benchmark.py coding SCENE.TIF --checkpoint results/trains/RUN/final.pth.tar

Results of `speed` go to SAVE_DIR/<name>/speed.json and, as tables, speed.md, after every line that is finished,
those of `curves` to curves.csv and curves.png, those of `coding` to coding.json and coding.md.
`python benchmark.py COMMAND --help` explains the flags.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from models import aliases, models, names_for_help
from utils.errors import DatasetError, ProjectError, UsageError, run_script
from utils.options import HelpFormatter, positive_int

# torch and what needs it are imported where they are used: --help must not wait for them.

SPEED = """Time and memory beside the models' textbook form, and beside the machine's limits.

Parts (--only):
models    encoding, decoding, both (one image of SIDE x SIDE, no gradients) and a step of training (a batch of
          two, at most 64 x 64, with --quick half of SIDE: squared error, gradients, clipping, Adam). The baseline
          is models/textbook.py: float32, the whole batch at once, the same weights. Both run in turn; medians
          count. On GPUs float32 means TF32 in training, for both, as in train.py, and full float32 elsewhere,
          as in test.py. The deviation is the largest absolute one of the output, in training that of the
          gradient as a whole, relative. Where even float64 and float32 differ, as in the gradients of cae3d
          (3e-3), so may we.
data      preprocessing beside reading and decoding the same TIFs; loading patches beside reading the files
scripts   how long --help takes, beside importing torch
scaling   train.py on patches of 64 x 64 by one process of one thread, and by two that share each batch of four
          through DistributedDataParallel (gloo): images/s of an epoch after the first. An efficiency of 1 is
          twice the images/s.

Limit: FLOPs of our form over the rate of a large matrix product, or the bytes that must move at least over the
rate of a large copy, whichever takes longer; both rates are measured in the same run and precision. These bytes
are input, output and weights once; in training the batch once, weights and both moments of Adam read and
written. Convolutions can beat the matrix product, so a share above 100 % is possible.
"""
PARTS = ("models", "data", "scripts", "scaling")
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
WORKS = ("encode", "decode", "encode+decode", "train")
DEFAULTS = {
    "models": ["cae1d", "cae1d_1bpppc", "cae1d_2bpppc", "cae1d_4bpppc", "sscnet", "cae3d"],
    "size": 128,
    "repeats": 5,
    "only": list(PARTS),
}
QUICK = {
    "models": ["cae1d", "sscnet", "cae3d", "cae1d_1bpppc@16"],
    "size": 64,
    "repeats": 2,
    "only": [part for part in PARTS if part != "scaling"],
}

BANDS = 202
TRAIN_BATCH, TRAIN_SIDE = 2, 64
MIN_SIDE = 8  # of images, also of those by which a fresh process warms up
SLOW, SLOW_REPEATS = 20.0, 2  # a pass of that many seconds is repeated so often only
SPREAD = 1.5  # between the slowest and the fastest of equal calls: more is worth a note
SEED = 0
PATCH_SIDE = 128  # of generated patches for the loader
LOADER_BATCH = 2  # train.py's default
SCALING_MODELS, SCALING_BATCH, SCALING_SIDE = ("cae1d", "sscnet"), 4, 64


def build_parser(quick: bool = False) -> argparse.ArgumentParser:
    """The parser; `quick` gives it the defaults of --quick."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_speed(commands, QUICK if quick else DEFAULTS)
    add_curves(commands)
    add_coding(commands)
    return parser


def add_speed(commands, defaults: Mapping) -> None:
    speed = commands.add_parser(
        "speed",
        help="time and memory beside the textbook models and the machine's limits",
        description=SPEED,
        formatter_class=HelpFormatter,
        epilog=names_for_help(),
    )
    add = speed.add_argument
    add(
        "--models",
        nargs="+",
        default=defaults["models"],
        metavar="MODEL",
        help="names from the list below, with spaces or commas between; MODEL@SIDE for images of another size",
    )
    add("--devices", nargs="+", default=["cpu"], help="cpu, numbers of GPUs, or both, such as cpu,0")
    add(
        "--precision",
        nargs="+",
        default=["fp32"],
        help="of our form, under autocast: fp32, bf16, fp16 (GPUs), or several",
    )
    add("--size", type=positive_int, default=defaults["size"], help="height and width of the images in pixels")
    add(
        "--works",
        nargs="+",
        default=list(WORKS),
        metavar="WORK",
        help="of models: encode, decode, encode+decode, train",
    )
    add("--quick", action="store_true", help="small images, few repetitions, four models, no scaling")
    add("--repeats", type=positive_int, default=defaults["repeats"], help="timed calls; 2 at most if one takes 20 s")
    add(
        "--only",
        nargs="+",
        default=defaults["only"],
        metavar="PART",
        help="parts to run: models, data, scripts, scaling",
    )
    add("-d", "--dataset", default="./datasets/sample/", help="folder with TIFs to measure preprocessing on")
    add_report(add)


def add_curves(commands) -> None:
    curves = commands.add_parser(
        "curves",
        help="validation PSNR of several runs of train.py over the seconds that they trained",
        description="Validation PSNR of several runs of train.py over the seconds of their training steps.",
        formatter_class=HelpFormatter,
    )
    curves.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, such as results/trains/RUN")
    add_report(curves.add_argument)


def add_coding(commands) -> None:
    coding = commands.add_parser(
        "coding",
        help="rates and errors of a learned codec on scenes, beside lossless ones",
        description="Scenes of integers by a learned codec: its latents as float32, quantised, and with bounds on the "
        "error, beside JPEG-LS and JPEG XL without loss. Of EnMAP's 224 bands the 202 that HySpecNet-11k keeps.",
        formatter_class=HelpFormatter,
        epilog=names_for_help(),
    )
    add = coding.add_argument
    add("scenes", nargs="+", metavar="SCENE", help=".tif or .npy of int16 or uint16")
    add("-m", "--model", default="cae1d", choices=[*models, *aliases], metavar="MODEL", help="see the list below")
    add("--checkpoint", default=None, help="weights of the model; without, those of the bundled sample")
    add("--num-channels", type=positive_int, default=202, help="bands that the model was made for")
    add_report(add)


def add_report(add: Callable) -> None:
    add("--name", default=None, help="folder for the report; date and time, of `speed` the device too, if not given")
    add("--save-dir", default="./results/benchmarks/", help="folder for the reports' folders")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, with lists taken apart.

    Raises:
        UsageError: a name that is none of the possible ones.
    """
    args = build_parser().parse_args(argv)
    if args.command != "speed":
        return args
    if args.quick:
        args = build_parser(quick=True).parse_args(argv)
    args.models = words(args.models)
    args.devices = words(args.devices)
    args.precision = words(args.precision)
    args.only = words(args.only)
    args.works = words(args.works)
    check_words("--models", [name.partition("@")[0] for name in args.models], [*models, *aliases])
    check_words("--precision", args.precision, PRECISIONS)
    check_words("--only", args.only, PARTS)
    check_words("--works", args.works, WORKS)
    for name in args.models:
        if not re.fullmatch(r"\w+(@[1-9]\d*)?", name):
            raise UsageError(f"--models {name}: give MODEL or MODEL@SIDE, such as cae1d@32")
    return args


def words(items: Sequence[str]) -> list[str]:
    """`["a,b", "c"]` -> `["a", "b", "c"]`, each once."""
    return list(dict.fromkeys(word for item in items for word in item.split(",") if word))


def check_words(flag: str, given: Sequence[str], possible: Sequence[str]) -> None:
    if not given:
        raise UsageError(f"{flag}: nothing given")
    for word in given:
        if word not in possible:
            raise UsageError(f"{flag} {word}: give some of {', '.join(possible)}")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return {"speed": run_speed, "curves": write_curves, "coding": run_coding}[args.command](args)


def run_speed(args: argparse.Namespace) -> int:
    import torch

    from utils.distributed import get_device
    from utils.environment import device_name, git_commit, versions

    devices = {name: get_device(name, "--devices") for name in args.devices}
    tasks = [model_and_side(name, args.size) for name in args.models] if "models" in args.only else []
    name = args.name or f"{datetime.now():%Y_%m_%d-%H_%M_%S}-{slug(device_name(devices[args.devices[0]]))}"
    report = Report(
        Path(args.save_dir) / name,
        {
            "name": name,
            "settings": {
                "devices": {name: device_name(device) for name, device in devices.items()},
                "cores": torch.get_num_threads(),
                "dataset": Path(args.dataset).resolve().name,
                "seed": SEED,
                "arguments": {key: value for key, value in vars(args).items() if key not in ("dataset", "save_dir")},
                "versions": versions(),
                "git_commit": git_commit(),
            },
            "left_out": [],
            "limits": [],
            "models": [],
            "preprocessing": [],
            "loading": [],
            "scripts": [],
            "scaling": [],
        },
    )
    if tasks:
        measure_models(report, tasks, devices, args)
    if "data" in args.only:
        measure_preprocessing(report, Path(args.dataset), args.quick)
        measure_loading(report, args.quick, args.repeats)
    if "scripts" in args.only:
        measure_scripts(report, args.repeats)
    if "scaling" in args.only:
        measure_scaling(report, args.quick)
    report.write()
    print(f"\n{report.tables()}\nwritten: {report.folder / 'speed.json'}, {report.folder / 'speed.md'}")
    return 0


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def model_and_side(name: str, size: int) -> tuple[str, int]:
    """The registry's name and the image side of `MODEL` or `MODEL@SIDE`.

    Raises:
        UsageError: the model cannot take such images, or they are too small to measure with.
    """
    import torch

    name, _, own = name.partition("@")
    name, side = aliases.get(name, name), int(own or size)
    if side < MIN_SIDE:
        raise UsageError(f"--size {side}: at least {MIN_SIDE}")
    try:
        models[name]().check_size(torch.empty(1, BANDS, side, side, device="meta"))
    except ValueError as error:
        raise UsageError(f"--size {side}: {error}") from None
    return name, side


# -- models ---------------------------------------------------------------------------------------


@dataclass
class Contender:
    """A network that is measured.

    Attributes:
        net: with `encode` and `decode`, on its device, weights in float32.
        precision: of autocast.
        is_ours: whether it trains as train.py does; the textbook form trains as torch's tutorials do.
    """

    net: object
    precision: str
    is_ours: bool

    def work(self, name: str, x, y) -> Callable:
        """A function without arguments that does the work on images `x` or latent `y`."""
        import torch

        from utils.precision import autocast

        if name == "train":
            return self.training_step(x)
        calls = {
            "encode": lambda: self.net.encode(x),
            "decode": lambda: self.net.decode(y),
            "encode+decode": lambda: self.net.decode(self.net.encode(x)),
        }

        def call():
            # The shadow of the textbook form that counts FLOPs is on a device that knows no autocast.
            with torch.no_grad(), nullcontext() if self.precision == "fp32" else autocast(self.precision, x.device):
                return calls[name]()

        return call

    def gradients(self, x, scaler=None) -> None:
        """Gradients of the mean squared error on batch `x` into the parameters, scaled by `scaler` if given."""
        import torch
        import torch.nn.functional as F

        from utils.losses import losses
        from utils.steps import loss_and_gradients

        for parameter in self.net.parameters():
            parameter.grad = None
        if self.is_ours:
            scaler = scaler or torch.amp.GradScaler(x.device.type, enabled=False)
            loss_and_gradients(self.net, self.net, losses["mse"](), x, 1.0, scaler, self.precision)
        else:
            F.mse_loss(self.net(x), x).backward()

    def training_step(self, x) -> Callable:
        import torch
        from torch.nn.utils import clip_grad_norm_

        parameters = list(self.net.parameters())
        optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True if self.is_ours else None)
        scaler = torch.amp.GradScaler(x.device.type, enabled=self.precision == "fp16")

        def step():
            self.gradients(x, scaler)
            scaler.unscale_(optimizer)
            clip_grad_norm_(parameters, 1.0)
            scaler.step(optimizer)
            scaler.update()

        return step

    def flat_gradient(self):
        import torch

        return torch.cat([parameter.grad.double().flatten() for parameter in self.net.parameters()])


def contenders(name: str, work: str, device, precision: str) -> tuple[Contender, Contender]:
    """The textbook form of a model in float32 and ours in `precision`, both with the weights of seed 0."""
    import torch

    from models.textbook import textbook
    from utils.environment import configure_backends

    # As test.py and train.py do.
    configure_backends(deterministic=False, tf32=work == "train")
    torch.manual_seed(SEED)
    model = models[name](src_channels=BANDS).train(work == "train").to(device)
    return Contender(textbook(model, name), "fp32", False), Contender(model, precision, True)


def inputs(model, work: str, side: int, device) -> tuple:
    """Batch (N, 202, side, side) and, but for training, a latent (1, L, ...) of the size that belongs to it."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    x = torch.rand(TRAIN_BATCH if work == "train" else 1, BANDS, side, side, generator=generator).to(device)
    stride = model.size_multiple
    y = torch.rand(1, *model.latent_shape, side // stride, side // stride, generator=generator).to(device)
    return x, y


def peak_in_this_process(name: str, work: str, side: int, device: str, precision: str, ours: bool) -> int | None:
    """Bytes that the memory grows by; meant for a process of its own where `device` is the CPU."""
    import torch

    from utils.speed import peak_growth

    device = torch.device(device)
    pair = contenders(name, work, device, precision)
    model, contender = pair[1].net, pair[ours]
    x, y = inputs(model, work, side, device)
    del pair
    small = MIN_SIDE // model.size_multiple
    if device.type == "cpu":  # what libraries allocate once
        contender.work(work, x[..., :MIN_SIDE, :MIN_SIDE].contiguous(), y[..., :small, :small].contiguous())()
    call = contender.work(work, x, y)
    if work == "train":
        call()  # Adam makes its moments in its first step
    return peak_growth(call, device)


def peak(name: str, work: str, side: int, device, precision: str, ours: bool) -> int | None:
    """Bytes that the memory grows by.

    Raises:
        OutOfMemory: there is not that much.
    """
    from utils.speed import OutOfMemory, in_fresh_process, is_out_of_memory

    arguments = (name, work, side, str(device), precision, ours)
    if device.type == "cpu":
        # torch_geometric, which CompressAI imports, uses what torch has deprecated.
        os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
        preload = ("torch", "compressai.models")
        return in_fresh_process("benchmark:peak_in_this_process", *arguments, preload=preload)
    try:
        return peak_in_this_process(*arguments)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemory(str(error)) from None
        raise


def reason_to_leave_out(device, precision: str) -> str | None:
    """Why a precision is not measured on a device, or None."""
    from utils.precision import has_native_bf16

    if device.type == "cuda" or precision == "fp32":
        return None
    if precision == "fp16":
        return "fp16 is for GPUs"
    return None if has_native_bf16() else "this processor has no bf16 arithmetic: emulated, it would run for hours"


def measure_models(report: Report, tasks: Sequence, devices: Mapping, args: argparse.Namespace) -> None:
    import torch

    from utils.environment import configure_backends
    from utils.speed import copy_rate, matmul_rate

    combinations = []
    for device_number, device in devices.items():
        for precision in args.precision:
            reason = reason_to_leave_out(device, precision)
            if reason:
                report.leave_out(f"{precision} on {device_number}: {reason}")
                continue
            report.say(f"limits of {device_number} in {precision}")
            rates = {}
            for tf32 in (False, True):  # which is for training, and means nothing on a CPU
                configure_backends(deterministic=False, tf32=tf32)
                rates[tf32] = matmul_rate(device, getattr(torch, PRECISIONS[precision]))
            limits = {
                "device": device_number,
                "precision": precision,
                "flops_per_second": rates[False],
                "training_flops_per_second": rates[True],
                "bytes_per_second": copy_rate(device),
            }
            report.add("limits", limits)
            combinations.append((device, limits))
    for name, image_side in tasks:
        for device, limits in combinations:
            for work in args.works:
                side = image_side
                if work == "train":
                    side = min(TRAIN_SIDE, max(MIN_SIDE, side // 2) if args.quick else side)
                report.say(f"{name}, {side} px, {work}, {limits['device']}, {limits['precision']}")
                report.add("models", measure_work(name, side, work, device, limits, args.repeats))


def measure_work(name: str, side: int, work: str, device, limits: Mapping, repeats: int) -> dict:
    """One row: see the keys below. Seconds, FLOPs and limits are of one image, bytes of memory of the batch."""
    import torch

    from utils.evaluation import timed
    from utils.speed import OutOfMemory, count_flops, interleaved, least_seconds

    precision = limits["precision"]
    note = None
    wanted = side
    while True:  # memory first: what does not fit must not end the run
        try:
            peaks = [peak(name, work, side, device, precision, ours) for ours in (False, True)]
            break
        except OutOfMemory:
            side //= 2
            note = f"{wanted} px needs more memory than there is"
            if side < MIN_SIDE:
                return {"model": name, "work": work, "device": limits["device"], "precision": precision, "note": note}

    baseline, ours = contenders(name, work, device, precision)
    x, y = inputs(ours.net, work, side, device)
    num_images = len(x)
    baseline_flops = textbook_flops(baseline, work, x, y)
    if work == "train":
        calls = [lambda: baseline.gradients(x), lambda: ours.gradients(x)]
    else:
        calls = [contender.work(work, x, y) for contender in (baseline, ours)]
    # These calls warm up, too.
    expected, slowest = timed(calls[0], device)
    got, flops = count_flops(calls[1])
    if work == "train":
        expected, got = baseline.flat_gradient(), ours.flat_gradient()
        deviation = float((got - expected).norm() / expected.norm())
        calls = [contender.work(work, x, y) for contender in (baseline, ours)]
        slowest = max(timed(call, device)[1] for call in calls)
    else:
        deviation = float((got.float() - expected).abs().max())
    del expected, got
    repeats = min(repeats, SLOW_REPEATS) if slowest > SLOW else repeats
    all_baseline, all_ours = (
        [seconds / num_images for seconds in times] for times in interleaved(calls, repeats, device)
    )
    baseline_seconds, seconds = statistics.median(all_baseline), statistics.median(all_ours)
    spread = max(max(times) / min(times) for times in (all_baseline, all_ours))
    if spread > SPREAD:
        busy = f"equal calls differ by a factor of {spread:.1f} in time, was the machine busy?"
        note = f"{note}; {busy}" if note else busy
    num_bytes = compulsory_bytes(ours.net, work, x, y, getattr(torch, PRECISIONS[precision]).itemsize)
    flops_per_second = limits["training_flops_per_second" if work == "train" else "flops_per_second"]
    limit_seconds, limited_by = least_seconds(
        flops / num_images, num_bytes / num_images, flops_per_second, limits["bytes_per_second"]
    )
    return {
        "model": name,
        "work": work,
        "device": limits["device"],
        "precision": precision,
        "side": side,
        "batch": num_images,
        "repeats": repeats,
        "baseline_seconds": baseline_seconds,
        "seconds": seconds,
        "speedup": baseline_seconds / seconds,
        "images_per_second": 1 / seconds,
        "megabytes_per_second": 4 * x[0].numel() / 1e6 / seconds,
        "deviation": deviation,
        "baseline_peak_bytes": peaks[0],
        "peak_bytes": peaks[1],
        "peak_ratio": peaks[1] / peaks[0] if peaks[0] and peaks[1] is not None else None,
        "baseline_flops": baseline_flops / num_images,
        "flops": flops / num_images,
        "limit_seconds": limit_seconds,
        "limited_by": limited_by,
        "limit_share": limit_seconds / seconds,
        "all_baseline_seconds": all_baseline,
        "all_seconds": all_ours,
        "note": note,
    }


def textbook_flops(baseline: Contender, work: str, x, y) -> int:
    """FLOPs of the baseline, found without computing: torch only follows the shapes."""
    import copy

    from utils.speed import count_flops

    shadow = Contender(copy.deepcopy(baseline.net).to("meta"), "fp32", False)
    x, y = x.to("meta"), y.to("meta")
    return count_flops((lambda: shadow.gradients(x)) if work == "train" else shadow.work(work, x, y))[1]


def compulsory_bytes(model, work: str, x, y, itemsize: int) -> int:
    """Bytes that must be read or written at least, as the description of `speed` counts them.

    Inputs, weights and moments are float32 in every precision; outputs have values of `itemsize` bytes.
    """

    def num_parameters(module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    if work == "train":
        return 4 * x.numel() + 4 * 2 * 3 * num_parameters(model)
    if work == "encode":
        return 4 * (x.numel() + num_parameters(model.encoder)) + itemsize * y.numel()
    if work == "decode":
        return 4 * (y.numel() + num_parameters(model.decoder)) + itemsize * x.numel()
    return 4 * (x.numel() + num_parameters(model)) + itemsize * x.numel()


# -- data and scripts -----------------------------------------------------------------------------


def measure_preprocessing(report: Report, root: Path, quick: bool) -> None:
    """Patches/s of datasets.preprocess, with one process and with all cores, beside reading the TIFs alone.

    Counted from when there are as many finished as there are processes: how long these take to start does
    not matter for 11,483 patches.
    """
    import functools
    import shutil

    import datasets.preprocess as preprocess
    from datasets.pool import run_in_processes
    from utils.speed import num_cores, read_raster

    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; -d names one with TIFs")
    sources = [job.tif_path for job in preprocess.find_jobs(root)]
    with tempfile.TemporaryDirectory(dir=report.folder, prefix=".tifs-") as folder:
        for workers in sorted({1, num_cores()}):
            report.say(f"preprocessing, processes: {workers}")
            num_copies = max(4 if quick else 8, 3 * workers)
            jobs = []
            for index in range(num_copies):
                path = Path(folder) / f"{workers}-{index:03}-SPECTRAL_IMAGE.TIF"
                shutil.copyfile(sources[index % len(sources)], path)
                jobs.append(preprocess.Job(path, preprocess.npy_path_of(path)))
            read_rate = steady_rate(run_in_processes(read_raster, [job.tif_path for job in jobs], workers), workers)
            made = run_in_processes(functools.partial(preprocess.process, dtype="float32"), jobs, workers)
            rate = steady_rate(made, workers)
            report.add(
                "preprocessing",
                {
                    "processes": workers,
                    "patches": num_copies,
                    "patches_per_second": rate,
                    "reading_patches_per_second": read_rate,
                    "share_of_reading": rate / read_rate,
                },
            )


def steady_rate(results: Iterator, skipped: int) -> float:
    """Results per second, from when `skipped` of them are there.

    Raises:
        DatasetError: a result that says it is an error.
    """
    import time

    times = []
    for result in results:
        times.append(time.perf_counter())
        if getattr(result, "error", None):
            raise DatasetError(result.error)
    return (len(times) - skipped) / (times[-1] - times[skipped - 1])


def measure_loading(report: Report, quick: bool, repeats: int) -> None:
    """Patches/s through HySpecNet11k and DataLoader beside reading the same files, from the disk and from memory.

    The disk is the one of the reports' folder. Workers are running before the clock does.
    """
    from torch.utils.data import DataLoader

    from datasets import HySpecNet11k
    from datasets.transforms import get_transform
    from utils.speed import drop_from_cache, interleaved, read_files

    num_patches = 24 if quick else 64
    for dtype in ("float32", "uint16"):
        with tempfile.TemporaryDirectory(dir=report.folder, prefix=".patches-") as folder:
            paths = make_patches(Path(folder), num_patches, dtype)
            for transform in ("none", "random_16x16"):
                dataset = HySpecNet11k(folder, transform=get_transform(transform))
                for workers in (0, 2):
                    report.say(f"loading {dtype}, transform {transform}, workers: {workers}")
                    loader = DataLoader(dataset, LOADER_BATCH, num_workers=workers, persistent_workers=workers > 0)

                    def load(loader=loader):
                        for _ in loader:
                            pass

                    load()
                    for cache in ("cold", "warm"):
                        before = (lambda paths=paths: drop_from_cache(paths)) if cache == "cold" else None
                        if cache == "warm":
                            read_files(paths)
                        times = interleaved([lambda paths=paths: read_files(paths), load], repeats, before=before)
                        reading, loading = map(statistics.median, times)
                        report.add(
                            "loading",
                            {
                                "dtype": dtype,
                                "transform": transform,
                                "workers": workers,
                                "cache": cache,
                                "patches": num_patches,
                                "patches_per_second": num_patches / loading,
                                "reading_patches_per_second": num_patches / reading,
                                "share_of_reading": reading / loading,
                            },
                        )


def make_patches(root: Path, count: int, dtype: str, side: int | None = None) -> list[Path]:
    """A data set of `count` equal patches of noise (202, side, side), written through to the disk.

    All of them are to train on, the first is also to validate on.
    """
    import numpy as np

    from datasets.cubes import to_reflectance

    side = side or PATCH_SIDE
    cube = np.random.default_rng(SEED).integers(0, 10001, (BANDS, side, side), dtype=np.uint16)
    if dtype == "float32":
        cube = to_reflectance(cube)
    (root / "patches").mkdir()
    (root / "splits" / "easy").mkdir(parents=True)
    names = [f"{index:03}-DATA.npy" for index in range(count)]
    for name in names:
        with open(root / "patches" / name, "wb") as file:
            np.save(file, cube)
            file.flush()
            os.fsync(file.fileno())
    (root / "splits" / "easy" / "train.csv").write_text("\n".join(names))
    (root / "splits" / "easy" / "val.csv").write_text(names[0])
    return [root / "patches" / name for name in names]


def measure_scripts(report: Report, repeats: int) -> None:
    """Seconds from start to end of each script's --help, beside importing torch."""
    import subprocess

    from utils.speed import interleaved

    commands = {
        "python": ["-c", "pass"],
        "import torch": ["-c", "import torch"],
        **{f"{script} --help": [script, "--help"] for script in ("train.py", "test.py", "benchmark.py")},
    }

    def start(arguments: Sequence[str]) -> None:
        root = Path(__file__).resolve().parent
        subprocess.run([sys.executable, *arguments], cwd=root, stdout=subprocess.DEVNULL, check=True)

    report.say("starting scripts")
    calls = [lambda arguments=arguments: start(arguments) for arguments in commands.values()]
    for call in calls:
        call()
    for name, times in zip(commands, interleaved(calls, repeats), strict=True):
        report.add("scripts", {"command": name, "seconds": statistics.median(times), "all_seconds": times})


def measure_scaling(report: Report, quick: bool) -> None:
    """Images/s of train.py with one process and with two, a thread each."""
    num_patches, epochs = (8, 2) if quick else (32, 4)
    with tempfile.TemporaryDirectory(dir=report.folder, prefix=".scaling-") as folder:
        make_patches(Path(folder), num_patches, "uint16", SCALING_SIDE)
        for model in SCALING_MODELS:
            rates = {}
            for processes in (1, 2):
                report.say(f"training {model}, processes: {processes}")
                flags = ["-m", model, "-d", folder, "-e", str(epochs), "-n", "1"]
                rates[processes] = training_rate(Path(folder) / f"{model}-{processes}", processes, flags)
            report.add(
                "scaling",
                {
                    "model": model,
                    "patches": num_patches,
                    "images_per_second": rates[1],
                    "images_per_second_of_two": rates[2],
                    "share_of_twice": rates[2] / (2 * rates[1]),
                },
            )


def training_rate(save_dir: Path, processes: int, flags: Sequence[str]) -> float:
    """Images/s of train.py on CPUs, the median of its epochs but the first.

    Raises:
        ProjectError: it failed.
    """
    import csv
    import subprocess

    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = [Path(__file__).with_name("train.py"), "--devices", "cpu", "--save-dir", save_dir]
    done = subprocess.run(
        [sys.executable, *launcher, *script, "--train-batch-size", str(SCALING_BATCH), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ProjectError(f"train.py failed: {(done.stderr.strip() or 'without a word').splitlines()[-1]}")
    (metrics,) = save_dir.glob("*/metrics.csv")
    with open(metrics, newline="") as file:
        rates = [float(row["train_images_per_second"]) for row in csv.DictReader(file)]
    return statistics.median(rates[1:])


# -- curves ---------------------------------------------------------------------------------------


def write_curves(args: argparse.Namespace) -> int:
    """The table and the figure of `curves`."""
    import csv

    from utils.files import atomic_write
    from utils.plots import curves_figure
    from utils.results import write_csv
    from utils.runs import read_settings

    rows, labels = [], set()
    for run in map(Path, args.runs):
        starts = read_settings(run).get("starts")
        if not starts or not (run / "metrics.csv").is_file():
            raise UsageError(f"{run}: no folder of a run of train.py (settings.json and metrics.csv are in one)")
        arguments = starts[-1]["arguments"]
        label = f"{arguments['model']}, {arguments['transform']}"
        label += f", {run.resolve().name}" if label in labels else ""
        labels.add(label)
        with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
            rows += [
                {"run": label, **{key: float(row[key]) for key in ("epoch", "seconds", "val_psnr")}}
                for row in csv.DictReader(file)
            ]
    curves: dict[str, list] = {}
    for row in rows:
        curves.setdefault(row["run"], []).append((row["seconds"], row["val_psnr"]))
    folder = Path(args.save_dir) / (args.name or f"{datetime.now():%Y_%m_%d-%H_%M_%S}")
    write_csv(folder / "curves.csv", rows)
    with atomic_write(folder / "curves.png") as file:
        figure = curves_figure(curves, "seconds of training", "PSNR of the validation split (dB)")
        figure.savefig(file, dpi=100, format="png")
    print(f"written: {folder / 'curves.csv'}, {folder / 'curves.png'}")
    return 0


# -- coding ---------------------------------------------------------------------------------------


def run_coding(args: argparse.Namespace) -> int:
    """The tables of `coding`, a scene after the other."""
    from dataclasses import asdict

    import torch

    from coding.comparison import compare
    from coding.network import load_network
    from datasets.enmap import KEPT_INDICES, NUM_BANDS, NUM_CHANNELS, SCALE
    from utils.environment import device_name, git_commit, versions
    from utils.files import atomic_write
    from utils.results import write_json
    from utils.scenes import open_scene
    from utils.speed import markdown_table, num_cores

    torch.set_num_threads(num_cores())
    name = aliases.get(args.model, args.model)
    network = load_network(name, args.checkpoint, args.num_channels, "cpu")
    folder = Path(args.save_dir) / (args.name or f"{datetime.now():%Y_%m_%d-%H_%M_%S}")
    content = {
        "name": folder.name,
        "settings": {
            "device": device_name(torch.device("cpu")),
            "model": name,
            "weights_sha256": network.sha256,
            "versions": versions(),
            "git_commit": git_commit(),
        },
        "scenes": [],
    }
    text = f"# Coding: {folder.name}\n\n{content['settings']['device']}, {name}, commit {git_commit()}\n"
    for path in map(Path, args.scenes):
        with open_scene(path) as scene:
            info = scene.info
            cube = scene.read(0, 0, info.height, info.width)
        if info.dtype == "float32":
            raise UsageError(f"{path}: floats, and this comparison is of integers")
        if (info.bands, network.num_bands) == (NUM_BANDS, NUM_CHANNELS):
            cube = cube[list(KEPT_INDICES)]
        if len(cube) != network.num_bands:
            raise UsageError(f"{path} has {len(cube)} bands, the model takes {network.num_bands}")
        rows, megabytes = [], cube.nbytes / 1e6
        for row in compare(cube, network, float(SCALE), info.nodata):
            print(f"{path.name}: {row.codec}", file=sys.stderr, flush=True)
            rows.append(row)
        content["scenes"].append({"scene": path.name, "shape": cube.shape, "rows": [asdict(row) for row in rows]})
        cells = [
            [
                row.codec,
                f"{row.bpppc:.3f}",
                f"{row.psnr:.2f}" if row.psnr < float("inf") else "lossless",
                "–" if row.largest_error is None else f"{row.largest_error:g}",
                f"{megabytes / row.encode_seconds:.2f}",
                f"{megabytes / row.decode_seconds:.2f}",
            ]
            for row in rows
        ]
        text += f"\n## {path.name}, {' x '.join(map(str, cube.shape))}\n\n{markdown_table(CODING_HEADER, cells)}\n"
        write_json(folder / "coding.json", content)
        with atomic_write(folder / "coding.md", "w") as file:
            file.write(text)
    print(f"{text}\nwritten: {folder / 'coding.json'}, {folder / 'coding.md'}")
    return 0


# -- the report -----------------------------------------------------------------------------------


class Report:
    """What was measured so far, on the disk after every row.

    Args:
        folder: for speed.json and speed.md; made if it is not there.
        content: of the JSON, with empty lists to fill.
    """

    def __init__(self, folder: Path, content: dict):
        self.folder, self.content = folder, content
        folder.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def leave_out(self, text: str) -> None:
        self.say(f"left out: {text}")
        self.add("left_out", text)

    def add(self, part: str, row) -> None:
        self.content[part].append(row)
        self.write()

    def write(self) -> None:
        from utils.files import atomic_write
        from utils.results import write_json

        write_json(self.folder / "speed.json", self.content)
        with atomic_write(self.folder / "speed.md", "w") as file:
            file.write(self.tables())

    def tables(self) -> str:
        """All of it in Markdown."""
        from utils.speed import markdown_table, short

        content, settings = self.content, self.content["settings"]
        parts = [f"# Speed: {content['name']}"]
        machine = [f"{name}: {text}" for name, text in settings["devices"].items()]
        parts.append(
            "; ".join([*machine, f"torch {settings['versions']['torch']}", f"commit {settings['git_commit']}"])
        )
        for limits in content["limits"]:
            key = (limits["device"], limits["precision"])
            rows = [row for row in content["models"] if (row["device"], row["precision"]) == key]
            parts.append(f"## Models on {key[0]}, ours in {key[1]}")
            parts.append(
                f"Limits: {short(limits['flops_per_second'], 1e-9)} GFLOP/s in a matrix product, "
                f"{short(limits['bytes_per_second'], 1e-9)} GB/s in a copy. "
                "Seconds and GFLOP for one image; memory in MB beside weights and input."
            )
            parts.append(markdown_table(MODEL_HEADER, map(model_cells, rows)))
            parts += [f"{row['model']}, {row['work']}: {row['note']}" for row in rows if row["note"]]
        parts += [f"Left out: {text}." for text in content["left_out"]]
        for title, part, columns in DATA_TABLES:
            if content[part]:
                cells = [
                    [f"{row[key] * 100:.0f} %" if key.startswith("share") else cell(row[key]) for key in columns]
                    for row in content[part]
                ]
                parts += [f"## {title}", markdown_table(list(columns.values()), cells)]
        return "\n\n".join(parts) + "\n"


RATES = {
    "patches_per_second": "patches/s",
    "reading_patches_per_second": "reading alone, patches/s",
    "share_of_reading": "share",
}
DATA_TABLES = (
    ("Preprocessing", "preprocessing", {"processes": "processes", "patches": "patches", **RATES}),
    (
        "Loading",
        "loading",
        {"dtype": "file", "transform": "transform", "workers": "workers", "cache": "page cache", **RATES},
    ),
    ("Starting", "scripts", {"command": "command", "seconds": "seconds"}),
    (
        "Two processes",
        "scaling",
        {
            "model": "model",
            "images_per_second": "one process, images/s",
            "images_per_second_of_two": "two, images/s",
            "share_of_twice": "efficiency",
        },
    ),
)
CODING_HEADER = ("codec", "bpppc", "PSNR dB", "largest error", "encode MB/s", "decode MB/s")
MODEL_HEADER = (
    *("model", "work", "side", "repeats", "baseline s", "ours s", "speed-up", "images/s", "MB/s"),
    *("baseline MB", "ours MB", "ratio", "baseline GFLOP", "ours GFLOP", "limit s", "share", "deviation"),
)


def model_cells(row: Mapping) -> list[str]:
    from utils.speed import short

    if "seconds" not in row:
        return [row["model"], row["work"], *["–"] * (len(MODEL_HEADER) - 2)]
    return [
        row["model"],
        row["work"],
        str(row["side"]) if row["batch"] == 1 else f"{row['batch']} x {row['side']}",
        str(row["repeats"]),
        short(row["baseline_seconds"]),
        short(row["seconds"]),
        f"{row['speedup']:.2f}",
        short(row["images_per_second"]),
        short(row["megabytes_per_second"]),
        short(row["baseline_peak_bytes"], 1e-6),
        short(row["peak_bytes"], 1e-6),
        short(row["peak_ratio"]),
        short(row["baseline_flops"], 1e-9),
        short(row["flops"], 1e-9),
        short(row["limit_seconds"]),
        f"{row['limit_share'] * 100:.0f} %",
        f"{row['deviation']:.1e}",
    ]


def cell(value) -> str:
    from utils.speed import short

    return short(value) if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_script(main)
