"""Compress a scene into a file of real bytes.

without loss                python compress.py SCENE.TIF SCENE.hsc
every sample within 10      python compress.py SCENE.TIF SCENE.hsc --max-error 10
a PSNR, or a rate           python compress.py SCENE.TIF SCENE.hsc --target-psnr 55
                            python compress.py SCENE.TIF SCENE.hsc --target-bpppc 0.5
by a model's weights        python compress.py SCENE.TIF SCENE.hsc --checkpoint RUN/final.pth.tar
by another codec            python compress.py SCENE.TIF SCENE.hsc --codec jpegls --max-error 10
a bare CCSDS 123 stream     python compress.py SCENE.TIF SCENE.bin --codec ccsds123 --raw
what is in a file           python compress.py --info SCENE.hsc

SCENE is a GeoTIFF or a .npy cube (bands, rows, columns) of int16, uint16 or float32. Codecs:

klt-cm     needs no weights and takes any bands: the default
learned    a model, the default where --checkpoint or --model is given. Of EnMAP's 224 bands a model of 202 codes
           those that HySpecNet-11k keeps; the others come back as nodata, or with --max-error as exactly as all
others     every codec that `python benchmark.py rd --help` explains. Each has some of the modes: lossless, --max-error,
           and a step, which --step, --quality, --target-psnr and --target-bpppc choose

`python decompress.py SCENE.hsc SCENE.TIF` makes the scene again; of a model, with the same weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coding import PLANE_CODERS, codecs
from models import aliases, models, names_for_help
from utils.errors import UsageError, run_script
from utils.options import HelpFormatter, natural_number, non_negative_float, positive_float, positive_int

LARGEST_ERROR = 2.0**24
"""No sample is that far off."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="compress.py", description=__doc__, formatter_class=HelpFormatter, epilog=names_for_help()
    )
    add = parser.add_argument
    add("scene", nargs="?", metavar="SCENE", help=".tif or .npy to compress")
    add("output", nargs="?", metavar="OUTPUT", help=".hsc to write")
    add("--info", default=None, metavar="FILE", help="print what a .hsc file holds, and do nothing else")
    add(
        "--codec",
        default=None,
        choices=codecs,
        metavar="CODEC",
        help=f"{', '.join(codecs)}; klt-cm, or learned with --checkpoint or --model, if not given",
    )
    add(
        *("-m", "--model"),
        default=None,
        choices=[*models, *aliases],
        metavar="MODEL",
        help="see the list below; cae1d if none is named",
    )
    add("--checkpoint", default=None, help="weights of the model; without, cae1d has some of the bundled sample")
    add("--num-channels", type=positive_int, default=202, help="bands that the model was made for")
    add_targets(parser.add_mutually_exclusive_group())
    add(
        "--max-error",
        type=non_negative_float,
        default=None,
        help="bound on the error of every sample, in its own units; 0, lossless, is the default without a model",
    )
    add("--coder", default=next(iter(PLANE_CODERS)), choices=PLANE_CODERS, help="of a model's quantized latents")
    add("--tile-size", type=positive_int, default=128, help="side of the tiles, each coded on its own, in pixels")
    add(
        "--nodata", type=float, default=None, help="value of samples without data, instead of the scene's own; also nan"
    )
    add("--scale", type=positive_float, default=None, help="sample value of reflectance 1; 10000 for integers, else 1")
    add("--raw", action="store_true", help="write the bare stream of --codec ccsds123, without a container")
    add("--device", default="cpu", help="cpu, or the number of a GPU")
    add("-n", "--num-workers", type=natural_number, default=0, help="tiles at a time; 0: as many as there are cores")
    add("--overwrite", action="store_true", help="replace OUTPUT if it is there")
    return parser


def add_targets(group: argparse._MutuallyExclusiveGroup) -> None:
    """Add the flags that choose a step."""
    group.add_argument(
        "--quality",
        type=quality,
        default=None,
        help="makes the step 2^(-QUALITY / 10) of a 256th of the scale, or of a model's channel's unit; a model's "
        "default: 0.1 dB of loss",
    )
    group.add_argument(
        "--step",
        type=positive_float,
        default=None,
        help="of the quantizer, in units of the samples, or of a model's channel",
    )
    group.add_argument("--target-psnr", type=positive_float, default=None, metavar="DB", help="PSNR to reach, peak 1")
    group.add_argument(
        "--target-bpppc", type=positive_float, default=None, metavar="RATE", help="size of the file in bits per sample"
    )


def quality(text: str) -> float:
    """Return the number of --quality."""
    value = float(text)
    if not -100 <= value <= 200:
        raise argparse.ArgumentTypeError(f"{text} is not a number from -100 to 200")
    return value


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments.

    Raises:
        UsageError: a combination that cannot work.
    """
    args = build_parser().parse_args(argv)
    if args.codec is None:
        args.codec = "learned" if args.checkpoint or args.model else "klt-cm"
    has_weights = codecs[args.codec].has_weights
    if not has_weights and (args.checkpoint or args.model):
        raise UsageError(f"--codec {args.codec} has no model: leave --model and --checkpoint out")
    args.model = aliases.get(args.model, args.model) or "cae1d"
    if args.info is None and not (args.scene and args.output):
        raise UsageError("give a SCENE and an OUTPUT, such as scene.tif scene.hsc, or --info FILE")
    if args.raw and not codecs[args.codec].stream_reader:
        raise UsageError(f"--raw is for --codec ccsds123, not {args.codec}")
    if (args.max_error or 0) >= LARGEST_ERROR:
        raise UsageError(f"--max-error {args.max_error:g}: no sample is that far off, leave it out")
    has_step, has_target = args.quality is not None or args.step is not None, args.target_psnr or args.target_bpppc
    if args.max_error is not None and has_target:
        raise UsageError("--max-error sets the size of the file: leave the target out")
    if args.max_error is not None and has_step and not has_weights:
        raise UsageError(f"--max-error leaves {args.codec} no step to choose: leave --quality and --step out")
    if args.max_error is None and not (has_step or has_target or has_weights):
        args.max_error = 0.0
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Compress a scene, or print what a file holds."""
    args = parse_args(argv)

    if args.info is not None:
        from coding.hsc.container import print_info  # late, as the next: --help must not wait, nor must this

        return print_info(args.info)

    from coding.commands import compress

    return compress(args)


if __name__ == "__main__":
    run_script(main)
