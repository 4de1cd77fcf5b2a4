"""The learned codec on cubes: round trips, bounds, rates, and decoders that round otherwise."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coding import PLANE_CODERS
from coding.base import BoundNotGuaranteed, CodingError, DamagedError
from coding.hsc.container import Reader
from coding.hsc.tiling import ArrayScene, Part, decompress_scene
from coding.learned.bounds import MARGIN
from coding.learned.codec import LearnedCodec
from coding.learned.network import weights_sha256
from coding.learned.tiles import open_tiles
from coding.rate_control import Wish

FINE = Wish(step=2.0**-6)


def codec(network, dtype, **kwargs):
    scale = 1.0 if dtype == "float32" else 10000.0
    return LearnedCodec(network, **{"wish": FINE, "scale": scale, **kwargs})


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
@pytest.mark.parametrize("coder", PLANE_CODERS)
def test_decoded_is_what_the_model_makes_of_quantized_latents(make_network, make_cube, dtype, coder):
    network, cube = make_network(), make_cube(dtype=dtype)
    data = codec(network, dtype, coder=coder).encode(cube)
    decoded = codec(network, dtype).decode(data)
    assert decoded.dtype == cube.dtype and decoded.shape == cube.shape
    scale = 1.0 if dtype == "float32" else 10000.0
    x = np.clip(cube.astype(np.float32) / scale, 0, 1)
    with torch.no_grad():
        exact = network.model(torch.from_numpy(x)[None])["x_hat"][0].numpy()
    errors = [np.square(a - x).mean() for a in (exact, decoded.astype(np.float32) / scale)]
    assert errors[1] < 1.1 * errors[0]
    assert 8 * len(data) / cube.size < 32  # not the float32 latents


SIDES = st.one_of(st.integers(1, 30), st.sampled_from([64, 127, 200]))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(SIDES, SIDES),
    bands=st.sampled_from([4, 12, 31]),
    dtype=st.sampled_from(["int16", "uint16", "float32"]),
    bound=st.sampled_from([0, 1, 5, 20, 300]),
    share=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    step=st.sampled_from([2.0**-8, 0.1, 4.0]),
    seed=st.integers(0, 99),
)
def test_bounds_hold_and_gaps_stay(make_network, make_cube, size, bands, dtype, bound, share, step, seed):
    cube = make_cube((bands, *size), dtype, seed)
    rng = np.random.default_rng(seed)
    nodata = {"int16": -32768, "uint16": 2000, "float32": float("nan")}[dtype]
    gaps = rng.random(size) < share
    cube[:, gaps] = nodata
    cube[rng.integers(bands), rng.random(size) < share / 2] = nodata
    unit = 1e-4 if dtype == "float32" else 1
    network, side = make_network(bands=bands), int(rng.choice([16, 128]))
    coded = codec(network, dtype, wish=Wish(step=step), max_error=bound * unit, nodata=nodata, tile_size=side)
    decoded = coded.decode(coded.encode(cube))
    valid = ~np.isnan(cube) if dtype == "float32" else cube != nodata
    assert np.array_equal(~np.isnan(decoded) if dtype == "float32" else decoded != nodata, valid)
    difference = np.abs(decoded[valid].astype(np.float64) - cube[valid])
    # Floats that stand for whole numbers are rounded themselves.
    assert difference.max(initial=0) <= bound * unit + (1e-7 if dtype == "float32" else 0)
    if bound == 0:
        assert np.array_equal(decoded[valid], cube[valid])


def test_other_floats_keep_their_bound(make_network, make_cube):
    cube = make_cube(dtype="float32") + np.random.default_rng(0).normal(0, 1e-3, (12, 20, 24)).astype(np.float32)
    bounded = codec(make_network(), "float32", max_error=0.002)
    decoded = bounded.decode(bounded.encode(cube))
    assert 0.001 < np.abs(decoded.astype(np.float64) - cube).max() <= 0.002
    with pytest.raises(CodingError, match="a bound of 0 needs integers"):
        codec(make_network(), "float32", max_error=0).encode(cube)


@pytest.mark.parametrize(("dtype", "nodata"), [("int16", 0), ("uint16", 65535), ("float32", 0.0)])
def test_no_valid_sample_comes_back_as_nodata(linear, dtype, nodata):
    """Where the model would say just that, here at the ends of reflectance."""
    cube = np.full((12, 8, 8), nodata, dtype)
    cube[:, ::2] = 1 if nodata == 0 else nodata - 1
    if dtype == "float32":
        cube[:, ::2] = -1e-6
    scale = {"int16": 1e4, "uint16": 65535.0, "float32": 1.0}[dtype]
    coded = codec(linear(channels=12), dtype, scale=scale, nodata=nodata, wish=Wish(step=4.0))
    decoded = coded.decode(coded.encode(cube))
    assert np.array_equal(decoded == nodata, cube == nodata)


def test_values_at_the_ends_of_the_type(make_network):
    for dtype in ("int16", "uint16"):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        cube = np.random.default_rng(0).choice([low, low + 1, 0, high], (12, 9, 9)).astype(dtype)
        for bound in (0, 3):
            bounded = codec(make_network(), dtype, max_error=bound)
            decoded = bounded.decode(bounded.encode(cube)).astype(int)
            assert np.abs(decoded - cube).max() <= bound


@pytest.mark.parametrize("name", ["cae1d_2bpppc", "cae1da", "sscnet_1bpppc", "cae3d_1bpppc"])
def test_every_family_codes_any_size(make_network, make_cube, name):
    network, cube = make_network(name), make_cube((12, 13, 21))
    for bound in (None, 4):
        bounded = codec(network, "int16", max_error=bound, tile_size=16)
        decoded = bounded.decode(bounded.encode(cube))
        assert decoded.shape == cube.shape
        assert bound is None or np.abs(decoded.astype(int) - cube).max() <= bound


def test_gaps_neither_cost_nor_disturb(make_network, make_cube):
    network, cube = make_network("sscnet_1bpppc"), make_cube((12, 32, 64))
    holed = cube.copy()
    holed[:, :, 32:] = -32768
    coded = codec(network, "int16", nodata=-32768, tile_size=64)
    whole, half = coded.encode(cube), coded.encode(holed)
    assert len(half) < 0.75 * len(whole)
    decoded = coded.decode(half).astype(int)
    # Away from the gap nothing has changed.
    left = coded.decode(coded.encode(np.ascontiguousarray(cube[:, :, :32]))).astype(int)
    error = [np.abs(x[:, :, :32] - cube[:, :, :32]).mean() for x in (decoded, left)]
    assert error[0] < 1.2 * error[1]


# -- rate control ---------------------------------------------------------------------------------


def test_finer_steps_cost_more_and_lose_less(linear, make_cube):
    cube, sizes, errors = make_cube(), [], []
    for step in (1.0, 0.1, 0.01):
        coded = codec(linear(), "int16", wish=Wish(step=step))
        data = coded.encode(cube)
        sizes.append(len(data))
        errors.append(np.square(coded.decode(data).astype(float) - cube).mean())
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


def test_targets_are_met(linear, make_cube):
    network, cube = linear(), make_cube((12, 40, 40))
    clipped = np.clip(cube.astype(float), 0, 10000) / 10000

    def psnr(wish):
        coded = codec(network, "int16", wish=wish, tile_size=32)
        decoded = coded.decode(coded.encode(cube)) / 10000
        return -10 * np.log10(np.square(decoded - clipped).mean())

    best = psnr(Wish(step=2.0**-10))
    assert psnr(Wish(psnr=best - 3)) == pytest.approx(best - 3, abs=0.1)
    assert psnr(Wish(loss=0.1)) == pytest.approx(best - 0.1, abs=0.03)
    data = codec(network, "int16", wish=Wish(bpppc=3.0), tile_size=32).encode(cube)
    with io.BytesIO(data) as file:
        reader = Reader(file, "x")
        records = sum(len(reader.tile(number)) for number in range(reader.header.tile_count))
    assert 8 * records / cube.size == pytest.approx(3.0, rel=0.02)


def test_the_smallest_file_for_a_bound_is_no_larger_than_that_of_any_step(make_network, make_cube):
    network, cube = make_network(), make_cube()
    sizes = {
        wish: len(codec(network, "int16", wish=wish, max_error=0).encode(cube))
        for wish in (Wish(smallest=True), Wish(step=1.0), Wish(step=2.0**-3))
    }
    assert min(sizes.values()) == sizes[Wish(smallest=True)]


def test_latents_of_a_model_that_knows_nothing_are_left_out(make_network, make_cube):
    """Bands of the cube predict one another, which random weights only make harder."""
    network, cube = make_network(), make_cube((12, 40, 40))
    data = codec(network, "int16", wish=Wish(smallest=True), max_error=2).encode(cube)
    assert Reader(io.BytesIO(data), "x").header.parameters["step"] == 2.0**30
    assert np.abs(codec(network, "int16").decode(data).astype(int) - cube).max() == 2


def test_tiles_without_data_do_not_judge_the_scene(linear, make_cube):
    cube = make_cube((12, 32, 32))
    cube[:, 8:], cube[:, :, 8:] = -1, -1
    for wish in (Wish(loss=0.1), Wish(psnr=40.0), Wish(smallest=True)):
        coded = codec(linear(), "int16", wish=wish, nodata=-1, tile_size=8, max_error=3 if wish.smallest else None)
        decoded = coded.decode(coded.encode(cube))
        assert np.array_equal(decoded == -1, cube == -1)
        assert np.abs(decoded[:, :8, :8].astype(int) - np.clip(cube[:, :8, :8], 0, 10000)).mean() < 200
    cube[:] = -1
    assert (coded.decode(coded.encode(cube)) == -1).all()


def test_steps_that_are_too_fine_end_no_search(linear):
    cube = np.full((12, 8, 8), 500, np.int16)
    coded = codec(linear(), "int16", wish=Wish(psnr=120.0))
    assert np.abs(coded.decode(coded.encode(cube)).astype(int) - 500).max() < 50
    with pytest.raises(CodingError, match="give a coarser one"):
        codec(linear(), "int16", wish=Wish(step=1e-12)).encode(cube)
    with pytest.raises(CodingError, match="give one above 0"):
        codec(linear(), "int16", wish=Wish(step=1e10)).encode(cube)


def test_nan_is_a_gap_where_nothing_else_is(linear, make_cube):
    cube = make_cube(dtype="float32")
    cube[:, 2, 3:5] = np.nan
    coded = codec(linear(), "float32")
    assert np.array_equal(np.isnan(coded.decode(coded.encode(cube))), np.isnan(cube))
    with pytest.raises(CodingError, match="NaN or infinity"):
        codec(linear(), "float32", nodata=-1.0).encode(cube)


# -- other machines -------------------------------------------------------------------------------


def shaken(network, size):
    """A network whose reconstructions differ by up to `size` in reflectance, as another machine's would."""
    original = network.decode

    def decode(y, height, width):
        x_hat = original(y, height, width)
        noise = np.random.default_rng(0).uniform(-size, size, x_hat.shape)
        return (x_hat + noise).astype(np.float32)

    network.decode = decode
    return network


@pytest.mark.parametrize("bound", [0, 1, 10])
def test_a_decoder_within_the_margin_arrives_at_the_same_numbers(linear, make_cube, bound):
    cube = make_cube((12, 40, 40))
    coded = codec(linear(), "int16", max_error=bound)
    data = coded.encode(cube)
    other = codec(shaken(linear(), 0.9 * MARGIN / 10000), "int16")
    assert np.array_equal(other.decode(data), coded.decode(data))


def test_a_decoder_beyond_the_margin_says_so(linear, make_cube):
    cube = make_cube((12, 40, 40))
    data = codec(linear(), "int16", max_error=0, tile_size=32).encode(cube)
    reader = Reader(io.BytesIO(data), "x.hsc")
    network = shaken(linear(), 100 * MARGIN / 10000)
    coder = open_tiles(reader.header, reader.shared, network)
    tiles = []
    problems = decompress_scene(reader, coder, lambda *tile: tiles.append(tile), Part.whole(reader.header.scene))
    assert len(problems.unguaranteed) == len(tiles) == 4 and not problems.damaged
    assert all("bound not guaranteed" in line and "tile" in line for line in problems.unguaranteed)
    with pytest.raises(DamagedError, match="bound not guaranteed"):
        codec(network, "int16").decode(data)


@pytest.mark.parametrize("name", ["cae1d", "cae3d_1bpppc"])
def test_other_chunks_and_threads_decode_the_same(make_network, make_cube, name, monkeypatch):
    cube = make_cube((12, 32, 40))
    coded = codec(make_network(name), "int16", max_error=0)
    data = coded.encode(cube)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            for chunk in (7, 64, 4096):
                network = make_network(name)
                if network.model.pixelwise:
                    network.model.set_pixels_per_chunk("cpu", chunk)
                assert np.array_equal(codec(network, "int16").decode(data), cube)
    finally:
        torch.set_num_threads(threads)


# -- what is refused ------------------------------------------------------------------------------


def test_other_weights_are_refused_by_name_and_hash(make_network, make_cube):
    data = codec(make_network(), "int16").encode(make_cube())
    for other in (make_network(seed=1), make_network("cae1da")):
        with pytest.raises(CodingError) as caught:
            codec(other, "int16").decode(data)
        message = str(caught.value)
        assert make_network().sha256[:12] in message and other.sha256[:12] in message and other.name in message


def test_a_hash_is_of_the_tensors(make_network):
    weights = make_network().model.state_dict()
    digest = weights_sha256(weights)
    assert digest == weights_sha256(dict(reversed(weights.items())))
    assert digest != weights_sha256({**weights, "encoder.0.bias": weights["encoder.0.bias"] + 1})
    assert digest != weights_sha256({**weights, "more": torch.zeros(0)})


@pytest.mark.parametrize(
    ("cube", "words"),
    [
        (np.zeros((12, 4), np.int16), "shape"),
        (np.zeros((12, 0, 4), np.int16), "shape"),
        (np.zeros((12, 4, 4), np.int32), "int32"),
        (np.zeros((13, 4, 4), np.int16), "12 bands, not 13"),
    ],
)
def test_cubes_that_no_model_takes_are_refused(make_network, cube, words):
    with pytest.raises(CodingError, match=words):
        codec(make_network(), "int16").encode(cube)


def test_damage_never_looks_like_data(make_network, make_cube):
    """Twenty thousand files with bits flipped, bytes changed, cut out or put in: one line, and no cube."""
    coded = codec(make_network(), "int16", max_error=0, tile_size=8)
    data = coded.encode(make_cube((12, 8, 8)))
    rng = np.random.default_rng(0)
    for index in range(20_000):
        mutated, place = bytearray(data), int(rng.integers(len(data)))
        if index % 4 == 0:
            mutated[place] ^= 1 << int(rng.integers(8))
        elif index % 4 == 1:
            mutated[place : place + 4] = rng.bytes(4)
        elif index % 4 == 2:
            del mutated[place : place + int(rng.integers(1, 40))]
        else:
            mutated[place:place] = rng.bytes(int(rng.integers(1, 9)))
        if mutated == data:
            continue
        with pytest.raises((DamagedError, CodingError)) as caught:
            coded.decode(bytes(mutated))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("coder", "zip"),
        ("coder", None),
        ("step", 0.0),
        ("step", "fine"),
        ("step", 2.0**40),
        ("divisor", 0),
        ("divisor", 1.5),
        ("bound", None),
        ("bound", -1),
        ("bound", True),
        ("extra_bands", [0]),
        ("extra_bands", [1]),
        ("extra_bands", "none"),
    ],
)
def test_parameters_that_cannot_be_are_named(make_network, make_cube, name, value):
    coded = codec(make_network(), "int16", max_error=0)
    reader = Reader(io.BytesIO(coded.encode(make_cube((12, 8, 8)))), "x")
    header = replace(reader.header, parameters={**reader.header.parameters, name: value})
    with pytest.raises(DamagedError, match=f"parameters.{name}"):
        open_tiles(header, reader.shared, coded.network)
    with pytest.raises(DamagedError, match="shared block"):
        open_tiles(reader.header, reader.shared + b"x", coded.network)


def test_records_that_no_checksum_guards(make_network, make_cube):
    """Mutations that repair the checksums: any cube or one line, no crash and no hang."""
    network, cube = make_network(), make_cube((12, 8, 8))
    cube[:, :3, :3] = -32768
    rng = np.random.default_rng(0)
    for bound, coder in ((0, "jpegxl"), (None, "factorized"), (None, "jpegxl"), (None, "context"), (5, "context")):
        coded = codec(network, "int16", max_error=bound, coder=coder, nodata=-32768)
        reader = Reader(io.BytesIO(coded.encode(cube)), "x")
        tiles, record = open_tiles(reader.header, reader.shared, network), reader.tile(0)
        for _ in range(250):
            mutated = bytearray(record)
            for place in rng.integers(0, len(record), rng.integers(1, 4)):
                mutated[place] = rng.integers(256)
            reader.tile = lambda number, mutated=mutated: bytes(mutated)
            try:
                decompress_scene(reader, tiles, lambda *_: None, Part.whole(reader.header.scene))
            except DamagedError as error:
                assert "\n" not in str(error)


def test_an_array_is_a_scene(make_cube):
    cube = make_cube((3, 8, 9))
    scene = ArrayScene(cube)
    assert scene.info.bands == 3 and np.array_equal(scene.read(2, 3, 4, 5), cube[:, 2:6, 3:8])


def test_unguaranteed_samples_are_still_there():
    assert BoundNotGuaranteed(np.ones(3)).samples.sum() == 3
