"""README and docs agree with the code: links, tables, commands, figures and examples."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import models as registry
from benchmarks import pages
from coding import codecs
from coding.samples import CubeSamples
from models import aliases
from models.published import read_published

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
READMES = ("datasets/sample/README.md", "results/weights/sample/README.md")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in READMES)]


def read(path):
    return path.read_text(encoding="utf-8")


def anchors(text):
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_have_targets(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(read(target)), link


def test_readme_is_short():
    lines = read(README).splitlines()
    assert len(read(README).encode()) <= 15_000 and len(lines) <= 250
    assert max(map(len, lines)) <= 120


def test_table_of_weights_is_the_published_one():
    text = read(README)
    lines = text[text.index("| method |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    numbers = {"1D-CAE": "3", "1D-CAE-Adv": "4", "1D-CAE-Ext": "5", "SSCNet": "6", "3D-CAE": "7", "HyCoT": "8"}
    for cells, row in zip(rows, read_published(), strict=True):
        assert cells[0] == f"{row.method} [{numbers[row.method]}]"
        assert cells[1] == f"`{row.model}`" + ("" if row.verified else " ¹")
        assert cells[2:4] == [f"{row.bpppc:.2f}", f"{row.psnr:.2f}"]
        assert cells[4] == f"[`{row.stem}`]" and f"\n[`{row.stem}`]: {row.url}\n" in text
    assert all(f"`{alias}`" in text for alias in aliases)


def commands(text):
    """Yield the commands in a page's shell blocks: script name and arguments."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:python|torchrun) [^#]*?\b(train|test|compress|decompress|benchmark)\.py(.*)", line)
            if found:
                yield found[1], found[2].partition("#")[0].split()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(commands(read(page)))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_commands_use_existing_flags(page, actions_of):
    for script, words in commands(read(page)):
        command = f"{script} {words[0]}" if script == "benchmark" else script
        known = {option for action in actions_of(command).values() for option in action.option_strings}
        flags = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert flags <= known, (command, flags - known)


def test_table_of_codecs_is_the_registry():
    """Names and modes are compared, except the modes of `learned`, which depend on its model."""
    text = read(ROOT / "docs/compressing.md")
    found = {}
    for line in text[text.index("| codec |") :].split("\n\n")[0].splitlines()[2:]:
        names, *modes, _ = [cell.strip() for cell in line.strip("|").split("|")]
        found |= {name: [mode == "yes" for mode in modes] for name in re.findall(r"`([\w-]+)`", names)}
    assert set(found) == set(codecs)
    cube = np.zeros((2, 8, 8), np.uint16)
    samples = CubeSamples(cube, np.ones(cube.shape, bool), 10_000)
    for name, entry in codecs.items():
        if not entry.has_weights:
            factory = entry.make_factory(samples)
            assert found[name] == [mode is not None for mode in (factory.lossless, factory.bounded, factory.lossy)]


def test_figures_are_those_of_the_reports():
    """`make docs` would change nothing."""
    for page in pages.PAGES:
        text = read(ROOT / page)
        assert pages.fill_blocks(text) == text, page


def test_example_model_of_the_docs_trains(data_flags, scripts, tmp_path, monkeypatch):
    text = read(ROOT / "docs/extending.md")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    module = types.ModuleType("models.linear")
    monkeypatch.setitem(sys.modules, "models.linear", module)
    exec(compile(code, "docs/extending.md", "exec"), module.__dict__)
    monkeypatch.setitem(registry._MODULES, "linear", "linear")
    flags = ["-m", "linear", "--devices", "cpu", "-n", "0", "-e", "1", "--save-dir", str(tmp_path)]
    assert scripts.train.main([*data_flags(), *flags]) == 0
    model = module.linear(12)
    assert type(model).from_state_dict(model.state_dict(), 12).bpppc == model.bpppc
