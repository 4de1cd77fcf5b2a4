"""Compare the published table with the registry, and download from a server on this machine."""

from __future__ import annotations

import csv
import io
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from models import aliases, download, models, published, zoo
from models.published import read_published
from utils.checkpoint import load_state_dict
from utils.errors import UsageError
from utils.files import atomic_write

GOOD, OTHER = "cae1d", "cae1d_4bpppc"  # the two smallest models


def published_file(model: str) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": models[model]().state_dict()}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def good_file() -> bytes:
    return published_file(GOOD)


class Site:
    """A web server on this machine and a copy of the published table whose addresses lead to it."""

    def __init__(self, table: Path) -> None:
        self.table = table
        self.pages: dict[str, tuple[int, bytes]] = {}
        self.sent_of_length = 1.0  # the share of a page after which the connection closes
        self.stalled = threading.Event()
        self.stall = False  # keep the connection open at that point, without a byte
        self.user_agents: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.user_agents.append(self.headers["User-Agent"])
                status, body = site.pages.get(self.path, (404, b"<html>no such page</html>"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: round(site.sent_of_length * len(body))])
                if site.stall:
                    site.stalled.wait(20)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        rows = list(csv.DictReader(published.TABLE.read_text(encoding="utf-8").splitlines()))
        for row in rows:
            row["url"] = f"{self.address}/{row['file']}"
        with open(table, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    def serve(self, model: str, body: bytes, status: int = 200) -> None:
        (row,) = (row for row in read_published() if row.model == model)
        self.pages[f"/{row.file}"] = status, body


@pytest.fixture
def site(tmp_path_factory, monkeypatch):
    site = Site(tmp_path_factory.mktemp("table") / "published.csv")
    monkeypatch.setattr(published, "TABLE", site.table)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.stalled.set()
    site.server.shutdown()
    thread.join()
    site.server.server_close()


@pytest.fixture
def fetch(tmp_path, capsys):
    """fetch(*argv) -> (status, output, lines of errors) of the script."""

    def run(*argv: str) -> tuple[int, str, list[str]]:
        status = zoo.main([*argv, "--save-dir", str(tmp_path)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err.splitlines()

    return run


def path_of(model: str, folder: Path) -> Path:
    (row,) = (row for row in read_published() if row.model == model)
    return folder / row.file


# The table


def test_the_table_has_every_model_at_its_rate():
    rows = read_published()
    assert {row.model for row in rows} == {name for name in models if not name.startswith(("hycass", "ours"))}
    for row in rows:
        with torch.device("meta"):
            rate = models[row.model]().bpppc
        assert round(rate, 2) == row.bpppc, row.model


def test_guessed_architectures_are_marked():
    assert [row.model for row in read_published() if not row.verified] == ["cae1da", "cae1de"]


def test_files_are_named_as_models_or_their_aliases():
    for row in read_published():
        assert aliases.get(row.stem, row.stem) == row.model
        assert row.url.endswith(f"/{row.file}") and row.url.startswith("https://")


def test_names_and_aliases_select_rows_once():
    selected = zoo.select(["cae3d_2bpppc", "cae1d", "cae3d"])
    assert [row.model for row in selected] == ["cae3d", "cae1d"]
    assert zoo.select(["cae1d", "all"])[0].model == "cae1d"
    assert len(zoo.select(["cae1d", "all"])) == len(read_published())
    for alias, model in aliases.items():
        assert [row.model for row in zoo.select([alias])] == [model]


def test_an_unknown_name_is_wrong_usage(fetch):
    with pytest.raises(UsageError, match=r"'cae2d'.*cae1d_1bpppc.*all"):
        fetch("cae2d")


def test_the_listing_shows_the_table(fetch):
    status, out, _ = fetch()
    assert status == 0
    for row in read_published():
        (line,) = (line for line in out.splitlines() if line.endswith(row.url))
        assert line.split()[:4] == [row.model, row.method, f"{row.bpppc:.2f}", f"{row.psnr:.2f}"]
    assert "cae1da, cae1de could not be confirmed" in out


def test_the_listing_and_the_help_do_not_import_torch():
    script = (
        "import sys; from models import zoo\n"
        "zoo.main([])\n"
        "try: zoo.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL).returncode == 0


# Downloads


def test_a_good_file_is_saved(site, fetch, tmp_path, good_file):
    site.serve(GOOD, good_file)
    path = path_of(GOOD, tmp_path)
    assert fetch(GOOD) == (0, f"{GOOD}: saved {path}\n", [])
    assert path.read_bytes() == good_file
    assert list(tmp_path.iterdir()) == [path]
    assert site.user_agents == [download.USER_AGENT]


def test_an_existing_file_is_checked_and_kept(site, fetch, tmp_path, good_file):
    path = path_of(GOOD, tmp_path)
    path.write_bytes(good_file)
    assert fetch(GOOD) == (0, f"{GOOD}: {path} exists and loads: kept\n", [])
    assert site.user_agents == []


def test_an_existing_file_that_does_not_load_is_reported_and_replaced_on_demand(site, fetch, tmp_path, good_file):
    site.serve(GOOD, good_file)
    path = path_of(GOOD, tmp_path)
    path.write_bytes(good_file[:1000])
    status, out, (error,) = fetch(GOOD)
    assert (status, out) == (1, "")
    assert error.startswith(f"error: {GOOD}: {path} does not load: it is damaged") and "--overwrite" in error
    assert path.read_bytes() == good_file[:1000]

    assert fetch(GOOD, "--overwrite")[0] == 0
    assert path.read_bytes() == good_file


def test_failures_leave_the_old_file_name_the_address_and_fetch_the_rest(site, fetch, tmp_path, good_file):
    site.serve(GOOD, good_file)
    old = path_of(OTHER, tmp_path)
    old.write_bytes(b"old")
    status, out, errors = fetch(OTHER, "cae1d_2bpppc", GOOD, "--overwrite")
    assert status == 1
    assert out.startswith(f"{GOOD}: saved")
    assert "404 Not Found" in errors[0]
    for error, model in zip(errors, (OTHER, "cae1d_2bpppc"), strict=False):
        assert error.startswith(f"error: {model}: {site.address}/{model}.pth.tar")
        assert f"save the file by hand as {path_of(model, tmp_path)}" in error
    assert errors[2:] == [f"error: 2 of 3 failed: {OTHER}, cae1d_2bpppc"]
    assert old.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == sorted([old, path_of(GOOD, tmp_path)])


def serve_half(site: Site, body: bytes) -> None:
    site.serve(GOOD, body)
    site.sent_of_length = 0.5


def serve_half_and_stall(site: Site, body: bytes) -> None:
    serve_half(site, body)
    site.stall = True


def serve_page(site: Site, body: bytes) -> None:
    site.serve(GOOD, b"\n<!DOCTYPE html><html>Please log in</html>")


def serve_noise(site: Site, body: bytes) -> None:
    site.serve(GOOD, body[::-1])


def serve_another_model(site: Site, body: bytes) -> None:
    site.serve(GOOD, published_file("sscnet_1bpppc"))


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (serve_half, "broke off after {half} of {whole} bytes"),
        (serve_half_and_stall, "timed out"),
        (serve_page, "it is a web page"),
        (serve_noise, "it is damaged or not a checkpoint"),
        (serve_another_model, "these weights do not belong to this"),
    ],
)
def test_other_content_is_refused_in_one_line(serve, reason, site, fetch, tmp_path, good_file, monkeypatch):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.5)
    serve(site, good_file)
    status, out, (error,) = fetch(GOOD)
    assert (status, out) == (1, "")
    assert reason.format(half=round(len(good_file) / 2), whole=len(good_file)) in error
    assert error.startswith(f"error: {GOOD}: ") and f"{site.address}/{GOOD}_8bpppc.pth.tar" in error
    assert ".tmp" not in error
    assert list(tmp_path.iterdir()) == []


def test_two_downloads_of_one_file_do_not_disturb_each_other(site, fetch, tmp_path, good_file):
    site.serve(GOOD, good_file)
    path = path_of(GOOD, tmp_path)
    with atomic_write(path) as file:  # as another process
        assert fetch(GOOD) == (1, "", [f"error: {GOOD}: another process is downloading {path}: wait for it"])
        file.write(good_file)
    assert fetch(GOOD) == (0, f"{GOOD}: {path} exists and loads: kept\n", [])


def test_an_unreachable_address_is_a_one_line_error(site, fetch, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    table = site.table.read_text().replace(site.address, f"http://127.0.0.1:{port}")
    site.table.write_text(table)
    status, _, (error,) = fetch(GOOD)
    assert status == 1
    assert "cannot be reached" in error and "refused" in error and "check the network" in error
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_a_one_line_error(site, tmp_path, capsys, good_file):
    site.serve(GOOD, good_file)
    (tmp_path / "file").write_text("")
    assert zoo.main([GOOD, "--save-dir", str(tmp_path / "file" / "weights")]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "cannot be saved" in error and "--save-dir" in error


def test_weights_of_an_unconfirmed_model_are_checked_too(site, fetch, good_file):
    site.serve("cae1da", published_file("sscnet_1bpppc"))
    status, _, (error,) = fetch("cae1da")
    assert status == 1
    assert "could not be confirmed" in error


def test_saved_weights_are_the_models(site, fetch, tmp_path):
    model = models[GOOD]()
    buffer = io.BytesIO()
    torch.save({"state_dict": model.state_dict()}, buffer)
    site.serve(GOOD, buffer.getvalue())
    fetch(GOOD)
    saved = load_state_dict(path_of(GOOD, tmp_path))
    assert all(torch.equal(saved[key], value) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_an_interrupt_leaves_no_half_file(site, tmp_path, good_file):
    serve_half_and_stall(site, good_file)
    script = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "import models.base  # prints no warning of CompressAI's\n"
        "from models import published, zoo\n"
        "from utils.scripts import run_script\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it\n"
        f"published.TABLE = Path({str(site.table)!r})\n"
        "run_script(zoo.main)"
    )
    folder = tmp_path / "weights"
    process = subprocess.Popen(
        [sys.executable, "-c", script, GOOD, "--save-dir", str(folder)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (folder.exists() and list(folder.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [path.name for path in folder.iterdir()] == [".cae1d_8bpppc.pth.tar.tmp"]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert list(folder.iterdir()) == []
