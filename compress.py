"""Compress a scene into a file of real bytes.

without loss                python compress.py SCENE.TIF SCENE.hsc
every sample within 10      python compress.py SCENE.TIF SCENE.hsc --max-error 10
a PSNR, or a rate           python compress.py SCENE.TIF SCENE.hsc --target-psnr 55
                            python compress.py SCENE.TIF SCENE.hsc --target-bpppc 0.5
by a model's weights        python compress.py SCENE.TIF SCENE.hsc --checkpoint RUN/final.pth.tar
what is in a file           python compress.py --info SCENE.hsc

SCENE is a GeoTIFF or a .npy cube (bands, rows, columns) of int16, uint16 or float32. Two codecs:

klt-cm     needs no weights and takes any bands: the default
learned    a model, the default where --checkpoint or --model is given. Of EnMAP's 224 bands a model of 202 codes
           those that HySpecNet-11k keeps; the others come back as nodata, or with --max-error as exactly as all

`python decompress.py SCENE.hsc SCENE.TIF` makes the scene again; of a model, with the same weights.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from coding import PLANE_CODERS
from models import aliases, models, names_for_help
from utils.errors import ProjectError, UsageError, run_script
from utils.options import HelpFormatter, natural_number, non_negative_float, positive_float, positive_int

if TYPE_CHECKING:
    from typing import BinaryIO

    from coding.base import TileCoder
    from coding.hsc.container import Header
    from coding.hsc.tiling import Measures
    from coding.rate_control import Fit, Wish
    from datasets.scenes import SceneInfo

# torch and what needs it are imported where they are used: --help must not wait for them.

INTEGER_SCALE = 10_000.0  # EnMAP's, and that of most products of surface reflectance
DROPPED_FOR = "not among the model's bands"
ATTEMPTS = 3  # the step is found on some tiles, and mended by what the whole scene gave
CODECS = ("klt-cm", "learned")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compress.py", description=__doc__, formatter_class=HelpFormatter, epilog=names_for_help()
    )
    add = parser.add_argument
    add("scene", nargs="?", metavar="SCENE", help=".tif or .npy to compress")
    add("output", nargs="?", metavar="OUTPUT", help=".hsc to write")
    add("--info", default=None, metavar="FILE", help="print what a .hsc file holds, and do nothing else")
    add("--codec", default=None, choices=CODECS, help="klt-cm; learned where --checkpoint or --model is given")
    add(
        *("-m", "--model"),
        default=None,
        choices=[*models, *aliases],
        metavar="MODEL",
        help="see the list below; cae1d if none is named",
    )
    add("--checkpoint", default=None, help="weights of the model; without, cae1d has some of the bundled sample")
    add("--num-channels", type=positive_int, default=202, help="bands that the model was made for")
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument(
        "--quality",
        type=quality,
        default=None,
        help="makes the step 2^(-QUALITY / 10) of a channel's unit, or with klt-cm of a 256th of the scale; a model's "
        "default: 0.1 dB of loss",
    )
    wish.add_argument(
        "--step",
        type=positive_float,
        default=None,
        help="of the quantizer, in units of a channel, or with klt-cm of the samples",
    )
    wish.add_argument("--target-psnr", type=positive_float, default=None, metavar="DB", help="PSNR to reach, peak 1")
    wish.add_argument(
        "--target-bpppc", type=positive_float, default=None, metavar="RATE", help="size of the file in bits per sample"
    )
    add(
        "--max-error",
        type=non_negative_float,
        default=None,
        help="bound on the error of every sample, in its own units; 0 is lossless, klt-cm's default",
    )
    add("--coder", default=PLANE_CODERS[0], choices=PLANE_CODERS, help="of a model's quantized latents")
    add("--tile-size", type=positive_int, default=128, help="side of the tiles, each coded on its own, in pixels")
    add(
        "--nodata", type=float, default=None, help="value of samples without data, instead of the scene's own; also nan"
    )
    add("--scale", type=positive_float, default=None, help="sample value of reflectance 1; 10000 for integers, else 1")
    add("--device", default="cpu", help="cpu, or the number of a GPU")
    add("-n", "--num-workers", type=natural_number, default=0, help="tiles at a time; 0: as many as there are cores")
    add("--overwrite", action="store_true", help="replace OUTPUT if it is there")
    return parser


def quality(text: str) -> float:
    value = float(text)
    if not -100 <= value <= 200:
        raise argparse.ArgumentTypeError(f"{text} is not a number from -100 to 200")
    return value


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments.

    Raises:
        UsageError: a combination that cannot work.
    """
    args = build_parser().parse_args(argv)
    if args.codec is None:
        args.codec = "learned" if args.checkpoint or args.model else "klt-cm"
    elif args.codec == "klt-cm" and (args.checkpoint or args.model):
        raise UsageError("--codec klt-cm has no model: leave --model and --checkpoint out")
    args.model = aliases.get(args.model, args.model) or "cae1d"
    if args.info is None and not (args.scene and args.output):
        raise UsageError("give a SCENE and an OUTPUT, such as scene.tif scene.hsc, or --info FILE")
    if (args.max_error or 0) >= 2**24:
        raise UsageError(f"--max-error {args.max_error:g}: no sample is that far off, leave it out")
    if args.max_error is not None and (args.target_psnr or args.target_bpppc):
        raise UsageError("--max-error sets the size of the file: leave the target out, or give --quality or --step")
    if args.codec == "klt-cm":
        has_step = args.quality is not None or args.step is not None
        if args.max_error is not None and has_step:
            raise UsageError("--max-error leaves klt-cm no step to choose: leave --quality and --step out")
        if not has_step and args.target_psnr is None and args.target_bpppc is None and args.max_error is None:
            args.max_error = 0.0
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from coding.files import print_info

    if args.info is not None:
        return print_info(args.info)

    from datasets.scenes import open_scene
    from utils.files import atomic_write, check_output
    from utils.processes import sigterm_raises, use_cores

    output = check_output(args.output, args.scene, args.overwrite)
    started = time.monotonic()
    with sigterm_raises(), open_scene(args.scene, args.nodata) as scene:
        prepare = prepare_learned if args.codec == "learned" else prepare_klt
        header, make_fit = prepare(args, scene)
        num_workers = use_cores(args.num_workers)  # of torch, too, which a model has loaded by now
        fit = make_fit(num_workers)
        with atomic_write(output) as file:
            header, found, miss = write(args, scene, file, header, fit, num_workers)
    print(report(args, header, found, time.monotonic() - started))
    if miss is not None:
        print(f"note: {miss.text}", file=sys.stderr)
    return 0


def prepare_learned(args: argparse.Namespace, scene) -> tuple[Header, Callable[[int], Fit]]:
    """What the file says of the scene but for the codec's parameters, and what fits the model to it by some threads."""
    from coding.learned.fit import LearnedFit
    from coding.learned.network import load_network

    model_bands = bands_of(args, scene.info)
    network = load_network(args.model, args.checkpoint, args.num_channels, args.device)
    model = {"name": network.name, "sha256": network.sha256, "num_channels": network.num_bands}
    header = header_of(args, scene.info, model, model_bands)
    return header, partial(LearnedFit, scene, header, network, args.coder, model_bands)


def prepare_klt(args: argparse.Namespace, scene) -> tuple[Header, Callable[[int], Fit]]:
    """As `prepare_learned`, for klt-cm."""
    from coding.kltcm.fit import KltFit

    header = header_of(args, scene.info, None, range(scene.info.bands))
    return header, partial(KltFit, scene, header)


def write(
    args: argparse.Namespace, scene, file: BinaryIO, header: Header, fit: Fit, num_workers: int
) -> tuple[Header, Measures, Miss | None]:
    """Compress the scene, again where a target was missed and another step may meet it; the nearest attempt stays.

    Returns:
        The header and the figures of what is in the file, and by what it missed the target.

    Raises:
        ProjectError: a bound does not hold.
    """
    from coding.files import pixel_bar
    from coding.hsc.tiling import compress_scene

    def attempt(coder: TileCoder) -> tuple[Header, Measures, Miss | None]:
        tried = replace(header, parameters=coder.parameters())
        file.seek(0)
        file.truncate()
        with pixel_bar("compressing", scene.info.height * scene.info.width) as advance:
            found = compress_scene(scene, file, tried, coder, num_workers, advance)
        check_bound(args, found)
        return tried, found, miss_of(args, tried, found, fit)

    wish = wish_of(args, header)
    nearest = None
    for _ in range(ATTEMPTS):
        coder = fit.coder(wish)
        result = attempt(coder)
        miss = result[2]
        if miss is None or not miss.can_mend:
            return result
        if nearest is None or miss.distance < nearest[0]:
            nearest = miss.distance, coder
        wish = mended(wish, args, *result[:2])
    return result if nearest[1] is coder else attempt(nearest[1])


def bands_of(args: argparse.Namespace, info: SceneInfo) -> tuple[int, ...]:
    """0-based numbers of the scene's bands that the model takes.

    Raises:
        UsageError: it takes others.
    """
    from datasets.enmap import KEPT_INDICES, NUM_BANDS, NUM_CHANNELS

    if info.bands == args.num_channels:
        return tuple(range(info.bands))
    if (info.bands, args.num_channels) == (NUM_BANDS, NUM_CHANNELS):
        return KEPT_INDICES
    raise UsageError(
        f"{args.scene} has {info.bands} bands, the model takes {args.num_channels}: "
        f"give weights for {info.bands} bands by --checkpoint, and --num-channels {info.bands}"
    )


def header_of(args: argparse.Namespace, info: SceneInfo, model: dict | None, coded_bands: Sequence[int]) -> Header:
    """What the file says of the scene, but for the codec's parameters.

    Args:
        model: name, hash and channels of the network; None where there is none.
        coded_bands: 0-based; with a bound all are coded.

    Raises:
        UsageError: a size of tiles that no file can have.
    """
    from coding.hsc.container import MAX_TILE_SAMPLES, MAX_TILE_SIZE, MIN_TILE_SIZE, Header

    largest = min(MAX_TILE_SIZE, math.isqrt(MAX_TILE_SAMPLES // info.bands))
    if not MIN_TILE_SIZE <= args.tile_size <= largest:
        raise UsageError(f"--tile-size {args.tile_size}: give {MIN_TILE_SIZE} to {largest} for {info.bands} bands")
    others = tuple(band + 1 for band in sorted(set(range(info.bands)) - set(coded_bands)))
    return Header(
        codec=args.codec,
        parameters={},
        model=model,
        scene=info,
        scale=args.scale or (1.0 if info.dtype == "float32" else INTEGER_SCALE),
        dropped={DROPPED_FOR: others} if others and args.max_error is None else {},
        tile_size=args.tile_size,
        max_error=args.max_error,
    )


def wish_of(args: argparse.Namespace, header: Header) -> Wish:
    """What the flags ask of the quantizer's step."""
    from coding.rate_control import Wish

    if args.target_psnr is not None:
        return Wish(psnr=args.target_psnr)
    if args.target_bpppc is not None:
        return Wish(bpppc=args.target_bpppc)
    if args.step is not None:
        return Wish(step=args.step)
    if args.codec == "klt-cm":
        from coding.kltcm.fit import step_of_quality

        return Wish(smallest=True) if args.quality is None else Wish(step=step_of_quality(args.quality, header.scale))
    from coding.learned.fit import DEFAULT_LOSS, step_of_quality

    if args.quality is not None:
        return Wish(step=step_of_quality(args.quality))
    return Wish(loss=DEFAULT_LOSS) if args.max_error is None else Wish(smallest=True)


def rate_of(header: Header, found: Measures) -> float:
    """Size of the file in bits per sample of the coded bands."""
    return 8 * found.num_bytes / (header.scene.height * header.scene.width * len(header.coded_bands))


@dataclass(frozen=True)
class Miss:
    """How a file misses its target.

    Attributes:
        text: for people.
        distance: from the target, in units of the tolerance.
        can_mend: whether another step may come nearer.
    """

    text: str
    distance: float
    can_mend: bool


def miss_of(args: argparse.Namespace, header: Header, found: Measures, fit: Fit) -> Miss | None:
    """What to say of a target that was missed, None of one that was met or where there is none."""
    from coding.hsc.tiling import psnr_text
    from coding.rate_control import PSNR_TOLERANCE, RATE_TOLERANCE

    rate = rate_of(header, found)
    if args.target_psnr is not None:
        distance = (found.psnr - args.target_psnr) / PSNR_TOLERANCE
        text, is_less = f"{psnr_text(found.psnr)} instead of {args.target_psnr:g} dB", distance < 0
    elif args.target_bpppc is not None:
        distance = (rate / args.target_bpppc - 1) / RATE_TOLERANCE
        text, is_less = f"{rate:.4f} bpppc instead of {args.target_bpppc:g} bpppc", distance < 0
    if (args.target_psnr is None and args.target_bpppc is None) or abs(distance) <= 1:
        return None
    what = f"{args.model} with these weights" if args.codec == "learned" else args.codec
    if is_less and header.parameters["step"] < 2 * fit.finest:
        lossless = "" if args.codec == "learned" else " with a loss; --max-error 0 has none"
        return Miss(f"{text}: {what} does no better{lossless}, however fine the step", abs(distance), False)
    if not is_less and header.parameters["step"] > fit.coarsest / 2:
        return Miss(f"{text}: {what.split()[0]} goes no lower, this is the coarsest step", abs(distance), False)
    return Miss(f"{text}: the tiles by which the step was found differ from the rest", abs(distance), True)


def check_bound(args: argparse.Namespace, found: Measures) -> None:
    """ProjectError, and no file, if a bound does not hold on the samples decoded here: that must not happen.

    Floats may be off by the rounding of their type.
    """
    if args.max_error is not None and found.largest_error > args.max_error * (1 + 1e-6) + 1e-7:
        raise ProjectError(f"{args.scene}: an error of {found.largest_error:g} under --max-error {args.max_error:g}")


def mended(wish: Wish, args: argparse.Namespace, header: Header, found: Measures) -> Wish:
    """A wish that allows for what the whole scene gave, headers and all, beside the tiles looked at."""
    if args.target_psnr is not None:
        return replace(wish, psnr=wish.psnr + args.target_psnr - found.psnr)
    return replace(wish, bpppc=wish.bpppc * args.target_bpppc / rate_of(header, found))


def report(args: argparse.Namespace, header: Header, found: Measures, seconds: float) -> str:
    """What came of it: rate, quality, what was lost."""
    from coding.hsc.tiling import psnr_text

    info = header.scene
    num_samples = info.height * info.width * info.bands
    itemsize = 4 if info.dtype == "float32" else 2
    lines = []
    if found.clipped:
        share = found.clipped / max(found.samples, 1)
        lines.append(
            f"clipped before coding, as in training: {found.clipped} samples ({share:.2%}) below 0 or above "
            f"{header.scale:g}, by up to {found.largest_clip:g}"
        )
    if found.lost:
        dropped = [band for bands in header.dropped.values() for band in bands]
        lines.append(f"not coded without --max-error: {found.lost} valid samples in {len(dropped)} bands")
    figures = [
        f"{rate_of(header, found):.4f} bpppc",
        f"{Path(args.scene).stat().st_size / found.num_bytes:.2f} times smaller than the file",
        f"{2 * num_samples / found.num_bytes:.2f} than int16",
        f"PSNR {psnr_text(found.psnr)}",
        f"largest error {found.largest_error:g}",
        f"spectral angle {found.spectral_angle:.3f} degrees",
        f"{itemsize * num_samples / 1e6 / seconds:.2f} MB/s",
    ]
    return "\n".join([*lines, f"{args.output}: " + ", ".join(figures)])


if __name__ == "__main__":
    run_script(main)
