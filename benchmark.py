"""Measure this project against plain implementations of the same, and against what the machine allows.

a first look, three minutes     python benchmark.py speed --quick
all default models, long        python benchmark.py speed
a GPU, several precisions       python benchmark.py speed --devices 0 --precision fp32 bf16 fp16
one model, nothing else         python benchmark.py speed --models sscnet --only models
a narrow model on a small image python benchmark.py speed --models cae1d cae1d_1bpppc@32
trainings over wall time        python benchmark.py curves results/trains/RUN results/trains/OTHER
scenes by a learned codec       python benchmark.py coding SCENE.TIF --checkpoint results/trains/RUN/final.pth.tar
all codecs on a split           python benchmark.py rd -d ./datasets/hyspecnet-11k/ --limit 20 --name hyspecnet
some codecs on files            python benchmark.py rd A.TIF B.npy --int16 --codecs klt-jpegxl sperr --checkpoints

Results of `speed` go to SAVE_DIR/<name>/speed.json and, as tables, speed.md, after every line that is finished,
those of `curves` to curves.csv and curves.png, those of `coding` to coding.json and coding.md, those of `rd` to
rd.md, figures, points.csv, bd.csv, bands.csv and codecs/*.json, which `python -m compressai.utils.plot` reads.
`python benchmark.py COMMAND --help` explains the flags.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from models import aliases, models, names_for_help
from utils.errors import ProjectError, UsageError, run_script
from utils.options import PRECISIONS, HelpFormatter, positive_float, positive_int

if TYPE_CHECKING:
    from benchmarks.speed.report import Report

# torch and what needs it are imported where they are used: --help must not wait for them.

SPEED = """Time and memory beside the models' textbook form, and beside the machine's limits.

Parts (--only):
models    encoding, decoding, both (one image of SIDE x SIDE, no gradients) and a step of training (a batch of
          two, at most 64 x 64, with --quick half of SIDE: squared error, gradients, clipping, Adam). The baseline
          is benchmarks/speed/textbook.py: float32, the whole batch at once, the same weights. Both run in turn; medians
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
RD = """Learned and classical codecs on the same images: rates are 8 * bytes / samples of what the codec wrote.

Images are reflectances in [0, 1] by HySpecNet-11k's rule (202 bands, clipped, whole numbers over 10000) or, with
--int16, the original integers. Codecs get them as 16-bit integers and give such back. Samples without data are no
part of any metric; the mask counts in every rate.

codec          what it is
jpeg2000       each band by JPEG 2000 (OpenJPEG), one distortion for all bands
jpeg2000-mc    all bands as components of one JPEG 2000 file
htj2k          each band by High-Throughput JPEG 2000 (OpenJPH)
jpegxl         each band by JPEG XL
jpegls         each band by JPEG-LS: lossless, or an error that is bounded
klt-jpeg2000   Karhunen-Loeve transform over the bands, components by JPEG 2000, one distortion for all
klt-jpegxl     the same, components equally quantized, JPEG XL
klt-sperr      the same by SPERR
klt-cm         the same by this project's own coder: wavelets, trellis-coded quantization, mixed contexts; with a bound
               or without loss, bands are predicted from bands instead
pca-float32    Karhunen-Loeve coefficients as float32, as published models count theirs
sperr, sz3, zfp    the cube in three dimensions
aec            CCSDS 121.0-B-3 (libaec), lossless
ccsds123       CCSDS 123.0-B-2: lossless, or an error that is bounded

For every codec that has them: lossy points at the wanted --rates (the step is searched; a point is kept if it comes
within 15 %), points at the --bounds on the error, and lossless. Of learned models the latents as float32 too.
"""
CODECS = (
    *("jpeg2000", "jpeg2000-mc", "htj2k", "jpegxl", "jpegls"),
    *("klt-jpeg2000", "klt-jpegxl", "klt-sperr", "klt-cm", "pca-float32"),
    *("sperr", "sz3", "zfp", "aec", "ccsds123"),
)
"""The keys of `coding.classical.classical`: `--help`, which lists them, must not import that."""
ANCHOR = "klt-jpeg2000"
PARTS = ("models", "data", "scripts", "scaling")
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

TRAIN_SIDE = 64  # of images to train on, at most
SCALING_MODELS, SCALING_BATCH, SCALING_SIDE = ("cae1d", "sscnet"), 4, 64


def build_parser(quick: bool = False) -> argparse.ArgumentParser:
    """The parser; `quick` gives it the defaults of --quick."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_speed(commands, QUICK if quick else DEFAULTS)
    add_curves(commands)
    add_coding(commands)
    add_rd(commands)
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
        description="Scenes of integers by a learned codec: its latents as float32, quantized, and with bounds on the "
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


def add_rd(commands) -> None:
    rd = commands.add_parser(
        "rd",
        help="rate and distortion of learned and classical codecs",
        description=RD,
        formatter_class=HelpFormatter,
        epilog=names_for_help(),
    )
    add = rd.add_argument
    add("images", nargs="*", metavar="IMAGE", help=".tif or .npy in the place of a data set's split")
    add("-d", "--dataset", default="./datasets/sample/", help="folder in HySpecNet-11k's layout")
    add("--mode", default="easy", help="folder under splits/ of the data set")
    add("--split", default="test", help="train, val or test")
    add("--limit", type=positive_int, default=None, help="take the first so many images only")
    add("--codecs", nargs="*", default=list(CODECS), metavar="CODEC", help="of the table above; nothing for none")
    add(
        "--checkpoints",
        nargs="*",
        default=None,
        metavar="[MODEL=]PATH",
        help="weights of learned models, MODEL where their layers do not tell; the bundled sample's if not given",
    )
    add("--num-channels", type=positive_int, default=202, help="bands of the learned models")
    add("--rates", nargs="+", type=positive_float, default=[0.1, 0.25, 0.5, 1, 2, 4], help="to measure at, in bpppc")
    add("--bounds", nargs="*", type=positive_int, default=[10], help="on the error, in digital numbers")
    add("--int16", action="store_true", help="original integers, negatives and all, instead of [0, 1]")
    add("--peak", type=positive_float, default=10000, help="with --int16: the integer that counts as 1 in metrics")
    add(
        "--anchor",
        nargs="+",
        default=None,
        metavar="CODEC",
        help=f"what BD-rates are against, one or several; {ANCHOR}, or the first, if not given",
    )
    add("--band-rate", type=positive_float, default=0.5, help="of the table and figure at one rate, in bpppc")
    add("--num-workers", type=positive_int, default=None, help="processes beside each other; all cores if not given")
    add("--resume", action="store_true", help="go on with the run --name: finished points are kept")
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
    if args.command == "rd":
        args.codecs = words(args.codecs)
        for codec in args.codecs:
            check_words("--codecs", [codec], CODECS)
        if args.resume and not args.name:
            raise UsageError("--resume needs the --name of the run to go on with")
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
    return {"speed": run_speed, "curves": write_curves, "coding": run_coding, "rd": run_rd}[args.command](args)


# -- speed ----------------------------------------------------------------------------------------


def run_speed(args: argparse.Namespace) -> int:
    """The parts of `speed`, one after the other."""
    import torch

    from benchmarks.speed.measure import SEED
    from benchmarks.speed.report import Report
    from utils.devices import get_device
    from utils.environment import device_name, git_commit, versions

    devices = {name: get_device(name, "--devices") for name in args.devices}
    tasks = [model_and_side(name, args.size) for name in args.models] if "models" in args.only else []
    name = args.name or f"{datetime.now():%Y_%m_%d-%H_%M_%S}-{slug(device_name(devices[args.devices[0]]))}"
    settings = {
        "devices": {name: device_name(device) for name, device in devices.items()},
        "cores": torch.get_num_threads(),
        "dataset": Path(args.dataset).resolve().name,
        "seed": SEED,
        "arguments": {key: value for key, value in vars(args).items() if key not in ("dataset", "save_dir")},
        "versions": versions(),
        "git_commit": git_commit(),
    }
    report = Report(Path(args.save_dir) / name, name, settings)
    if tasks:
        measure_models(report, tasks, devices, args)
    if "data" in args.only:
        measure_data(report, args)
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

    from benchmarks.speed.models import BANDS, MIN_SIDE

    name, _, own = name.partition("@")
    name, side = aliases.get(name, name), int(own or size)
    if side < MIN_SIDE:
        raise UsageError(f"--size {side}: at least {MIN_SIDE}")
    try:
        models[name]().check_size(torch.empty(1, BANDS, side, side, device="meta"))
    except ValueError as error:
        raise UsageError(f"--size {side}: {error}") from None
    return name, side


def measure_models(report: Report, tasks: Sequence, devices: Mapping, args: argparse.Namespace) -> None:
    """Limits of every device and precision, then each work of each model beside its textbook form."""
    from benchmarks.speed.models import MIN_SIDE, measure_limits, measure_work, reason_to_leave_out

    combinations = []
    for device_number, device in devices.items():
        for precision in args.precision:
            reason = reason_to_leave_out(device, precision)
            if reason:
                report.leave_out(f"{precision} on {device_number}: {reason}")
                continue
            report.say(f"limits of {device_number} in {precision}")
            limits = {"device": device_number, "precision": precision, **measure_limits(device, precision)}
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


def measure_data(report: Report, args: argparse.Namespace) -> None:
    """Preprocessing and loading; the disk is the one of the reports' folder."""
    from benchmarks.speed.data import measure_loading, measure_preprocessing

    for row in measure_preprocessing(Path(args.dataset), report.folder, args.quick, report.say):
        report.add("preprocessing", row)
    for row in measure_loading(report.folder, args.quick, args.repeats, report.say):
        report.add("loading", row)


def measure_scripts(report: Report, repeats: int) -> None:
    """Seconds from start to end of each script's --help, beside importing torch."""
    import subprocess

    from benchmarks.speed.measure import interleaved

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
    from benchmarks.speed.data import make_patches

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

    from training.run_folder import read_settings
    from utils.files import atomic_write
    from utils.plots import curves_figure
    from utils.results import write_csv

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

    from benchmarks.rd.comparison import compare, comparison_table
    from coding.learned.network import load_network
    from datasets.enmap import KEPT_INDICES, NUM_BANDS, NUM_CHANNELS, SCALE
    from datasets.scenes import open_scene
    from utils.environment import device_name, git_commit, versions
    from utils.files import atomic_write
    from utils.processes import num_cores
    from utils.results import write_json

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
        rows = []
        for row in compare(cube, network, float(SCALE), info.nodata):
            print(f"{path.name}: {row.codec}", file=sys.stderr, flush=True)
            rows.append(row)
        content["scenes"].append({"scene": path.name, "shape": cube.shape, "rows": [asdict(row) for row in rows]})
        text += f"\n## {path.name}, {' x '.join(map(str, cube.shape))}\n\n{comparison_table(rows, cube.nbytes)}\n"
        write_json(folder / "coding.json", content)
        with atomic_write(folder / "coding.md", "w") as file:
            file.write(text)
    print(f"{text}\nwritten: {folder / 'coding.json'}, {folder / 'coding.md'}")
    return 0


# -- rd -------------------------------------------------------------------------------------------


def run_rd(args: argparse.Namespace) -> int:
    """The points, tables and figures of `rd`."""
    from functools import partial

    import torch

    from benchmarks.rd.images import image_name, read_image, split_paths
    from benchmarks.rd.points import Job, run_jobs
    from benchmarks.rd.report import write_report
    from datasets.scenes import open_scene
    from utils.environment import device_name, git_commit, versions
    from utils.processes import num_cores
    from utils.results import write_json

    paths = [Path(path) for path in args.images] or split_paths(
        Path(args.dataset), args.mode, args.split, original=args.int16
    )
    paths = paths[: args.limit]
    for path in paths:
        with open_scene(path):
            pass  # what is no image is said before anything is measured
    families = rd_families(args)
    if not families:
        raise UsageError("nothing to compare: give --codecs, --checkpoints or both")
    codecs = [codec for codec, _, _ in families]
    anchors = args.anchor or [ANCHOR if ANCHOR in codecs else codecs[0]]
    for anchor in anchors:
        if anchor not in codecs:
            raise UsageError(f"--anchor {anchor}: none of {', '.join(codecs)}")
    processes = args.num_workers or num_cores()
    folder = Path(args.save_dir) / (args.name or f"{datetime.now():%Y_%m_%d-%H_%M_%S}")
    settings = {
        "name": folder.name,
        "dataset": None if args.images else Path(args.dataset).resolve().name,
        "mode": None if args.images else args.mode,
        "split": None if args.images else args.split,
        "images": [image_name(path) for path in paths],
        "original": args.int16,
        "is_reflectance": not args.int16,
        "peak": args.peak if args.int16 else 10000,
        "rates": args.rates,
        "bounds": args.bounds,
        "device": device_name(torch.device("cpu")),
        "processes": processes,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    kept = folder / ".points"
    check_run(kept / "settings.json", settings, args.resume)
    write_json(kept / "settings.json", settings)
    jobs = [
        Job(
            codec=codec,
            image=image_name(path),
            family=family,
            load=partial(read_image, path, args.int16, args.peak),
            rates=args.rates,
            bounds=args.bounds,
            path=kept / key / f"{number:05}.jsonl",
            num_threads=max(num_cores() // processes, 1),
        )
        for codec, key, family in families
        for number, path in enumerate(paths)
    ]
    # Learned models take longest: begun first, they leave no core waiting at the end.
    jobs.sort(key=lambda job: job.codec in CODECS)
    rows = run_jobs(jobs, processes, lambda text: print(text, file=sys.stderr, flush=True))
    text = write_report(folder, rows, settings, anchors, args.band_rate, settings["images"], codecs)
    print(f"{text}\nwritten: {folder / 'rd.md'}, the figures beside it, points.csv, bd.csv, bands.csv, codecs/*.json")
    return 0


def rd_families(args: argparse.Namespace) -> list[tuple[str, str, Callable]]:
    """Name, key of its kept points and maker of the family of every codec that `rd` compares.

    Raises:
        UsageError: no such model.
        CheckpointError: weights that cannot be had, or whose model their layers do not tell.
    """
    from functools import partial

    from coding.classical import classical_family
    from coding.learned.codec import learned_family
    from coding.learned.network import SAMPLE_WEIGHTS, load_network, recognize

    families = [(name, name, partial(classical_family, name)) for name in args.codecs]
    for text in args.checkpoints if args.checkpoints is not None else [str(SAMPLE_WEIGHTS)]:
        model, is_named, path = text.rpartition("=")
        if is_named and model not in (*models, *aliases):
            raise UsageError(f"--checkpoints {text}: {model} is no model, give one of {', '.join(models)}")
        model = aliases.get(model, model) or recognize(path, args.num_channels)
        sha256 = load_network(model, path, args.num_channels, "cpu").sha256
        names = {name for name, _, _ in families}
        name = model if model not in names else f"{model}-{sha256[:8]}"
        families.append((name, f"{model}-{sha256[:8]}", partial(learned_family, model, path, args.num_channels)))
    return families


def check_run(path: Path, settings: Mapping, resume: bool) -> None:
    """Whether a run may go into a folder whose kept settings are at `path`, if there are any.

    Raises:
        UsageError: a run is there that is not to be gone on with, or one of other images.
    """
    import json

    if not path.is_file():
        return
    if not resume:
        raise UsageError(f"{path.parents[1]} holds a run: go on with it by --resume, or give another --name")
    kept = json.loads(path.read_text(encoding="utf-8"))
    for key in ("dataset", "mode", "split", "images", "original", "peak"):
        if kept[key] != settings[key]:
            raise UsageError(
                f"{path.parents[1]} was made with {key} {kept[key]}, not {settings[key]}: give another --name"
            )
    if kept["git_commit"] != settings["git_commit"]:
        print("note: the kept points were measured with another version of the code", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
