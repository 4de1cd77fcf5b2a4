"""The figures of `benchmark.py rd`: what they draw, and how they tell codecs apart."""

import math
import warnings

import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from benchmarks.rd import figures
from benchmarks.rd.figures import codec_styles, write_figures
from benchmarks.report import save_png

CODECS = [
    *("jpeg2000", "jpeg2000-mc", "klt-jpeg2000", "klt-jpegxl", "klt-sperr", "pca-float32", "jpegls", "jpegxl"),
    *("htj2k", "sperr", "sz3", "zfp", "aec", "ccsds123", "ccsds123-tuned"),
    *("cae1d", "cae1d float32", "sscnet", "sscnet float32"),
]
NAMES = ("psnr", "ssim", "spectral_angle", "encoding", "decoding", "bands")
PUBLISHED = pd.DataFrame({"method": ["A", "A", "B"], "bpppc": [1.0, 2.0, 2.0], "psnr": [50.0, 52.0, 51.0]})


def mean(codec, kind, bpppc, psnr):
    return {
        **{"codec": codec, "kind": kind, "bpppc": bpppc, "psnr": psnr, "ssim": 1.0 if psnr is None else 1 - 1 / psnr},
        **{"sa": 0.0 if psnr is None else 90 / psnr, "encoding_mbps": 10 * bpppc, "decoding_mbps": 20 * bpppc},
    }


def means_of(codecs):
    means = []
    for number, codec in enumerate(codecs):
        if codec.endswith(" float32"):
            means.append(mean(codec, "fixed", 8.08, 50.0))
        elif codec == "aec":
            means.append(mean(codec, "lossless", 5.0, None))
        else:
            means += [mean(codec, "lossy", rate, 60 - number + 6 * math.log2(rate)) for rate in (0.5, 1, 2)]
            means += [mean(codec, "bounded", 0.7, 70.0), mean(codec, "quantized", 0.6, 65.0)]
            means.append(mean(codec, "lossless", 4.0 + number / 10, None))
    return means


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """draw(means, bands={}, published=no points, save=False) -> the figures by the name of their file.

    Warnings are errors. Figures are laid out, which takes most of the time, only with `save`.
    """
    saved = {}

    def draw(means, bands=None, published=PUBLISHED[:0], save=False):
        def save_small(figure, path, dpi):
            saved[path.stem] = figure
            if save:
                save_png(figure, path, dpi=20)
            else:
                path.touch()

        monkeypatch.setattr(figures, "save_png", save_small)
        saved.clear()
        means = pd.DataFrame(means).astype({"psnr": float})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            written = write_figures(tmp_path, means, list(means["codec"].unique()), bands or {}, 0.5, published)
        assert set(written) == set(saved)
        return dict(saved)

    return draw


def drawn(axes):
    return [list(map(tuple, line.get_xydata())) for line in axes.get_lines()]


def legend_of(figure, number=0):
    return [text.get_text() for text in figure.legends[number].get_texts()]


def test_codecs_are_told_apart():
    styles = codec_styles(CODECS)
    looks = [tuple(style.get(key) for key in ("color", "marker", "markerfacecolor")) for style in styles.values()]
    assert len(set(looks)) == len(CODECS)
    assert list(styles) == CODECS


def test_codecs_of_a_group_share_its_color():
    styles = codec_styles([*CODECS, "another"])
    groups = (
        {"klt-jpegxl", "klt-sperr", "pca-float32"},
        {"sperr", "sz3", "zfp"},
        {"jpeg2000", "jpeg2000-mc", "jpegls"},
        {"cae1d", "sscnet float32", "another"},
    )
    colors = [{styles[codec]["color"] for codec in group} for group in groups]
    assert all(len(color) == 1 for color in colors) and len(set.union(*colors)) == len(groups)


def test_a_style_does_not_depend_on_the_order():
    assert codec_styles(CODECS[::-1])["sz3"] == codec_styles(CODECS)["sz3"]


def test_all_codecs_fit(draw, tmp_path):
    """Nothing is squeezed, and legends lie next to the axes and within the figure, with codecs in the order given."""
    bands = {codec: [50.0 + band for band in range(40)] for codec in CODECS[:3]}
    figures = draw(means_of(CODECS), bands, PUBLISHED, save=True)
    assert set(figures) == set(NAMES)
    for name, figure in figures.items():
        figure.draw_without_rendering()  # what is saved was laid out for fewer pixels
        boxes = [legend.get_window_extent() for legend in figure.legends]
        right = max(axes.get_tightbbox().x1 for axes in figure.axes)
        assert all(box.x0 >= right - 1 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 + 1 for box in boxes), name
        assert not any(a.overlaps(b) for a in boxes for b in boxes if a is not b), name
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert legend_of(figures["psnr"])[: len(CODECS)] == CODECS


def test_a_curve_is_the_lossy_points(draw):
    figures = draw(means_of(["sperr"]))
    expected = {"psnr": [54, 60, 66], "ssim": [1 / 54, 1 / 60, 1 / 66], "spectral_angle": [90 / 54, 90 / 60, 90 / 66]}
    for name, values in expected.items():
        (curve,) = drawn(figures[name].axes[-1])
        assert [rate for rate, _ in curve] == [0.5, 1, 2]
        assert [value for _, value in curve] == pytest.approx(values)
    assert drawn(figures["encoding"].axes[0]) == [[(5, 54), (10, 60), (20, 66)]]
    assert drawn(figures["decoding"].axes[0]) == [[(10, 54), (20, 60), (40, 66)]]


def test_lossless_rates_have_a_strip_of_their_own(draw):
    strip, axes = draw(means_of(["sperr", "aec"]))["psnr"].axes
    assert sorted(point[0] for (point,) in drawn(strip)) == [4.0, 5.0]
    heights = {point[0]: point[1] for (point,) in drawn(strip)}
    assert heights[4.0] > heights[5.0]
    assert len(drawn(axes)) == 1


def test_published_points_are_hollow_gray_markers_without_lines(draw):
    figures = draw(means_of(["sperr"]), published=PUBLISHED)
    marks = figures["psnr"].axes[1].get_lines()[1:]
    assert sorted(point for line in marks for point in map(tuple, line.get_xydata())) == sorted(
        zip(PUBLISHED["bpppc"], PUBLISHED["psnr"], strict=True)
    )
    for line in marks:
        assert line.get_linestyle() == "None" and line.get_markerfacecolor() == "none"
        assert to_rgba(line.get_markeredgecolor()) == to_rgba("gray")
    assert legend_of(figures["psnr"], 1) == ["A", "B"]
    assert "HySpecNet-11k" in figures["psnr"].legends[1].get_title().get_text()
    assert all(len(figures[name].legends) == 1 for name in figures if name != "psnr")


def test_exact_bands_are_gaps(draw):
    (line,) = drawn(draw(means_of(["sperr"]), {"sperr": [40.0, None, 42.0]})["bands"].axes[0])
    assert [point[1] for point in line] == pytest.approx([40, math.nan, 42], nan_ok=True)


def test_a_lossy_point_without_error_is_not_drawn(draw):
    figures = draw([mean("sperr", "lossy", 1, 60.0), mean("sperr", "lossy", 8, None)])
    for name in ("psnr", "ssim", "spectral_angle", "encoding"):
        assert [len(line) for line in drawn(figures[name].axes[-1])] == [1]


def test_a_figure_without_points_is_deleted(draw, tmp_path):
    draw(means_of(["sperr"]), {"sperr": [40.0]})
    assert set(draw(means_of(["aec"]))) == {"psnr"}
    assert {path.name for path in tmp_path.iterdir()} == {"psnr.png"}


def test_equal_points_make_equal_files(draw, tmp_path):
    contents = []
    for _ in range(2):
        draw([mean("sperr", "lossless", 4.0, None)], save=True)
        contents.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert contents[0] == contents[1] and set(contents[0]) == {"psnr.png"}
