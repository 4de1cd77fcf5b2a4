"""Compress a scene into a file.

lossless                    python compress.py SCENE.TIF SCENE.hsc
every sample within 10      python compress.py SCENE.TIF SCENE.hsc --max-error 10
a PSNR, or a rate           python compress.py SCENE.TIF SCENE.hsc --target-psnr 55
                            python compress.py SCENE.TIF SCENE.hsc --target-bpppc 0.5
by a learned model          python compress.py SCENE.TIF SCENE.hsc --checkpoint RUN/final.pth.tar
by another codec            python compress.py SCENE.TIF SCENE.hsc --codec jpegls --max-error 10
a bare CCSDS 123 stream     python compress.py SCENE.TIF SCENE.bin --codec ccsds123 --raw
many scenes                 python compress.py SCENES/*.TIF --output-dir ARCHIVE
by a Dask cluster           python compress.py --list SCENES.txt --output-dir ARCHIVE --scheduler tcp://node1:8786
what is in a file           python compress.py --info SCENE.hsc

SCENE is a GeoTIFF, an ENVI file, a .npy cube (bands, rows, columns), or any other raster that GDAL opens. What is
lost of it is named in notes, and refused if it is data or georeference. Codecs:

klt-cm     the default: needs no weights and takes any bands
learned    a model, the default if --checkpoint or --model is given. Of EnMAP's 224 bands a model of 202 codes those
           that HySpecNet-11k keeps; the others are decoded as nodata, or with --max-error within the same bound
others     every codec that `python benchmark.py rd --help` explains. A codec has some of three modes: lossless,
           bounded (--max-error), and lossy, with a step that --step, --quality or a target selects

`python decompress.py SCENE.hsc SCENE.TIF` restores the scene; a model needs the same weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coding import MODEL_CODER, PLANE_CODERS, codecs
from models import aliases, models, names_for_help
from utils.errors import UsageError
from utils.options import (
    HelpFormatter,
    add_batch_options,
    natural_number,
    non_negative_float,
    positive_float,
    positive_int,
)
from utils.scripts import lasting_imports, run_script
from utils.workers import add_scheduler_option

MAX_ERROR_LIMIT = 2.0**24
"""Integer samples and bounds in files are smaller."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="compress.py", description=__doc__, formatter_class=HelpFormatter, epilog=names_for_help()
    )
    add = parser.add_argument
    add(
        "scenes",
        nargs="*",
        metavar="SCENE",
        help="a .tif, .npy or other scene to compress, and the .hsc to write; with --output-dir, any number of scenes",
    )
    add_batch_options(parser)
    add("--info", default=None, metavar="FILE", help="print what a .hsc file holds, and do nothing else")
    add_codec_options(parser)
    add_targets(parser.add_mutually_exclusive_group())
    add(
        "--max-error",
        type=non_negative_float,
        default=None,
        help="bound on the error of every sample, in its units; 0: lossless, the default without a model",
    )
    text = "entropy coder of a model's latents; None: context, or that of the model if it has an entropy model"
    add("--coder", default=None, choices=[*PLANE_CODERS, MODEL_CODER], help=text)
    add("--tile-size", type=positive_int, default=128, help="height and width of the tiles in pixels")
    add_scene_options(parser)
    add("--raw", action="store_true", help="write the bare stream of ccsds123 or ccsds123-tuned, without a container")
    add("--device", default="cpu", help="cpu, or the number of a GPU, for a model")
    add("-n", "--num-workers", type=natural_number, default=0, help="tiles coded at a time; 0: one per core")
    add_scheduler_option(parser)
    add("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    return parser


def add_codec_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a codec and its weights."""
    add = parser.add_argument
    add(
        "--codec",
        default=None,
        choices=codecs,
        metavar="CODEC",
        help=f"{', '.join(codecs)}; if not given, klt-cm, or learned with --checkpoint or --model",
    )
    add(
        *("-m", "--model"),
        default=None,
        choices=[*models, *aliases],
        metavar="MODEL",
        help="see the list below; cae1d if not given",
    )
    add("--checkpoint", default=None, help="weights of the model; of cae1d those of the bundled sample if not given")
    add("--num-channels", type=positive_int, default=202, help="bands that the model takes")


def add_scene_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how to read a scene, and what of it may be lost."""
    add = parser.add_argument
    add(
        "--axes",
        default=None,
        help="what the axes of a .npy are, if not brc (bands, rows, columns), such as rcb",
    )
    add(
        "--nodata",
        type=float,
        default=None,
        help="value of samples without data, instead of the scene's; NaN never counts",
    )
    add(
        "--scale",
        type=positive_float,
        default=None,
        help="sample value of reflectance 1; if not given, 10000 or the type's largest for integers, 1 for floats",
    )
    add(
        "--peak",
        type=positive_float,
        default=None,
        help="sample value that is the peak of PSNRs; if not given, --scale",
    )
    add("--drop", nargs="+", default=[], metavar="NAME", help="lose what an error names, such as a coordinate epoch")


def add_targets(group: argparse._MutuallyExclusiveGroup) -> None:
    """Add the flags that select a step."""
    group.add_argument(
        "--quality",
        type=quality,
        default=None,
        help="-100 to 200: set the step to 2^(-QUALITY / 10) times scale / 256, or a model's channel unit; "
        "if a model gets no step, quality or target, its quantizer costs about 0.1 dB",
    )
    group.add_argument(
        "--step",
        type=positive_float,
        default=None,
        help="quantizer step, in the samples' units, or for a model in units of each latent channel",
    )
    group.add_argument(
        "--target-psnr", type=positive_float, default=None, metavar="DB", help="PSNR to reach, see --peak"
    )
    group.add_argument(
        "--target-bpppc", type=positive_float, default=None, metavar="RATE", help="bits per coded sample to reach"
    )


def quality(text: str) -> float:
    """Parse the value of --quality, from -100 to 200."""
    value = float(text)
    if not -100 <= value <= 200:
        raise argparse.ArgumentTypeError(f"must be a number from -100 to 200, got {text}")
    return value


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, by default the command line, and fill in the defaults that depend on other flags.

    Raises:
        UsageError: flags that contradict each other, or a missing argument.
    """
    args = build_parser().parse_args(argv)
    if args.codec is None:
        args.codec = "learned" if args.checkpoint or args.model else "klt-cm"
    has_weights = codecs[args.codec].has_weights
    if not has_weights and (args.checkpoint or args.model):
        raise UsageError(f"--codec {args.codec} has no model: leave --model and --checkpoint out")
    args.model = aliases.get(args.model, args.model) or "cae1d"
    check_files(args)
    if args.raw and not codecs[args.codec].stream_reader:
        names = " or ".join(name for name, entry in codecs.items() if entry.stream_reader)
        raise UsageError(f"--raw is for --codec {names}, not {args.codec}")
    if (args.max_error or 0) >= MAX_ERROR_LIMIT:
        raise UsageError(f"--max-error must be below {MAX_ERROR_LIMIT:.0f}, got {args.max_error:g}")
    has_step, has_target = args.quality is not None or args.step is not None, args.target_psnr or args.target_bpppc
    if args.max_error is not None and has_target:
        raise UsageError("--max-error sets the size of the file: leave the target out")
    if args.max_error is not None and has_step and not has_weights:
        raise UsageError(f"--max-error leaves {args.codec} no step to choose: leave --quality and --step out")
    if args.max_error is None and not (has_step or has_target or has_weights):
        args.max_error = 0.0
    return args


def check_files(args: argparse.Namespace) -> None:
    """Set `scene` and `output` of a single scene.

    Raises:
        UsageError: files are missing or too many.
    """
    if args.output_dir is not None or args.info is not None:
        return
    if args.list is not None or len(args.scenes) != 2:
        raise UsageError(
            "give a SCENE and an OUTPUT, such as scene.tif scene.hsc, many scenes and --output-dir DIR, or --info FILE"
        )
    args.scene, args.output = args.scenes


def main(argv: Sequence[str] | None = None) -> int:
    """Compress a scene, or print what a file holds; return the exit status."""
    args = parse_args(argv)

    if args.info is not None:
        from coding.hsc.container import print_info  # late, so that --help and --info are quick

        return print_info(args.info)

    with lasting_imports():
        from coding.compressing import compress

    return compress(args)


if __name__ == "__main__":
    run_script(main)
