"""Decompress a file of compress.py into a scene.

the whole scene         python decompress.py SCENE.hsc SCENE.TIF
coded by a model        python decompress.py SCENE.hsc SCENE.TIF --checkpoint results/trains/RUN/final.pth.tar
a window, some bands    python decompress.py SCENE.hsc WINDOW.TIF --window 512 0 256 256 --bands 44 29 11
from a damaged file     python decompress.py SCENE.hsc SCENE.TIF --keep-going
a bare CCSDS 123 stream python decompress.py SCENE.bin SCENE.npy --raw
many files              python decompress.py ARCHIVE/*.hsc --output-dir SCENES
compare, write nothing  python decompress.py SCENE.hsc SCENE.TIF --verify, or a whole folder: ARCHIVE --verify
what is in a file       python decompress.py --info SCENE.hsc

If a model coded the file, decoding needs the same weights; others are refused. The output is a GeoTIFF with the
scene's type, nodata values, masks, coordinates, names and tags, an ENVI file, or a .npy cube (bands, rows, columns).
What a format cannot keep is named in notes, and refused if it is data or georeference, except by .npy. A bare stream
has no magic number to recognize it by: it needs --raw.
The exit status is 1 if a tile is damaged, or if this machine rounds so differently that a bound is not guaranteed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UsageError
from utils.options import HelpFormatter, add_batch_options, natural_number, positive_int
from utils.scripts import lasting_imports, run_script
from utils.workers import add_scheduler_option

VERIFY_HELP = (
    "write nothing: compare a .hsc with the scene that it was made of, given in place of the output, or all files of "
    "a folder with the scenes in its manifest.csv"
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="decompress.py", description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add(
        "files",
        nargs="*",
        metavar="FILE",
        help="a .hsc to decompress, and the .tif, .npy or ENVI file to write; with --output-dir, any number of .hsc",
    )
    add_batch_options(parser)
    add("--suffix", default=".tif", help="with --output-dir: suffix of the scenes, which selects their format")
    add("--verify", action="store_true", help=VERIFY_HELP)
    add("--info", default=None, metavar="FILE", help="print what a .hsc file holds, and do nothing else")
    add(
        "--checkpoint",
        default=None,
        help="weights of the model that coded the file; if not given, of the bundled sample",
    )
    add(
        "--window",
        nargs=4,
        type=natural_number,
        default=None,
        metavar=("ROW", "COLUMN", "HEIGHT", "WIDTH"),
        help="decode this window only, in pixels, counted from 0",
    )
    add(
        "--bands",
        nargs="+",
        type=positive_int,
        default=None,
        metavar="BAND",
        help="write these bands only, in this order, counted from 1",
    )
    add("--drop", nargs="+", default=[], metavar="NAME", help="lose what an error names and OUTPUT cannot keep")
    add("--keep-going", action="store_true", help="fill damaged tiles with nodata, list them, exit with status 1")
    add(
        "--raw",
        action="store_true",
        help="INPUT is a bare stream of CCSDS 123.0-B-2, by any encoder",
    )
    add("--device", default="cpu", help="cpu, or the number of a GPU, for a model")
    add("-n", "--num-workers", type=natural_number, default=0, help="tiles decoded at a time; 0: one per core")
    add_scheduler_option(parser)
    add("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, by default the command line.

    Raises:
        UsageError: files are missing or too many, or flags contradict each other.
    """
    args = build_parser().parse_args(argv)
    if args.info is not None:
        return args
    if args.verify:
        is_folder = len(args.files) == 1 and Path(args.files[0]).is_dir()
        if args.output_dir or args.list or args.raw or args.window or args.bands or args.keep_going:
            raise UsageError("--verify writes nothing and compares whole scenes: leave the other flags out")
        if not (is_folder or len(args.files) == 2):
            raise UsageError("--verify: give a .hsc and its scene, or a folder that compress.py --output-dir filled")
        return args
    if args.output_dir is None:
        if args.list is not None or len(args.files) != 2:
            raise UsageError(
                "give an INPUT and an OUTPUT, such as scene.hsc scene.tif, many inputs and --output-dir DIR, or "
                "--info FILE"
            )
        args.input, args.output = args.files
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Decompress a file, or print what it holds; return the exit status."""
    args = parse_args(argv)

    if args.info is not None:
        from coding.hsc.container import print_info  # late, so that --help and --info are quick

        return print_info(args.info)

    if args.verify:
        with lasting_imports():
            from coding.verifying import verify

        return verify(args)

    with lasting_imports():
        from coding.decompressing import decompress

    return decompress(args)


if __name__ == "__main__":
    run_script(main)
