"""Make a scene again from a file of compress.py.

all of it               python decompress.py SCENE.hsc SCENE.TIF
of a model              python decompress.py SCENE.hsc SCENE.TIF --checkpoint results/trains/RUN/final.pth.tar
a part                  python decompress.py SCENE.hsc PART.TIF --window 512 0 256 256 --bands 44 29 11
what is still whole     python decompress.py SCENE.hsc SCENE.TIF --keep-going
what is in a file       python decompress.py --info SCENE.hsc

Needed are this file and, where a model coded it, the weights that compress.py used; others are refused. The output
is a GeoTIFF with the scene's type, nodata value, coordinates, descriptions and tags, or a .npy cube (bands, rows,
columns).
Exit status 1: a tile is damaged, or this machine rounds so differently that a bound is not guaranteed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.errors import UsageError, run_script
from utils.options import HelpFormatter, natural_number, positive_int

if TYPE_CHECKING:
    from coding.hsc.container import Header
    from coding.hsc.tiling import Part

# torch and what needs it are imported where they are used: --help must not wait for them.


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="decompress.py", description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("input", nargs="?", metavar="INPUT", help=".hsc to decompress")
    add("output", nargs="?", metavar="OUTPUT", help=".tif or .npy to write")
    add("--info", default=None, metavar="FILE", help="print what a .hsc file holds, and do nothing else")
    add("--checkpoint", default=None, help="of a model, the weights used to compress; without, those of the sample")
    add(
        "--window",
        nargs=4,
        type=natural_number,
        default=None,
        metavar=("ROW", "COLUMN", "HEIGHT", "WIDTH"),
        help="decode these pixels only, counted from 0",
    )
    add("--bands", nargs="+", type=positive_int, default=None, metavar="BAND", help="write these bands only, from 1")
    add("--keep-going", action="store_true", help="fill damaged tiles with nodata, list them, exit with 1")
    add("--device", default="cpu", help="cpu, or the number of a GPU")
    add("-n", "--num-workers", type=natural_number, default=0, help="tiles at a time; 0: as many as there are cores")
    add("--overwrite", action="store_true", help="replace OUTPUT if it is there")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments.

    Raises:
        UsageError: something is missing.
    """
    args = build_parser().parse_args(argv)
    if args.info is None and not (args.input and args.output):
        raise UsageError("give an INPUT and an OUTPUT, such as scene.hsc scene.tif, or --info FILE")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from coding.files import open_coder, open_file, pixel_bar, print_info

    if args.info is not None:
        return print_info(args.info)

    from coding.hsc.tiling import decompress_scene
    from datasets.scenes import create_scene
    from utils.files import check_output
    from utils.processes import sigterm_raises, use_cores

    output = check_output(args.output, args.input, args.overwrite)
    started = time.monotonic()
    with sigterm_raises(), open_file(args.input) as reader:
        part = part_of(args, reader.header)
        coder = open_coder(reader, args.checkpoint, args.device)
        num_workers = use_cores(args.num_workers)
        with (
            create_scene(output, part.info(reader.header, args.keep_going)) as scene,
            pixel_bar("decompressing", part.height * part.width) as advance,
        ):
            problems = decompress_scene(reader, coder, scene.write, part, args.keep_going, num_workers, advance)
    seconds = time.monotonic() - started
    for message in (*problems.damaged, *problems.unguaranteed):
        print(f"error: {message}", file=sys.stderr)
    num_bytes = part.height * part.width * len(part.bands) * (4 if reader.header.scene.dtype == "float32" else 2)
    print(
        f"{args.output}: {part.height} x {part.width} pixels, {len(part.bands)} bands, "
        f"{num_bytes / 1e6 / seconds:.2f} MB/s"
    )
    return 1 if problems.damaged or problems.unguaranteed else 0


def part_of(args: argparse.Namespace, header: Header) -> Part:
    """What to decode.

    Raises:
        UsageError: a window or bands that the scene does not have.
    """
    from coding.hsc.tiling import Part

    info = header.scene
    row, column, height, width = args.window or (0, 0, info.height, info.width)
    if not (height and width and row + height <= info.height and column + width <= info.width):
        raise UsageError(
            f"--window {row} {column} {height} {width}: the scene has {info.height} rows and {info.width} columns"
        )
    bands = args.bands or range(1, info.bands + 1)
    wrong = [band for band in bands if band > info.bands]
    if wrong:
        raise UsageError(f"--bands {wrong[0]}: the scene has bands 1 to {info.bands}")
    return Part(row, column, height, width, tuple(band - 1 for band in bands))


if __name__ == "__main__":
    run_script(main)
