"""Convert a hyperspectral product to a scene that the other scripts read: GeoTIFF, ENVI or numpy's `.npy`.

    python -m datasets.convert PRS_L2D_STD_....he5 SCENE.tif                 # PRISMA L2B, L2C, L2D
    python -m datasets.convert EMIT_L2A_RFL_....nc SCENE.tif --ortho         # EMIT L2A
    python -m datasets.convert NEON_D02_SERC_....h5 SCENE.tif                # NEON AOP reflectance
    python -m datasets.convert DESIS-HSI-L2A-...-METADATA.xml SCENE.tif      # DESIS, EnMAP
    python -m datasets.convert Indian_pines.mat SCENE.npy --variable indian_pines --order rcb

Samples keep their type and values. Wavelengths, widths, scales, offsets and coordinates are kept where the format of
the output can hold them. Notes say what of the product is not converted.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.gdal import BLOCK
from datasets.preprocess import row_windows
from datasets.products import Options, Product, open_product
from datasets.scenes import FORMATS, create_scene, losses_of_writing, settle_losses
from utils.files import check_output
from utils.scripts import run_script

ORDERS = ["".join(letters) for letters in itertools.permutations("rcb")]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("input", help="the product")
    add("output", help=f"the file to write: {', '.join(filter(None, FORMATS))}")
    add("--variable", help="name of the array in a .mat or in HDF5 of another product, if there are several")
    add(
        "--order",
        choices=ORDERS,
        default="rcb",
        metavar="ORDER",
        help="dimensions of that array: r rows, c columns, b bands (default: %(default)s)",
    )
    add("--ortho", action="store_true", help="arrange the pixels of EMIT by its lookup table: a map, north at the top")
    add("--drop", nargs="+", default=[], metavar="NAME", help="lose what an error names and the output cannot keep")
    add("--overwrite", action="store_true", help="replace the output if it exists")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    args = parse_args(argv)
    output = check_output(args.output, args.input, args.overwrite)
    with open_product(Path(args.input), Options(args.variable, args.order, args.ortho)) as product:
        settle_losses(args.input, product.losses, args.drop)
        settle_losses(args.output, losses_of_writing(output, product.info), args.drop)
        for note in product.notes:
            print(f"note: {args.input}: {note}", file=sys.stderr)
        write(product, output)
    info = product.info
    print(f"{output}: {info.height} x {info.width} pixels, {info.bands} bands of {info.dtype}")
    return 0


def write(product: Product, output: Path) -> None:
    """Write a product as a scene, in bounded memory.

    Raises:
        DatasetError: the product is damaged.
        OSError: `output` cannot be written.
    """
    info = product.info
    with create_scene(output, info) as target:
        for row, height in row_windows(info, BLOCK):
            target.write(row, 0, np.ascontiguousarray(product.read(row, height)))
            if product.read_masks:
                target.write_masks(row, 0, product.read_masks(row, height))


if __name__ == "__main__":
    run_script(main)
