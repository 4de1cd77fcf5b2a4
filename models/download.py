"""Download published weights and check that they load into their model."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from models import models
from models.published import Published
from utils.checkpoint import load_state_dict
from utils.errors import BusyError, CheckpointError, ProjectError, one_line
from utils.files import atomic_write

STALL_SECONDS = 30  # a connection without a byte for so long is given up
CHUNK_BYTES = 1 << 16
USER_AGENT = "hyspecnet-compression (python -m models.zoo)"  # some servers refuse Python's default


class DownloadError(ProjectError):
    """Published weights cannot be downloaded, saved or loaded into their model."""


def obtain(row: Published, path: Path, overwrite: bool = False) -> str:
    """Keep the file at `path` if it loads, else download it.

    Args:
        row: the weights.
        path: their file.
        overwrite: download even if the file loads.

    Returns:
        A one-line message that says what was done.

    Raises:
        DownloadError: as in `download`, or the file at `path` does not load and `overwrite` is false.
    """
    if path.is_file() and not overwrite:
        try:
            check(row, path)
        except (CheckpointError, OSError) as error:
            raise DownloadError(
                f"{row.model}: {path} does not load: {error}; --overwrite replaces it from {row.url}"
            ) from None
        return f"{row.model}: {path} exists and loads: kept"
    download(row, path)
    return f"{row.model}: saved {path}"


def download(row: Published, path: Path) -> None:
    """Download the weights of `row` to `path`, whose old content stays until the new one has been checked.

    Raises:
        DownloadError: the weights are unavailable, incomplete or of another model, or `path` cannot be written, or is
            being written by another process.
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
                raise DownloadError(f"{row.model}: the file from {row.url} does not load: {error}; {by_hand}") from None
    except BusyError:
        raise DownloadError(f"{row.model}: another process is downloading {path}: wait for it") from None
    except OSError as error:
        raise DownloadError(
            f"{row.model}: {row.url} cannot be saved as {path}: {error.strerror}; "
            "make room there or choose another --save-dir"
        ) from None


def check(row: Published, path: Path) -> None:
    """Load the file at `path` strictly into the model of `row`.

    Raises:
        CheckpointError: the file is no checkpoint, or one of another model. The one-line message calls it
            "it", because the caller has a better name than that of a temporary file.
    """
    with open(path, "rb") as file:
        if file.read(256).lstrip().startswith(b"<"):
            raise CheckpointError("it is a web page, not a checkpoint")
    try:
        models[row.model]().load_state_dict(load_state_dict(path), strict=True)
    except (CheckpointError, RuntimeError) as error:
        raise CheckpointError(one_line(error).replace(str(path), "it")) from None


def _chunks(row: Published, by_hand: str) -> Iterator[bytes]:
    """Yield the bytes at the address of `row`, with a progress bar; `by_hand` ends the messages of errors."""
    request = urllib.request.Request(row.url, headers={"User-Agent": USER_AGENT})
    received = 0
    try:
        with urllib.request.urlopen(request, timeout=STALL_SECONDS) as response:
            length = response.length  # None if the server does not send it
            # disable=None: no bar unless stderr is a terminal
            with tqdm(desc=row.model, total=length, unit="B", unit_scale=True, leave=False, disable=None) as bar:
                while chunk := response.read(CHUNK_BYTES):
                    yield chunk
                    received += len(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{row.model}: {row.url} answers {error.code} {error.reason}; {by_hand}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)  # URLError wraps the cause
        message = reason if isinstance(reason, str) else one_line(reason)
        raise DownloadError(
            f"{row.model}: {row.url} cannot be reached: {message}; check the network, {by_hand}"
        ) from None
    if length is not None and received != length:
        raise DownloadError(f"{row.model}: {row.url} broke off after {received} of {length} bytes; {by_hand}")
