"""The codec `learned` on scenes: round trips, bounds, rates, and decoders that round differently."""

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coding import PLANE_CODERS
from coding.base import SHORT, BoundNotGuaranteed, CodingError, DamagedError
from coding.hsc.tiling import Window, decompress_scene
from coding.learned import network as network_module
from coding.learned.bounds import MARGIN
from coding.learned.codec import open_codec, open_with
from coding.learned.factory import DEFAULT_LOSS_DB, factory_of
from coding.learned.network import Network, weights_sha256
from coding.rate_control import RateController, Target
from coding.samples import CubeSamples
from datasets.base import DTYPES
from tests.coding import roundtrip
from utils.environment import configure_backends

FINE = 2.0**-6


class Coded:
    """Codes cubes to files with a network, and back.

    Args:
        step: quantizer step; None (with a bound only) for the step of the smallest file.
    """

    def __init__(self, network, step=FINE, max_error=None, nodata=None, scale=None, tile_size=128, coder="context"):
        self.network, self.step, self.max_error, self.nodata = network, step, max_error, nodata
        self.scale, self.tile_size, self.coder = scale, tile_size, coder

    def encode(self, cube):
        scale = self.scale or (1.0 if cube.dtype == np.float32 else 10000.0)
        header = roundtrip.header_of(cube, "learned", self.nodata, scale, self.max_error, self.tile_size)

        def choose(factory):
            return factory.lossy(self.step) if self.max_error is None else factory.bounded(self.max_error, self.step)

        make_factory = functools.partial(factory_of, network=self.network, coder=self.coder)
        return roundtrip.encode(cube, header, choose, make_factory)[0]

    def decode(self, data):
        reader = roundtrip.read(data)
        return roundtrip.decoded(data, open_with(reader.header, reader.shared, self.network))


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
@pytest.mark.parametrize("coder", PLANE_CODERS)
def test_decoded_cubes_are_near_the_model_reconstruction(make_network, make_cube, dtype, coder):
    network, cube = make_network(), make_cube(dtype=dtype)
    data = Coded(network, coder=coder).encode(cube)
    decoded = Coded(network).decode(data)
    assert decoded.dtype == cube.dtype and decoded.shape == cube.shape
    scale = 1.0 if dtype == "float32" else 10000.0
    x = np.clip(cube.astype(np.float32) / scale, 0, 1)
    with torch.no_grad():
        exact = network.model(torch.from_numpy(x)[None])["x_hat"][0].numpy()
    errors = [np.square(a - x).mean() for a in (exact, decoded.astype(np.float32) / scale)]
    assert errors[1] < 1.1 * errors[0]
    assert 8 * len(data) / cube.size < 32  # less than float32 latents take


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    bands=st.sampled_from([4, 12, 31]),
    dtype=st.sampled_from(["int16", "uint16", "float32"]),
    bound=st.sampled_from([0, 1, 5, 20, 300]),
    share=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    step=st.sampled_from([2.0**-8, 0.1, 4.0]),
    tile_size=st.sampled_from([16, 128]),
    seed=st.integers(0, 99),
)
def test_bounds_hold_and_gaps_are_kept(
    make_network, make_cube, size, bands, dtype, bound, share, step, tile_size, seed
):
    cube = make_cube((bands, *size), dtype, seed)
    rng = np.random.default_rng(seed)
    nodata = {"int16": -32768, "uint16": 2000, "float32": float("nan")}[dtype]
    gaps = rng.random(size) < share
    cube[:, gaps] = nodata
    cube[rng.integers(bands), rng.random(size) < share / 2] = nodata
    unit = 1e-4 if dtype == "float32" else 1
    coded = Coded(make_network(bands=bands), step, bound * unit, nodata, tile_size=tile_size)
    decoded = coded.decode(coded.encode(cube))
    valid = ~np.isnan(cube) if dtype == "float32" else cube != nodata
    assert np.array_equal(~np.isnan(decoded) if dtype == "float32" else decoded != nodata, valid)
    difference = np.abs(decoded[valid].astype(np.float64) - cube[valid])
    # Floats are rounded to float32.
    assert difference.max(initial=0) <= bound * unit + (1e-7 if dtype == "float32" else 0)
    if bound == 0:
        assert np.array_equal(decoded[valid], cube[valid])


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_are_coded_or_refused(make_network, make_cube, dtype):
    unit = 1e-4 if dtype.startswith("float") else 1
    cube = (make_cube().clip(0, 10000) / (100 if dtype.endswith("int8") else 1) * unit).astype(dtype)
    valid = np.ones(cube.shape, bool)
    factory = factory_of(CubeSamples(cube, valid, float(cube.max())), make_network())
    lossy = factory.lossy(0.1)
    assert lossy.decode(lossy.encode(cube, valid), valid).dtype == cube.dtype
    if dtype not in SHORT:
        with pytest.raises(CodingError, match=f"samples must be .*, got {dtype}: code without a bound"):
            factory.bounded(3 * unit)
        return
    for bound in (30 * unit,) if unit < 1 else (0, 3):
        bounded = factory.bounded(bound, 0.1)
        errors = np.abs(bounded.decode(bounded.encode(cube, valid), valid).astype(np.float64) - cube)
        assert errors.max() <= bound * (1 + 1e-6) + 1e-7


def test_a_bound_holds_in_tiles_of_many_blocks(make_network, make_cube):
    """Larger sides than in the test above."""
    cube = make_cube((12, 127, 70))
    coded = Coded(make_network(), 0.1, 5)
    assert np.abs(coded.decode(coded.encode(cube)).astype(int) - cube).max() == 5


def test_other_floats_keep_their_bound(make_network, make_cube):
    cube = make_cube(dtype="float32") + np.random.default_rng(0).normal(0, 1e-3, (12, 20, 24)).astype(np.float32)
    bounded = Coded(make_network(), max_error=0.002)
    decoded = bounded.decode(bounded.encode(cube))
    assert 0.001 < np.abs(decoded.astype(np.float64) - cube).max() <= 0.002
    with pytest.raises(CodingError, match="a bound of 0 needs integers"):
        Coded(make_network(), max_error=0).encode(cube)


@pytest.mark.parametrize(("dtype", "nodata"), [("int16", 0), ("uint16", 65535), ("float32", 0.0)])
def test_valid_samples_are_never_decoded_as_nodata(linear, dtype, nodata):
    """The model reconstructs nodata, here at the ends of the range of reflectance."""
    cube = np.full((12, 8, 8), nodata, dtype)
    cube[:, ::2] = 1 if nodata == 0 else nodata - 1
    if dtype == "float32":
        cube[:, ::2] = -1e-6
    scale = {"int16": 1e4, "uint16": 65535.0, "float32": 1.0}[dtype]
    coded = Coded(linear(channels=12), 4.0, nodata=nodata, scale=scale)
    decoded = coded.decode(coded.encode(cube))
    assert np.array_equal(decoded == nodata, cube == nodata)


def test_bounds_hold_at_the_ends_of_the_type(make_network):
    for dtype in ("int16", "uint16"):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        cube = np.random.default_rng(0).choice([low, low + 1, 0, high], (12, 9, 9)).astype(dtype)
        for bound in (0, 3):
            bounded = Coded(make_network(), max_error=bound)
            decoded = bounded.decode(bounded.encode(cube)).astype(int)
            assert np.abs(decoded - cube).max() <= bound


@pytest.mark.parametrize(
    "name", ["cae1d_2bpppc", "cae1da", "sscnet_1bpppc", "cae3d_1bpppc", "hycot_1bpppc", "hycass_cr008_s2"]
)
def test_every_architecture_codes_any_size(make_network, make_cube, name):
    network, cube = make_network(name), make_cube((12, 13, 21))
    for bound in (None, 4):
        bounded = Coded(network, max_error=bound, tile_size=16)
        decoded = bounded.decode(bounded.encode(cube))
        assert decoded.shape == cube.shape
        assert bound is None or np.abs(decoded.astype(int) - cube).max() <= bound


def test_gaps_neither_cost_nor_disturb(make_network, make_cube):
    network, cube = make_network("sscnet_1bpppc"), make_cube((12, 32, 64))
    holed = cube.copy()
    holed[:, :, 32:] = -32768
    coded = Coded(network, nodata=-32768, tile_size=64)
    whole, half = coded.encode(cube), coded.encode(holed)
    assert len(half) < 0.75 * len(whole)
    decoded = coded.decode(half).astype(int)
    # Away from the gap nothing has changed.
    left = coded.decode(coded.encode(np.ascontiguousarray(cube[:, :, :32]))).astype(int)
    error = [np.abs(x[:, :, :32] - cube[:, :, :32]).mean() for x in (decoded, left)]
    assert error[0] < 1.2 * error[1]


def test_bands_that_the_model_does_not_take_are_coded_with_a_bound(make_network, make_cube):
    cube = make_cube((15, 12, 13))
    header = roundtrip.header_of(cube, "learned", max_error=3)
    make_factory = functools.partial(factory_of, network=make_network(), model_bands=[*range(5), *range(7, 14)])
    data, written = roundtrip.encode(cube, header, lambda factory: factory.bounded(3, FINE), make_factory)
    assert written.header.parameters["extra_bands"] == [6, 7, 15]
    reader = roundtrip.read(data)
    decoded = roundtrip.decoded(data, open_with(reader.header, reader.shared, make_network()))
    assert np.abs(decoded.astype(int) - cube).max() == 3
    with pytest.raises(CodingError, match="needs a bound"):
        roundtrip.encode(cube, header, lambda factory: factory.lossy(FINE), make_factory)


# -- rate control ---------------------------------------------------------------------------------


def test_finer_steps_cost_more_and_lose_less(linear, make_cube):
    cube, sizes, errors = make_cube(), [], []
    for step in (1.0, 0.1, 0.01):
        coded = Coded(linear(), step)
        data = coded.encode(cube)
        sizes.append(len(data))
        errors.append(np.square(coded.decode(data).astype(float) - cube).mean())
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


def test_targets_are_met(linear, make_cube):
    cube = make_cube((12, 40, 40))
    clipped = np.clip(cube.astype(float), 0, 10000) / 10000
    header = roundtrip.header_of(cube, "learned", tile_size=32)
    samples = roundtrip.samples_of(cube, header)
    factory = factory_of(samples, linear())

    def write(codec):
        return roundtrip.encode(cube, header, lambda _: codec, lambda _: factory)[1]

    def psnr(step):
        decoded = factory.lossy(step).reconstruct(cube, np.ones(cube.shape, bool)) / 10000
        return -10 * np.log10(np.square(decoded - clipped).mean())

    best = psnr(2.0**-10)
    controller = RateController(factory, samples, "linear")
    written, note = controller.write(write, Target("psnr", best - 3))
    assert written.distortion.psnr == pytest.approx(best - 3, abs=0.1) and note is None
    assert psnr(factory.quantized().settings.step) == pytest.approx(best - DEFAULT_LOSS_DB, abs=0.02)
    written, note = controller.write(write, Target("bpppc", 4.0))
    assert written.rate == pytest.approx(4.0, rel=0.02) and note is None


def test_latents_of_the_sampled_tiles_are_computed_once(linear, make_cube):
    network = linear()
    encoded = []
    original = network.encode
    network.encode = lambda x: encoded.append(1) or original(x)
    cube = make_cube((12, 16, 16))
    samples = CubeSamples(cube, np.ones(cube.shape, bool), 10000.0)
    factory = factory_of(samples, network)
    (tile,) = samples.tiles(8)
    known = [factory.lossy(step).encode(*tile) for step in (1.0, 0.1)]
    assert len(encoded) == 1
    assert factory.lossy(0.1).encode(cube.copy(), tile.valid) == known[1] and len(encoded) == 2


def test_the_default_step_with_a_bound_gives_the_smallest_file(make_network, make_cube):
    network, cube = make_network(), make_cube()
    sizes = {step: len(Coded(network, step, 0).encode(cube)) for step in (None, 1.0, 2.0**-3)}
    assert min(sizes.values()) == sizes[None]


def test_latents_of_an_untrained_model_are_left_out(make_network, make_cube):
    """Bands of the cube predict one another better than random weights do."""
    network, cube = make_network(), make_cube((12, 40, 40))
    data = Coded(network, None, 2).encode(cube)
    reader = roundtrip.read(data)
    assert reader.header.parameters["step"] is None
    assert np.abs(Coded(network).decode(data).astype(int) - cube).max() == 2
    codec = open_with(reader.header, reader.shared, network)
    record = reader.tile(0)[2:]  # without a mask or moves
    assert record[0] == 0
    with pytest.raises(DamagedError, match="without latents"):
        codec.decode(b"\1x" + record[1:], np.ones(cube.shape, bool))


def test_tiles_without_data_are_not_sampled(linear, make_cube):
    cube = make_cube((12, 32, 32))
    cube[:, 8:], cube[:, :, 8:] = -1, -1
    header = roundtrip.header_of(cube, "learned", -1, tile_size=8)
    (tile,) = roundtrip.samples_of(cube, header).tiles(8)
    assert np.array_equal(tile.cube, cube[:, :8, :8])
    for step, max_error in ((0.1, None), (None, 3)):
        coded = Coded(linear(), step, max_error, nodata=-1, tile_size=8)
        decoded = coded.decode(coded.encode(cube))
        assert np.array_equal(decoded == -1, cube == -1)
        assert np.abs(decoded[:, :8, :8].astype(int) - np.clip(cube[:, :8, :8], 0, 10000)).mean() < 200
    cube[:] = -1
    assert (coded.decode(coded.encode(cube)) == -1).all()


def test_too_fine_steps_do_not_stop_a_search(linear):
    cube = np.full((12, 8, 8), 500, np.int16)
    header = roundtrip.header_of(cube, "learned")
    samples = roundtrip.samples_of(cube, header)
    factory = factory_of(samples, linear())
    written, _ = RateController(factory, samples, "linear").write(
        lambda codec: roundtrip.encode(cube, header, lambda _: codec, lambda _: factory)[1], Target("psnr", 120.0)
    )
    assert written.distortion.largest_error < 50
    with pytest.raises(CodingError, match="give a coarser one"):
        Coded(linear(), 1e-12).encode(cube)
    with pytest.raises(CodingError, match="a number above 0"):
        Coded(linear(), 1e10).encode(cube)


@pytest.mark.parametrize("nodata", [None, -1.0])
def test_nan_is_a_gap_with_any_nodata_value(linear, make_cube, nodata):
    cube = make_cube(dtype="float32")
    cube[:, 2, 3:5] = np.nan
    coded = Coded(linear(), nodata=nodata)
    assert np.array_equal(np.isnan(coded.decode(coded.encode(cube))), np.isnan(cube))


def test_fixed_codec_stores_latents_as_float32(linear, make_cube):
    cube = make_cube()
    valid = np.ones(cube.shape, bool)
    codec = factory_of(CubeSamples(cube, valid, 10000.0), linear(channels=12)).fixed()
    data = codec.encode(cube, valid)
    assert len(data) == 4 * cube.size
    assert np.abs(codec.decode(data, valid).astype(int) - np.clip(cube, 0, 10000)).max() <= 1
    with pytest.raises(DamagedError, match="bytes of latents, got 3"):
        codec.decode(b"abc", valid)
    with pytest.raises(CodingError, match="takes 12 bands, got 11"):
        codec.encode(cube[1:], valid[1:])


# -- other machines -------------------------------------------------------------------------------


def shaken(network, size):
    """Return the network with reconstructions that differ by up to `size`, as on another machine."""
    original = network.decode

    def decode(y, height, width):
        x_hat = original(y, height, width)
        noise = np.random.default_rng(0).uniform(-size, size, x_hat.shape)
        return (x_hat + noise).astype(np.float32)

    network.decode = decode
    return network


@pytest.mark.parametrize("bound", [0, 1, 10])
def test_a_decoder_within_the_margin_decodes_the_same_numbers(linear, make_cube, bound):
    cube = make_cube((12, 40, 40))
    coded = Coded(linear(), max_error=bound)
    data = coded.encode(cube)
    other = Coded(shaken(linear(), 0.9 * MARGIN / 10000))
    assert np.array_equal(other.decode(data), coded.decode(data))


def test_a_decoder_beyond_the_margin_reports_it(linear, make_cube):
    cube = make_cube((12, 40, 40))
    cube[:, :8] = -32768
    data = Coded(linear(), max_error=0, tile_size=32, nodata=-32768).encode(cube)
    reader = roundtrip.read(data)
    codec = open_with(reader.header, reader.shared, shaken(linear(), 100 * MARGIN / 10000))
    decoded, problems = roundtrip.decode(data, codec)
    assert len(problems.unguaranteed) == 4 and not problems.damaged
    assert all("bound not guaranteed" in line and "FILE: tile" in line for line in problems.unguaranteed)
    # The samples are decoded nevertheless, with small errors.
    assert np.array_equal(decoded == -32768, cube == -32768)
    assert 0 < np.abs(decoded.astype(int) - cube).max() < 300


@pytest.mark.parametrize("name", ["cae1d", "cae3d_1bpppc"])
def test_other_chunks_and_threads_decode_the_same(make_network, make_cube, name):
    cube = make_cube((12, 32, 40))
    coded = Coded(make_network(name), max_error=0)
    data = coded.encode(cube)
    threads = torch.get_num_threads()
    try:
        for number, chunk in ((1, 7), (2, 64), (2, 4096)):
            torch.set_num_threads(number)
            network = make_network(name)
            if network.model.pixelwise:
                network.model.set_pixels_per_chunk("cpu", chunk)
            assert np.array_equal(Coded(network).decode(data), cube)
    finally:
        torch.set_num_threads(threads)


# -- tiles in batches -----------------------------------------------------------------------------


@pytest.fixture
def set_batch(monkeypatch):
    """set_batch(number): let the CPU code that many tiles at once, as GPUs do."""
    return lambda number: monkeypatch.setitem(network_module.MAX_TILES_AT_ONCE, "cpu", number)


@pytest.mark.parametrize(
    ("name", "max_error"), [("cae1d", None), ("cae1d", 3), ("sscnet_1bpppc", 3), ("cae3d_1bpppc", None)]
)
def test_tiles_in_batches_give_the_same_file(make_network, make_cube, set_batch, name, max_error):
    """On a CPU a model computes one image at a time, so that not even the rounding differs."""
    cube = make_cube((12, 24, 40))
    cube[:, 10:20, 10:25] = -1
    coded = Coded(make_network(name), 0.1, max_error, nodata=-1, tile_size=16)
    data = coded.encode(cube)
    decoded = coded.decode(data)
    sizes = []
    for number in (2, 5):
        set_batch(number)
        batched = make_network(name)
        encode = batched.model.encode
        batched.model.encode = lambda x, encode=encode: sizes.append(len(x)) or encode(x)
        assert Coded(batched, 0.1, max_error, nodata=-1, tile_size=16).encode(cube) == data
        assert np.array_equal(Coded(make_network(name)).decode(data), decoded)
    assert max(sizes) > 1


def test_batches_do_not_depend_on_threads(make_network, make_cube, set_batch):
    set_batch(3)
    network, calls = make_network(), []
    decode = network.model.decode
    network.model.decode = lambda y: calls.append(y.sum().item()) or decode(y)
    coded = Coded(network, 0.1, 5, tile_size=16)
    data = coded.encode(make_cube((12, 48, 70)))
    reader = roundtrip.read(data)
    codec = open_with(reader.header, reader.shared, network)
    found = []
    for num_workers in (1, 2, 9):
        calls.clear()
        roundtrip.decode(data, codec, num_workers)
        found.append(sorted(calls))
    assert found[0] == found[1] == found[2] and len(found[0]) == 8  # the last column has narrower tiles


def test_a_window_and_a_damaged_tile_do_not_wait_for_other_tiles(make_network, make_cube, set_batch):
    set_batch(4)
    cube = make_cube((12, 32, 48))
    coded = Coded(make_network(), max_error=0, tile_size=16)
    data = bytearray(coded.encode(cube))
    reader = roundtrip.read(bytes(data))
    codec = open_with(reader.header, reader.shared, coded.network)
    found = np.zeros((12, 30, 20), np.int16)

    def write(row, column, samples, masks):
        found[:, row : row + samples.shape[1], column : column + samples.shape[2]] = samples

    decompress_scene(reader, codec, write, Window(2, 20, 30, 20, tuple(range(12))))
    assert np.array_equal(found, cube[:, 2:32, 20:40])
    whole = Window.whole(reader.header.scene)
    tile = reader.tile
    reader.tile = lambda number: tile(number)[:-9] if number == 1 else tile(number)
    assert len(decompress_scene(reader, codec, lambda *_: None, whole, keep_going=True).damaged) == 1
    with pytest.raises(DamagedError):
        decompress_scene(reader, codec, lambda *_: None, whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["cae1d", "sscnet_1bpppc", "cae3d_1bpppc"])
def test_batches_of_a_gpu_decode_tile_by_tile_on_a_cpu(make_network, make_cube, name):
    configure_backends(deterministic=False, tf32=False)  # as `load_network` does
    cube, networks = make_cube((12, 40, 60)), {}
    for device in ("cpu", "cuda"):
        networks[device] = Network(name, copy.deepcopy(make_network(name).model), device)
    for coder, decoder in (("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")):
        data = Coded(networks[coder], 0.1, 3, tile_size=16).encode(cube)
        assert np.abs(Coded(networks[decoder]).decode(data).astype(int) - cube).max() <= 3


def test_an_error_of_the_network_ends_all_tiles(make_network, make_cube, set_batch):
    set_batch(4)
    network = make_network()
    coded = Coded(network, max_error=0, tile_size=16)
    data = coded.encode(make_cube((12, 80, 80)))

    def fail(_y):
        raise torch.OutOfMemoryError("CUDA out of memory")

    network.model.decode = fail
    with pytest.raises(torch.OutOfMemoryError):
        coded.decode(data)


# -- what is refused ------------------------------------------------------------------------------


def test_other_weights_are_refused_by_name_and_hash(make_network, make_cube):
    data = Coded(make_network()).encode(make_cube())
    for other in (make_network(seed=1), make_network("cae1da")):
        with pytest.raises(CodingError) as caught:
            Coded(other).decode(data)
        message = str(caught.value)
        assert make_network().sha256[:12] in message and other.sha256[:12] in message and other.name in message


def test_the_hash_depends_on_the_tensors_only(make_network):
    weights = make_network().model.state_dict()
    digest = weights_sha256(weights)
    assert digest == weights_sha256(dict(reversed(weights.items())))
    assert digest != weights_sha256({**weights, "encoder.0.bias": weights["encoder.0.bias"] + 1})
    assert digest != weights_sha256({**weights, "more": torch.zeros(0)})


def test_bands_that_no_model_takes_are_refused(make_network):
    with pytest.raises(CodingError, match="takes 12 bands, got 13"):
        Coded(make_network()).encode(np.zeros((13, 4, 4), np.int16))


def test_damage_is_always_noticed(make_network, make_cube):
    """Flipped bits, and changed, deleted or inserted bytes, end in one line."""
    coded = Coded(make_network(), max_error=0, tile_size=8)
    data = coded.encode(make_cube((12, 8, 8)))
    rng = np.random.default_rng(0)
    for index in range(500):
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
        ("coder", ["context"]),
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
        ("more", 1),
    ],
)
def test_invalid_parameters_are_named(make_network, make_cube, name, value):
    coded = Coded(make_network(), max_error=0)
    reader = roundtrip.read(coded.encode(make_cube((12, 8, 8))))
    header = replace(reader.header, parameters={**reader.header.parameters, name: value})
    with pytest.raises(DamagedError, match=f"parameters.{name}"):
        open_with(header, reader.shared, coded.network)
    with pytest.raises(DamagedError, match="shared block"):
        open_with(reader.header, reader.shared + b"x", coded.network)


def test_latents_that_are_not_coded_need_a_bound(make_network, make_cube):
    reader = roundtrip.read(Coded(make_network()).encode(make_cube((12, 8, 8))))
    header = replace(reader.header, parameters={**reader.header.parameters, "step": None})
    with pytest.raises(DamagedError, match=r"parameters\.step"):
        open_with(header, reader.shared, make_network())


@pytest.mark.parametrize(
    ("model", "words"), [(None, "no model"), ({"name": "vgg", "sha256": "0" * 64, "num_channels": 3}, "vgg")]
)
def test_models_that_are_not_known_are_refused(make_cube, model, words):
    header = replace(roundtrip.header_of(make_cube(), "learned"), model=model)
    with pytest.raises(DamagedError, match=words):
        open_codec(header, b"")


@pytest.mark.parametrize(
    ("bound", "coder"), [(0, "jpegxl"), (None, "factorized"), (None, "jpegxl"), (None, "context"), (5, "context")]
)
def test_damaged_records_raise_one_line_or_give_a_cube(make_network, make_cube, bound, coder):
    """Damage with repaired checksums must neither crash nor hang."""
    network, cube = make_network(), make_cube((12, 8, 8))
    cube[:, :3, :3] = -32768
    rng = np.random.default_rng(0)
    reader = roundtrip.read(Coded(network, max_error=bound, coder=coder, nodata=-32768).encode(cube))
    codec, record = open_with(reader.header, reader.shared, network), reader.tile(0)
    for _ in range(100):
        mutated = bytearray(record)
        for place in rng.integers(0, len(record), rng.integers(1, 4)):
            mutated[place] = rng.integers(256)
        reader.tile = lambda number, mutated=mutated: bytes(mutated)
        try:
            decompress_scene(reader, codec, lambda *_: None, Window.whole(reader.header.scene))
        except DamagedError as error:
            assert "\n" not in str(error)


def test_error_without_guarantee_holds_the_samples():
    assert BoundNotGuaranteed(np.ones(3)).samples.sum() == 3
