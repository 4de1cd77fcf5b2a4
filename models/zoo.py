"""Download the published weights into results/weights/, checked.

    python -m models.zoo                         # what there is: model, method, rate, PSNR, address
    python -m models.zoo cae1d_2bpppc sscnet     # some of it
    python -m models.zoo all

A file takes its place under `--save-dir` once it is complete and loads strictly into its model; until
then, after an error and after Ctrl-C, what was there before stays. The table is `models/published.csv`:
rate and PSNR are the publishers' figures on the HySpecNet-11k test set, easy split.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from utils.errors import CheckpointError, ProjectError, UsageError, run_script
from utils.files import atomic_write

TABLE = Path(__file__).with_name("published.csv")
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 16  # bytes
USER_AGENT = "hyspecnet-compression (python -m models.zoo)"  # some servers turn Python's own away


class DownloadError(ProjectError):
    """Published weights that could not be fetched, or are not what the table says."""


@dataclass(frozen=True)
class Published:
    """A row of the table: weights that the authors of HySpecNet-11k trained and published."""

    model: str
    """Name in `models.models`."""
    method: str
    """Name of the method in the literature."""
    file: str
    """Name of the file; without `.pth.tar` it is another accepted name of the model."""
    bpppc: float
    """Rate in bits per pixel per channel."""
    psnr: float
    """Mean PSNR in dB on the test set, easy split."""
    url: str
    reference: str
    """The paper of the method."""
    verified: bool
    """Whether the architecture in `models/` is known to be the one of these weights."""

    @property
    def stem(self) -> str:
        return self.file.removesuffix(".pth.tar")


def published() -> list[Published]:
    """The rows of the table that have weights, in the order in which it is printed."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        return [
            Published(
                model=row["model"],
                method=row["method"],
                file=row["file"],
                bpppc=float(row["bpppc"]),
                psnr=float(row["psnr"]),
                url=row["url"],
                reference=row["reference"],
                verified=row["verified"] == "yes",
            )
            for row in csv.DictReader(file)
            if row["file"]  # figures alone are published too
        ]


def select(names: Sequence[str]) -> list[Published]:
    """The rows for `names`: names of models or files, or `all`; each row once, in the order asked for.

    Raises:
        UsageError: no weights were published under one of the names.
    """
    rows = published()
    by_name = {row.model: row for row in rows} | {row.stem: row for row in rows}
    chosen = []
    for name in names:
        if name != "all" and name not in by_name:
            raise UsageError(f"no published weights {name!r}; there are: {', '.join(by_name)}, all")
        chosen += rows if name == "all" else [by_name[name]]
    return list(dict.fromkeys(chosen))


def listing(rows: Sequence[Published]) -> str:
    """The table as text, with notes on what can be expected of it."""
    lines = [f"{'model':<14} {'method':<11} {'bpppc':>5} {'PSNR/dB':>7}  address"]
    lines += [f"{row.model:<14} {row.method:<11} {row.bpppc:5.2f} {row.psnr:7.2f}  {row.url}" for row in rows]
    unverified = ", ".join(row.model for row in rows if not row.verified)
    lines += [
        "",
        f"The architectures of {unverified} could not be confirmed: these weights may not load.",
        "python -m models.zoo NAME ... saves them in results/weights/, ready for test.py --checkpoint.",
    ]
    return "\n".join(lines)


def obtain(row: Published, path: Path, overwrite: bool = False) -> str:
    """Have the weights of `row` at `path`: keep a file that loads, else `download`. Says what was done.

    Raises:
        DownloadError: as `download`, or the file at `path` does not load and is not to be overwritten.
    """
    if path.is_file() and not overwrite:
        try:
            check(row, path)
        except (CheckpointError, OSError) as error:
            raise DownloadError(
                f"{row.model}: {path} does not load: {error}; --overwrite replaces it from {row.url}"
            ) from None
        return f"{row.model}: {path} is there and loads: kept"
    download(row, path)
    return f"{row.model}: saved {path}"


def download(row: Published, path: Path) -> None:
    """Fetch the weights of `row` to `path`, whose old content stays until the new one has been checked.

    Raises:
        DownloadError: not to be had, not complete, not the weights of this model, or not writable.
    """
    by_hand = f"try again later, or save the file by hand as {path}"
    try:
        with atomic_write(path) as file:
            for chunk in _chunks(row, by_hand):
                file.write(chunk)
            file.flush()
            try:
                check(row, Path(file.name))
            except CheckpointError as error:
                raise DownloadError(f"{row.model}: what {row.url} sent does not load: {error}; {by_hand}") from None
    except OSError as error:
        raise DownloadError(
            f"{row.model}: {row.url} cannot be saved as {path}: {error.strerror}; "
            "make room there or choose another --save-dir"
        ) from None


def check(row: Published, path: Path) -> None:
    """Load the file at `path` strictly into the model of `row`.

    Raises:
        CheckpointError: it is no checkpoint, or another model's. The message, one line, calls the file
            "it": the caller knows a better name than that of a temporary file.
    """
    with open(path, "rb") as file:
        if file.read(256).lstrip().startswith(b"<"):
            raise CheckpointError("it is a web page, not a checkpoint")
    # Here and not at the top: PyTorch and CompressAI take seconds, which the listing can do without.
    from models import models
    from utils.checkpoint import load_state_dict

    try:
        models[row.model]().load_state_dict(load_state_dict(path), strict=True)
    except (CheckpointError, RuntimeError) as error:
        raise CheckpointError("; ".join(str(error).replace(str(path), "it").splitlines())) from None


def _chunks(row: Published, by_hand: str) -> Iterator[bytes]:
    """The bytes at the address of `row`, with a progress bar; `by_hand` ends the messages of errors."""
    request = urllib.request.Request(row.url, headers={"User-Agent": USER_AGENT})
    received = 0
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            length = response.length  # None where the server does not say
            # disable=None: no bar where stderr is a file
            with tqdm(desc=row.model, total=length, unit="B", unit_scale=True, leave=False, disable=None) as bar:
                while chunk := response.read(CHUNK):
                    yield chunk
                    received += len(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{row.model}: {row.url} answers {error.code} {error.reason}; {by_hand}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)  # what a URLError wraps
        raise DownloadError(
            f"{row.model}: {row.url} cannot be reached: {str(reason) or type(reason).__name__}; "
            f"check the network, {by_hand}"
        ) from None
    if length is not None and received != length:
        raise DownloadError(f"{row.model}: {row.url} broke off after {received} of {length} bytes; {by_hand}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.zoo", description="List or download the published weights.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="models to fetch, or all; without a name, list what there is"
    )
    parser.add_argument(
        "--save-dir", type=Path, default=Path("results/weights/"), help="folder for the files (%(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="fetch again what is already there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if not args.names:
        print(listing(published()))
        return 0
    rows = select(args.names)
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
