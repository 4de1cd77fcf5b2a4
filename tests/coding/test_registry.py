"""The registry: names and numbers that files depend on, and entries that can be loaded."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from coding import COMPARED, PLANE_CODERS, codecs
from coding.samples import Samples

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = {
    "klt-cm": 1,
    "learned": 2,
    "jpeg2000": 3,
    "jpeg2000-mc": 4,
    "htj2k": 5,
    "jpegxl": 6,
    "jpegls": 7,
    "klt-jpeg2000": 8,
    "klt-jpegxl": 9,
    "klt-sperr": 10,
    "pca-float32": 11,
    "sperr": 12,
    "sz3": 13,
    "zfp": 14,
    "aec": 15,
    "ccsds123": 16,
    "factorized": 17,
    "ccsds123-tuned": 18,
}


def test_names_and_numbers_never_change():
    assert {name: entry.number for name, entry in codecs.items()} == NUMBERS


def test_format_documentation_lists_all_codecs():
    rows = re.findall(r"^\| (\d+) \| `([\w-]+)` \|", (ROOT / "docs/format.md").read_text(), re.MULTILINE)
    assert {name: int(number) for number, name in rows} == NUMBERS


def test_all_but_learned_and_factorized_are_compared():
    assert set(NUMBERS) - set(COMPARED) == {"learned", "factorized"}


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "learned"])
def test_every_entry_makes_a_factory(name):
    factory = codecs[name].make_factory(Samples("uint16"))
    assert factory.lossy or factory.lossless
    assert factory.finest < factory.first < factory.coarsest


def test_plane_coders_are_codecs_of_integers_without_loss():
    assert list(PLANE_CODERS) == ["context", "jpegxl", "factorized"]
    for name in PLANE_CODERS.values():
        assert codecs[name].make_factory(Samples("uint16")).lossless


def test_names_are_listed_without_importing_anything_heavy():
    code = "import sys, coding; print([m for m in ('numpy', 'numba', 'torch', 'imagecodecs') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
