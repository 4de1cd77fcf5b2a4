"""Download the published weights into results/weights/ and check them.

    python -m models.zoo                         # list them: model, method, rate, PSNR, address
    python -m models.zoo cae1d_2bpppc sscnet     # download some
    python -m models.zoo all

A file in `--save-dir` is replaced only when the new one is complete and loads strictly into its model: an error
or Ctrl-C leaves the old file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.published import Published, read_published
from utils.errors import UsageError
from utils.scripts import run_script


def select(names: Sequence[str]) -> list[Published]:
    """Return the rows of the table for names of models or files, or `all`: each row once, in the order of `names`.

    Raises:
        UsageError: no weights were published under one of the names.
    """
    rows = read_published()
    by_name = {row.model: row for row in rows} | {row.stem: row for row in rows}
    chosen = []
    for name in names:
        if name != "all" and name not in by_name:
            raise UsageError(f"no published weights {name!r}; there are: {', '.join(by_name)}, all")
        chosen += rows if name == "all" else [by_name[name]]
    return list(dict.fromkeys(chosen))


def listing(rows: Sequence[Published]) -> str:
    """Return the table as text, with notes."""
    lines = [f"{'model':<14} {'method':<11} {'bpppc':>5} {'PSNR/dB':>7}  address"]
    lines += [f"{row.model:<14} {row.method:<11} {row.bpppc:5.2f} {row.psnr:7.2f}  {row.url}" for row in rows]
    unverified = ", ".join(row.model for row in rows if not row.verified)
    lines += [
        "",
        f"The architectures of {unverified} could not be confirmed: these weights may not load.",
        "python -m models.zoo NAME ... saves them in results/weights/, ready for test.py --checkpoint.",
    ]
    return "\n".join(lines)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.zoo", description="List or download the published weights.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to download, or all; no name lists them")
    parser.add_argument(
        "--save-dir", type=Path, default=Path("results/weights/"), help="folder for the files (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    args = parse_args(argv)
    if not args.names:
        print(listing(read_published()))
        return 0
    rows = select(args.names)

    from models.download import DownloadError, obtain

    failed = []
    for row in rows:
        try:
            print(obtain(row, args.save_dir / row.file, args.overwrite))
        except DownloadError as error:
            print(f"error: {error}", file=sys.stderr)
            failed.append(row.model)
    if failed and len(rows) > 1:
        print(f"error: {len(failed)} of {len(rows)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
