"""Measure this project against the textbook form of its models, other codecs, and the machine's limits.

a first look, 90 s on two cores python benchmark.py speed --quick
all default models, long        python benchmark.py speed
a GPU, as train.py uses it      python benchmark.py speed --devices 0 --only gpu
a GPU, several precisions       python benchmark.py speed --devices 0 --precision fp32 bf16 fp16
one model, nothing else         python benchmark.py speed --models sscnet --only models
a narrow model on a small image python benchmark.py speed --models cae1d cae1d_1bpppc@32
training runs over time         python benchmark.py curves results/trains/RUN results/trains/OTHER
all codecs on a split           python benchmark.py rd -d ./datasets/hyspecnet-11k/ --limit 20 --name hyspecnet
some codecs on files            python benchmark.py rd A.TIF B.npy --int16 --codecs klt-jpegxl sperr --checkpoints
a learned codec on a scene      python benchmark.py rd SCENE.TIF --int16 --checkpoints RUN/final.pth.tar --per-image
text and figures again          python benchmark.py rd --redraw hyspecnet

Reports go to SAVE_DIR/<name>/: `speed` writes speed.json and speed.md after every finished row, `curves` curves.json,
curves.md and curves.png, and `rd` rd.json, rd.md and figures.
`python benchmark.py COMMAND --help` explains the flags.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from coding import COMPARED, MODEL_CODER, PLANE_CODERS, codecs
from models import aliases, models, names_for_help
from utils.errors import UsageError
from utils.options import PRECISIONS, HelpFormatter, natural_number, positive_float, positive_int
from utils.scripts import lasting_imports, run_script
from utils.workers import add_scheduler_option

SPEED = """Time and memory compared with the models' textbook form and with the machine's limits.

Parts (--only):
models    encoding, decoding, both (one image of SIDE x SIDE, no gradients) and a training step (a batch of two, at
          most 64 x 64, with --quick half of SIDE: squared error, gradients, clipping, Adam). The baseline is
          benchmarks/speed/textbook.py: float32, the whole batch at once, the same weights. Both run alternately,
          and their medians are compared. On GPUs both train in TF32, as train.py does, and do all else in full
          float32, as test.py does. The deviation is the largest absolute difference of the output; in training the
          relative difference of the whole gradient. Where the textbook form already differs between float64 and
          float32, as in the gradients of cae3d (3e-3), ours may differ as much.
gpu       on GPUs: a training step on 2 and 16 images of 128 x 128 as train.py takes it, and coding of 1 and 16 images
          as test.py does it (other widths: only training, on 2 images of 64 x 64); the textbook form in TF32 (coding:
          float32) and in bf16, ours in both and with --compile; time and memory of the first call and of the steady
          state. The deviation of the whole gradient, or of the output, is relative to the textbook form in float32
data      preprocessing compared with reading and decoding the same TIFs; loading patches compared with reading them
scripts   seconds that --help takes, compared with importing torch
scaling   train.py on patches of 64 x 64 with one process of one thread, and with two that share each batch of four
          through DistributedDataParallel (gloo): images/s, median of all epochs but the first. An efficiency of 1
          is twice the images/s.

Limit: the time of our FLOPs at the rate of a large matrix product, or of the least possible memory traffic at the rate
of a large copy, whichever is longer; both rates are measured in the same run and precision. The least traffic is input,
output and weights once; in training the batch once, and weights and both moments of Adam read and written.
Convolutions can be faster than the matrix product, so a share above 100 % is possible.
"""
RD = """Learned and classical codecs on the same images: rates are 8 * bytes / samples of all that a codec writes.

Images are reflectances in [0, 1] by HySpecNet-11k's rule (202 bands, clipped, integer multiples of 1e-4) or, with
--int16, the original integers. Codecs take and return 16-bit integers. Samples without data are excluded from every
metric; their mask counts in every rate.

codec          description
jpeg2000       each band by JPEG 2000 (OpenJPEG), one distortion for all bands
jpeg2000-mc    all bands as components of one JPEG 2000 file
htj2k          each band by High-Throughput JPEG 2000 (OpenJPH)
jpegxl         each band by JPEG XL
jpegls         each band by JPEG-LS, lossless or with a bound
klt-jpeg2000   Karhunen-Loeve transform over the bands, components by JPEG 2000, one distortion for all
klt-jpegxl     the same transform, components equally quantized, by JPEG XL
klt-sperr      the same transform, components by SPERR
klt-cm         our own: the same transform, then wavelets, trellis-coded quantization, mixed contexts; lossless or
               with a bound it predicts bands from bands instead
pca-float32    principal components as float32, as published models count their latents
sperr, sz3, zfp    the cube in three dimensions
aec            CCSDS 121.0-B-3 (libaec), lossless
ccsds123       CCSDS 123.0-B-2, lossless or with a bound
ccsds123-tuned    the same with parameters that the encoder searches for each cube

A codec is measured in each mode that it has: lossy at the target --rates (by a search for the step; a point is kept if
it is within 15 %), bounded at the --bounds, and lossless. Learned models are also measured with their latents as
float32, and with latents quantized so that the PSNR is up to 0.1 dB lower.
"""
PARTS = ("models", "gpu", "data", "scripts", "scaling")
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


def build_parser(quick: bool = False) -> argparse.ArgumentParser:
    """Return the parser of the command line; with `quick` it has the defaults of --quick."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_parser = functools.partial(commands.add_parser, formatter_class=HelpFormatter)
    summary = "time and memory compared with the textbook models and the machine's limits"
    speed = add_parser("speed", help=summary, description=SPEED, epilog=names_for_help())
    add_speed(speed.add_argument, QUICK if quick else DEFAULTS)
    summary = "validation PSNR of several runs of train.py over their seconds of training"
    curves = add_parser("curves", help=summary, description=f"V{summary[1:]}.")
    curves.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, such as results/trains/RUN")
    add_report(curves.add_argument)
    summary = "rate and distortion of learned and classical codecs"
    rd = add_parser("rd", help=summary, description=RD, epilog=names_for_help())
    add_rd(rd)
    return parser


def add_speed(add: Callable, defaults: Mapping) -> None:
    """Add the arguments of `speed`."""
    text = "names from the list below, separated by spaces or commas; MODEL@SIDE for images of another size"
    add("--models", nargs="+", default=defaults["models"], metavar="MODEL", help=text)
    add("--devices", nargs="+", default=["cpu"], help="cpu, numbers of GPUs, or both, for example cpu,0")
    text = "autocast of our form: some of fp32, bf16, fp16 (GPUs only)"
    add("--precision", nargs="+", default=["fp32"], help=text)
    add("--size", type=positive_int, default=defaults["size"], help="height and width of the images in pixels")
    text = "what to measure in the part models: some of encode, decode, encode+decode, train"
    add("--works", nargs="+", default=list(WORKS), metavar="WORK", help=text)
    add("--quick", action="store_true", help="other defaults: small images, few repetitions, four models, no scaling")
    add(
        "--repeats",
        type=positive_int,
        default=defaults["repeats"],
        help="number of timed calls; at most 2 if one takes 20 s",
    )
    text = "parts to run: some of models, gpu, data, scripts, scaling"
    add("--only", nargs="+", default=defaults["only"], metavar="PART", help=text)
    add("-d", "--dataset", default="./datasets/sample/", help="folder with TIFs to measure preprocessing on")
    add_report(add)
    add_provenance(add)


def add_rd(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rd`."""
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="scenes, such as .tif or .npy files, instead of a data set")
    add("-d", "--dataset", default="./datasets/sample/", help="folder in HySpecNet-11k's layout")
    add("--mode", default="easy", help="folder under splits/ of the data set")
    add("--split", default="test", help="train, val or test")
    add("--limit", type=positive_int, default=None, help="largest number of images, from the first")
    text = "number of images to take at random, the same on every machine; a larger number only adds images"
    add("--sample", type=positive_int, default=None, help=text)
    add("--seed", type=natural_number, default=0, help="of the random images of --sample")
    add("--codecs", nargs="*", default=list(COMPARED), metavar="CODEC", help="codecs of the table above; none if empty")
    text = "weights of learned models, with MODEL if they fit several; if not given, those of the bundled sample"
    add("--checkpoints", nargs="*", default=None, metavar="[MODEL=]PATH", help=text)
    add("--num-channels", type=positive_int, default=202, help="number of bands of the learned models")
    add("--device", default="cpu", help="cpu, or the number of a GPU, for the learned models")
    text = (
        f"entropy coders of the latents of learned models: some of {', '.join(PLANE_CODERS)}, {MODEL_CODER}; if not "
        "given, context, or that of the model if it has an entropy model"
    )
    add("--coder", nargs="+", default=None, metavar="CODER", help=text)
    add("--rates", nargs="+", type=positive_float, default=[0.1, 0.25, 0.5, 1, 2, 4], help="targets in bpppc")
    add("--bounds", nargs="*", type=natural_number, default=[10], help="bounds on the error, in digital numbers")
    add("--int16", action="store_true", help="original integers, negative ones included, instead of [0, 1]")
    add("--peak", type=positive_float, default=10000, help="with --int16: the integer that is 1 in the metrics")
    text = "codecs that BD-rates compare with; if not given, klt-jpeg2000, or else the first codec"
    add("--anchor", nargs="+", default=None, metavar="CODEC", help=text)
    add(
        "--band-rate",
        type=positive_float,
        default=0.5,
        help="target of the detailed table and the figure by band, in bpppc",
    )
    add("--num-workers", type=positive_int, default=None, help="parallel processes; if not given, one per core")
    add_scheduler_option(parser)
    add("--per-image", action="store_true", help="also list the points of each image in rd.md")
    text = "write the means of each codec into this folder, for `python -m compressai.utils.plot`"
    add("--export-compressai", default=None, metavar="DIR", help=text)
    add_report(add)
    add_provenance(add)


def add_report(add: Callable) -> None:
    """Add the arguments that name a report."""
    add("--name", default=None, help="folder for the report; if not given, date and time, for `speed` also the device")
    add("--save-dir", default="./results/benchmarks/", help="folder that holds the reports")


def add_provenance(add: Callable) -> None:
    """Add the arguments of reports that may be committed or redrawn."""
    text = "allow a report with a --name in results/benchmarks/ from a dirty working tree"
    add("--allow-dirty", action="store_true", help=text)
    text = "write text and figures of the report NAME in SAVE_DIR again from its JSON; measure nothing"
    add("--redraw", default=None, metavar="NAME", help=text)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, by default the command line, and split lists at commas.

    Raises:
        UsageError: a name that is not possible, or a missing flag.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(argv)
    args.argv = argv
    if args.command == "rd":
        args.codecs, args.coder = words(args.codecs), args.coder and words(args.coder)
        check_words("--codecs", args.codecs, [name for name, entry in codecs.items() if not entry.has_weights])
        if args.coder:
            check_words("--coder", args.coder, [*PLANE_CODERS, MODEL_CODER], least=1)
        if args.limit and args.sample:
            raise UsageError("--limit and --sample: give one of them")
    if args.command != "speed":
        return args
    if args.quick:
        args = build_parser(quick=True).parse_args(argv)
        args.argv = argv
    for key in ("models", "devices", "precision", "only", "works"):
        setattr(args, key, words(getattr(args, key)))
    check_words("--models", [name.partition("@")[0] for name in args.models], [*models, *aliases], least=1)
    check_words("--precision", args.precision, PRECISIONS, least=1)
    check_words("--only", args.only, PARTS, least=1)
    check_words("--works", args.works, WORKS, least=1)
    for name in args.models:
        if not re.fullmatch(r"\w+(@[1-9]\d*)?", name):
            raise UsageError(f"--models must be MODEL or MODEL@SIDE, such as cae1d@32, got {name}")
    return args


def words(items: Sequence[str]) -> list[str]:
    """Split items at commas and drop repeated words: `["a,b", "c"]` -> `["a", "b", "c"]`."""
    return list(dict.fromkeys(word for item in items for word in item.split(",") if word))


def check_words(flag: str, given: Sequence[str], possible: Sequence[str], least: int = 0) -> None:
    """Validate the words of a flag.

    Raises:
        UsageError: a word that is not in `possible`, or fewer than `least` words.
    """
    if len(given) < least:
        raise UsageError(f"{flag}: nothing given")
    for word in given:
        if word not in possible:
            raise UsageError(f"{flag} {word}: must be one of {', '.join(possible)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv`, by default the command line, names; return the exit status."""
    args = parse_args(argv)
    # Imported late, as they import torch and --help must be quick.
    with lasting_imports():
        if args.command == "speed":
            from benchmarks.speed.run import run
        elif args.command == "rd":
            from benchmarks.rd.run import run
        else:
            from benchmarks.curves import run
    return run(args)


if __name__ == "__main__":
    run_script(main)
