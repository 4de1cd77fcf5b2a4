"""The wavelet of `klt-cm`: it is invertible, keeps the energy, and its subbands cover a plane."""

import numpy as np
import pytest

from coding.kltcm.wavelet import HH, HL, LH, LL, MARGIN, analyze, subbands, synthesize

SIZES = [(1, 1), (1, 6), (5, 1), (2, 2), (3, 7), (37, 50), (64, 64)]


@pytest.mark.parametrize("size", SIZES)
def test_synthesis_undoes_analysis(size):
    planes = np.random.default_rng(0).normal(size=(2, *size))
    assert np.allclose(synthesize(analyze(planes)), planes)


def test_synthesis_keeps_the_size_of_errors():
    errors = np.random.default_rng(0).normal(size=(4, 128, 128))
    assert np.square(synthesize(errors)).mean() == pytest.approx(1, abs=0.1)


def test_energy_of_smooth_planes_is_in_the_coarsest_subbands():
    y, x = np.mgrid[:64, :64] / 64
    coefficients = analyze((np.sin(3 * x) + y**2)[None])[0]
    outside = np.square(coefficients).sum() - np.square(coefficients[:8, :8]).sum()
    assert outside < 0.01 * np.square(coefficients).sum()


@pytest.mark.parametrize("size", SIZES)
def test_subbands_cover_a_plane_once(size):
    layout = subbands(*size)
    assert sorted(layout.scan) == sorted(layout.places.ravel()) and len(set(layout.scan)) == size[0] * size[1]
    assert np.array_equal(layout.places.ravel()[layout.order], layout.scan)
    assert layout.counts.sum() == size[0] * size[1]
    assert (np.diff(layout.level) <= 0).all() and layout.orientation[0] == LL


@pytest.mark.parametrize("size", SIZES)
def test_neighbors_beyond_the_edges_are_in_the_padding(size):
    layout = subbands(*size)
    is_padding = np.ones(layout.size, bool)
    is_padding[layout.scan] = False
    assert is_padding[0]
    assert layout.scan.min() >= 3 * layout.stride[0] and layout.scan.max() + 2 * layout.stride[-1] < layout.size
    end = 0
    for stride, count in zip(layout.stride, layout.counts, strict=True):
        start, end = end, end + count
        block = layout.scan[start:end].reshape(-1, stride - 2 * MARGIN)
        assert (np.diff(block, axis=1) == 1).all() and (np.diff(block, axis=0) == stride).all()
        rim = [block[:, 0] - 3, block[:, -1] + 3, block[0] - stride, block[0] - 3 * stride]
        assert is_padding[np.concatenate([*rim, block[-1] + stride])].all()


@pytest.mark.parametrize("size", SIZES)
def test_parents_and_siblings_are_at_the_same_place(size):
    """Compare with indices found by coordinates within each subband."""
    layout = subbands(*size)
    starts = np.append(0, layout.counts.cumsum())
    found = {}
    for b, key in enumerate(zip(layout.level.tolist(), layout.orientation.tolist(), strict=True)):
        found[key] = layout.scan[starts[b] : starts[b + 1]].reshape(-1, layout.stride[b] - 2 * MARGIN)

    def at(block, y, x):
        return 0 if block is None else block[min(y, len(block) - 1), min(x, block.shape[1] - 1)]

    n = 0
    for (level, orientation), block in found.items():
        parent = None if orientation == LL else found.get((level + 1, orientation), found[layout.levels, LL])
        siblings = {LL: (None, None), HL: (None, None), LH: (HL, HL), HH: (HL, LH)}[orientation]
        for y, x in np.ndindex(block.shape):
            assert layout.parents[n] == at(parent, y >> 1, x >> 1)
            assert layout.siblings[n].tolist() == [at(found.get((level, sibling)), y, x) for sibling in siblings]
            n += 1
