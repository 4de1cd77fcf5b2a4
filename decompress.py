"""Make a scene again from a file of compress.py.

all of it               python decompress.py SCENE.hsc SCENE.TIF
of a model              python decompress.py SCENE.hsc SCENE.TIF --checkpoint results/trains/RUN/final.pth.tar
a part                  python decompress.py SCENE.hsc PART.TIF --window 512 0 256 256 --bands 44 29 11
what is still whole     python decompress.py SCENE.hsc SCENE.TIF --keep-going
a bare CCSDS 123 stream python decompress.py SCENE.bin SCENE.npy --raw
what is in a file       python decompress.py --info SCENE.hsc

Needed are this file and, where a model coded it, the weights that compress.py used; others are refused. The output
is a GeoTIFF with the scene's type, nodata value, coordinates, descriptions and tags, or a .npy cube (bands, rows,
columns). A bare stream has no magic number by which it could be recognized: --raw says that it is one.
Exit status 1: a tile is damaged, or this machine rounds so differently that a bound is not guaranteed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from utils.errors import UsageError, run_script
from utils.options import HelpFormatter, natural_number, positive_int


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
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
    add(
        "--raw",
        action="store_true",
        help="INPUT is a bare stream of CCSDS 123.0-B-2, by any encoder",
    )
    add("--device", default="cpu", help="cpu, or the number of a GPU")
    add("-n", "--num-workers", type=natural_number, default=0, help="tiles at a time; 0: as many as there are cores")
    add("--overwrite", action="store_true", help="replace OUTPUT if it is there")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments.

    Raises:
        UsageError: something is missing.
    """
    args = build_parser().parse_args(argv)
    if args.info is None and not (args.input and args.output):
        raise UsageError("give an INPUT and an OUTPUT, such as scene.hsc scene.tif, or --info FILE")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Decode a file, or print what it holds."""
    args = parse_args(argv)

    if args.info is not None:
        from coding.hsc.container import print_info  # late, as the next: --help must not wait, nor must this

        return print_info(args.info)

    from coding.commands import decompress

    return decompress(args)


if __name__ == "__main__":
    run_script(main)
