"""CCSDS 123.0-B-2: bytes that follow from the equations, errors within the bound, damage that ends in one line."""

import hashlib
import itertools
import math
from dataclasses import fields, replace
from fractions import Fraction

import imagecodecs
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coding.base import CodingError, DamagedError
from coding.classical.ccsds123.hybrid_codes import SYMBOL_LIMITS, THRESHOLDS, TREES, load_codes
from coding.classical.ccsds123.image import LOCAL_SUMS, Ccsds123, decode
from coding.classical.ccsds123.tuning import encode_tuned, search
from tests.coding.classical.ccsds123_plain import Limits, Options, PlainImage, code_words, filled, plain_encode

SAMPLE_ADAPTIVE = Ccsds123(entropy_coder="sample-adaptive")
SIGNED_BIT = 56  # of the header, after a byte of the user and the sides


def smooth(shape, dtype="int16", seed=0, noise=3.0):
    """Return similar bands, each a ramp with waves and noise."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    image = 900 + 7 * z + 200 * np.sin(x / 9 + y / 13) * (1 + 0.02 * z) + rng.normal(0, noise, shape)
    return image.round().astype(dtype)


def extremes(shape, dtype, seed=0):
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).choice([limits.min, limits.max], shape).astype(dtype)


def error(cube, codec):
    decoded = decode(codec.encode(cube))
    assert decoded.dtype == cube.dtype and decoded.shape == cube.shape
    return int(np.abs(decoded.astype(int) - cube.astype(int)).max())


@st.composite
def codecs(draw):
    resolution, count = draw(st.integers(0, 4)), draw(st.integers(1, 8))
    first = draw(st.integers(-6, 9))
    return Ccsds123(
        max_error=draw(st.sampled_from([0, 0, 1, 7, 300, 32767])),
        prediction_bands=draw(st.sampled_from([0, 1, 3, 15])),
        full_prediction=draw(st.booleans()),
        local_sums=draw(st.sampled_from(LOCAL_SUMS)),
        weight_resolution=draw(st.integers(4, 19)),
        weight_interval_exponent=draw(st.integers(4, 11)),
        weight_exponent_first=first,
        weight_exponent_last=draw(st.integers(first, 9)),
        representative_resolution=resolution,
        damping=draw(st.integers(0, 2**resolution - 1)),
        offset=draw(st.integers(0, 2**resolution - 1)),
        unary_limit=draw(st.integers(8, 32)),
        initial_count_exponent=count,
        rescaling_exponent=draw(st.integers(max(4, count + 1), 11)),
        accumulator_exponent=draw(st.integers(0, 14)),
        entropy_coder=draw(st.sampled_from(["hybrid", "sample-adaptive"])),
    )


@st.composite
def cubes(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 8)))
    dtype = draw(st.sampled_from(["uint16", "int16"]))
    kind, seed = draw(st.sampled_from(["noise", "extremes", "smooth", "constant"])), draw(st.integers(0, 99))
    limits, rng = np.iinfo(dtype), np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    if kind == "constant":
        return np.full(shape, rng.integers(limits.min, limits.max + 1), dtype)
    return extremes(shape, dtype, seed) if kind == "extremes" else smooth(shape, dtype, seed)


@settings(max_examples=120, deadline=None)
@given(cube=cubes(), codec=codecs())
def test_bytes_and_samples_match_the_equations(cube, codec):
    data, decoded = plain_encode(cube, codec)
    assert codec.encode(cube) == data
    assert np.array_equal(decode(data), decoded)
    assert np.abs(decoded.astype(int) - cube.astype(int)).max() <= codec.max_error


@pytest.mark.parametrize("max_error", [0, 1, 7])
@pytest.mark.parametrize("local_sums", LOCAL_SUMS)
@pytest.mark.parametrize("full_prediction", [True, False])
@pytest.mark.parametrize("prediction_bands", [0, 1, 3])
@pytest.mark.parametrize("entropy_coder", ["hybrid", "sample-adaptive"])
def test_bytes_match_the_equations_in_every_mode(
    entropy_coder, prediction_bands, full_prediction, local_sums, max_error
):
    """Bands are long enough for weights and counters to be rescaled."""
    cube = smooth((5, 9, 14), noise=20)
    codec = Ccsds123(max_error, prediction_bands, full_prediction, local_sums, damping=1, entropy_coder=entropy_coder)
    data, decoded = plain_encode(cube, codec)
    assert codec.encode(cube) == data
    assert np.array_equal(decode(data), decoded)


@settings(max_examples=60, deadline=None)
@given(cube=cubes(), codec=codecs())
def test_signed_and_unsigned_images_differ_in_one_bit(cube, codec):
    """In the sample type of the header, if both have a dynamic range of 16 bits."""
    assume(cube.size > 1)
    signed = cube.view(np.int16).copy()
    signed.flat[[0, -1]] = np.iinfo(np.int16).min, np.iinfo(np.int16).max
    images = [codec.encode(samples) for samples in (signed, signed.view(np.uint16) ^ 0x8000)]
    first, second = (np.unpackbits(np.frombuffer(image, np.uint8)) for image in images)
    assert np.array_equal(np.flatnonzero(first != second), [SIGNED_BIT])


# -- images of other encoders ---------------------------------------------------------------------


@st.composite
def foreign_images(draw):
    """Return a cube, and an encoder with options that the codec itself never chooses."""
    cube, codec = draw(cubes()), draw(codecs())
    bands, rows, _ = cube.shape
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    image = PlainImage(cube, codec, Options())
    D = draw(st.integers(image.D, 16))
    options = Options(D=D, M=draw(st.integers(0, bands)), B=draw(st.integers(1, 8)))
    options.R = draw(st.integers(max(32, D + codec.weight_resolution + 2), 64))
    used = [min(z, codec.prediction_bands) for z in range(bands)]
    if draw(st.booleans()):
        Q = options.Q = draw(st.integers(3, codec.weight_resolution + 3))
        options.weights = [rng.integers(-(2 ** (Q - 1)), 2 ** (Q - 1), n + 3 * image.full).tolist() for n in used]
    if draw(st.booleans()):
        options.exponent_offsets = [rng.integers(-6, 6, n + image.full).tolist() for n in used]
    is_periodic = options.M > 0 and draw(st.booleans())
    options.u = draw(st.integers(0, 3)) if is_periodic else None
    periods = (rows - 1) // 2**options.u + 1 if is_periodic else 1
    for name in ("absolute", "relative"):
        if draw(st.booleans()):
            bits, per_band = draw(st.integers(1, D - 1)), draw(st.booleans())
            table = rng.integers(0, 2**bits, (periods, bands if per_band else 1))
            setattr(options, name, Limits(bits, per_band, np.broadcast_to(table, (periods, bands)).tolist()))
    if not (options.absolute or options.relative):
        codec, options.u = replace(codec, max_error=0), None
    top = 2**codec.representative_resolution
    options.phi = draw(st.sampled_from([None, rng.integers(0, top, bands).tolist()]))
    options.psi = draw(st.sampled_from([None, rng.integers(0, top, bands).tolist()]))
    options.K = draw(st.sampled_from([None, rng.integers(0, min(D - 2, 14) + 1, bands).tolist()]))
    options.accumulators = rng.integers(0, 2 ** (D + codec.initial_count_exponent), bands).tolist()
    return cube, codec, options


@settings(max_examples=150, deadline=None)
@given(foreign_images())
def test_images_of_other_encoders_are_read(image):
    """Band-interleaved order, output words, registers that wrap, tables, and error limits of all kinds."""
    data, decoded = plain_encode(*image)
    assert np.array_equal(decode(data), decoded)


def test_supplementary_tables_are_skipped():
    numbers = "00000011" + "00100101" + f"{7:05b}" + 3 * f"{99:07b}"  # signed, one number of 7 bits for each band
    floats = "10000000" + "00000000" + "10100" + "101" + "00011" + 26 * "1"  # one of 20 + 5 + 1 bits
    options = Options(supplementary=[numbers.replace("00000011", "01000011", 1), floats])
    data, decoded = plain_encode(smooth((3, 5, 6)), Ccsds123(), options)
    assert np.array_equal(decode(data), decoded)


@pytest.mark.parametrize(("block_size", "interval"), [(8, 1), (16, 4096), (64, 30)])
@pytest.mark.parametrize(("M", "u"), [(0, None), (1, None), (2, 1), (3, 3), (5, 0)])
def test_images_of_the_block_adaptive_coder_are_read(M, u, block_size, interval):
    """The mapped quantizer indices of the stream in blocks of CCSDS 121.0-B-3, as libaec writes them."""
    cube, options = smooth((5, 9, 14), noise=20), Options(M=M, u=u)
    periods = 9 if u is None else (9 - 1) // 2**u + 1
    rng = np.random.default_rng(0)
    options.absolute = Limits(3, True, rng.integers(0, 8, (periods, 5)).tolist())
    options.relative = Limits(9, False, np.repeat(rng.integers(1, 512, (periods, 1)), 5, 1).tolist())
    image = PlainImage(cube, Ccsds123(), options)
    deltas, decoded = image.predict()
    values = []
    for z, y, x in image.order():
        if u is not None and z == x == 0 and y % 2**u == 0:
            values += [*options.absolute.table[y // 2**u], options.relative.table[y // 2**u][0]]
        values.append(deltas[z, y, x])
    values = np.array(values + -len(values) % block_size * [0], np.uint16)
    body = imagecodecs.aec_encode(values, bitspersample=image.D, flags=0, blocksize=block_size, rsi=interval)
    header = image.header()[:-16]
    header = header[:85] + "10" + header[87:] + f"0{block_size.bit_length() - 4:02b}0{interval % 4096:012b}"
    data = int(filled(header), 2).to_bytes(len(header) // 8, "big") + body
    assert np.array_equal(decode(data), decoded)
    with pytest.raises(DamagedError, match="end early"):
        decode(data[: -len(body) // 2])


def test_zeros_at_the_end_of_blocks_may_stand_for_more_than_the_image_has():
    """CCSDS 121.0-B-3 ends a segment of 64 blocks with one codeword if the rest of it is zeros."""
    cube, block_size = np.full((3, 10, 10), 7, np.int16), 8
    cube[0, 0, 0] = 0
    image = PlainImage(cube, Ccsds123(), Options())
    deltas, decoded = image.predict()
    blocks = np.zeros(64 * block_size, np.uint8)  # D = 4
    blocks[: cube.size] = deltas.ravel()
    body = imagecodecs.aec_encode(blocks, bitspersample=image.D, flags=0, blocksize=block_size, rsi=64)
    header = image.header()[:-16]
    header = header[:85] + "10" + header[87:] + f"0000{64:012b}"
    assert np.array_equal(decode(int(filled(header), 2).to_bytes(len(header) // 8, "big") + body), decoded)


# -- the codes of the hybrid coder ----------------------------------------------------------------


@pytest.mark.parametrize("code", range(16))
def test_words_of_symbols_are_complete(code):
    """Every sequence of symbols is cut into words in one way, and has a flush word wherever it ends."""
    codewords, flush_words = code_words(TREES[code], SYMBOL_LIMITS[code])
    assert not any(second.startswith(first) for first, second in itertools.pairwise(sorted(codewords)))
    assert sum(Fraction(1, (SYMBOL_LIMITS[code] + 2) ** len(word)) for word in codewords) == 1
    assert set(flush_words) == {word[:end] for word in codewords for end in range(len(word))}


@pytest.mark.parametrize("code", range(16))
def test_codes_are_complete_and_decodable_from_the_end(code):
    """The codewords of a code fill the tree of reversed bits, and so do its flush words."""
    for words in code_words(TREES[code], SYMBOL_LIMITS[code]):
        bits = sorted(word[::-1] for word in words.values())
        assert not any(second.startswith(first) for first, second in itertools.pairwise(bits))
        assert sum(2.0 ** -len(word) for word in bits) == 1


@pytest.mark.parametrize("code", range(16))
def test_arrays_of_a_code_hold_its_words(code):
    codes, found = load_codes(), ({}, {})
    pending = [(codes.roots[code], "")]
    while pending:
        node, word = pending.pop()
        children = codes.children[node, : SYMBOL_LIMITS[code] + 2]
        kind, bits = int(children.any()), f"{codes.words[node]:0{codes.lengths[node]}b}"
        found[kind][word] = bits
        place = codes.starts[kind, code, len(bits)] + int(bits[::-1], 2) - codes.firsts[kind, code, len(bits)]
        assert codes.ordered[place] == node
        if kind:
            pending += zip(children, (word + symbol for symbol in symbols_of(code)), strict=True)
    assert found == code_words(TREES[code], SYMBOL_LIMITS[code])


def symbols_of(code):
    return "0123456789ABC"[: SYMBOL_LIMITS[code] + 1] + "Z"


def rate_of(code, mean):
    """Return the bits that a code takes for an index if these are geometrically distributed with this mean."""
    ratio, limit = mean / (1 + mean), SYMBOL_LIMITS[code]
    shares = [(1 - ratio) * ratio**index for index in range(limit + 1)] + [ratio ** (limit + 1)]
    shares = dict(zip(symbols_of(code), shares, strict=True))
    codewords, _ = code_words(TREES[code], limit)
    chances = {word: math.prod(shares[symbol] for symbol in word) for word in codewords}
    bits = sum(chance * len(codewords[word]) for word, chance in chances.items())
    unary = shares["Z"] * (1 + mean)  # how much an escaped index exceeds the limit, and a bit that ends it
    return bits / sum(chance * len(word) for word, chance in chances.items()) + unary


@pytest.mark.parametrize("code", range(15))
def test_each_code_is_the_best_at_the_threshold_to_the_next_one(code):
    """An accumulator is four times the mean index, and a threshold has 14 more binary places."""
    mean = THRESHOLDS[code + 1] / 2**16
    entropy = (1 + mean) * math.log2(1 + mean) - mean * math.log2(mean)
    rates = [rate_of(other, mean) for other in range(16)]
    assert min(rates) == rates[code]
    assert entropy < rates[code] < 1.11 * entropy


def test_codes_are_those_of_the_standard():
    """Some of the entries of its tables, as they stand there, and all of them and the limits by a checksum."""
    listing = []
    for text, limit in zip(TREES, SYMBOL_LIMITS, strict=True):
        for words in code_words(text, limit):
            listing.append({word: f"{len(bits)}'h{int(bits, 2):X}" for word, bits in sorted(words.items())})
    entries = [
        (0, "44C", "13'h1FFF"),
        (1, "", "1'h0"),
        (10, "2000", "5'hB"),
        (14, "0224", "15'h67FF"),
        (24, "0" * 27, "1'h0"),
        (25, "0200", "9'h1BF"),
        (26, "10Z", "18'h3FFFF"),
        (30, "0" * 256, "1'h0"),
        (31, "", "8'h0"),
    ]
    assert all(listing[table].get(word) == code for table, word, code in entries)
    lines = [f"{table} {word} {code}\n" for table, words in enumerate(listing) for word, code in words.items()]
    lines += [f"{limit} {threshold}\n" for limit, threshold in zip(SYMBOL_LIMITS, THRESHOLDS, strict=True)]
    assert (
        hashlib.sha256("".join(lines).encode()).hexdigest()
        == "8919bc6853c226dc6725cd9ed4e1fdfdb33b504bbd3e8b0edaf4ca3814ef38a3"
    )


# -- bytes that follow by hand --------------------------------------------------------------------


def test_two_samples_match_bytes_by_hand():
    """D = 2 and s_mid = 2: the first delta is 0 in two bits; for the second s~ = 5, theta = 1, so 1 in unary."""
    header = bytes.fromhex("00 0002 0001 0001 05 0000 08 00  0c 00 f2 6b 00  92 20")
    assert SAMPLE_ADAPTIVE.encode(np.array([[[2, 3]]], np.uint16)) == header + bytes([0b0001_0000])


def test_an_escaped_sample_matches_bytes_by_hand():
    """D = 16, Sigma = 95 and Gamma = 2, so k = 5; delta = 65535 has more zeros than U_max = 18 and stands as it is."""
    header = bytes.fromhex("00 0002 0001 0001 81 0000 08 00  0c 00 f2 6b 00  92 2a")
    body = (0xFFFF << 6).to_bytes(7, "big")  # 16 zeros, 18 zeros, 16 ones, 6 to fill
    assert SAMPLE_ADAPTIVE.encode(np.array([[[0, -32768]]], np.int16)) == header + body


def test_a_bound_matches_bytes_by_hand():
    """D = 3, m = 1: a residual of 2 is one step of 3; Sigma = 5 and Gamma = 2, so its delta 1 takes k = 1."""
    data = replace(SAMPLE_ADAPTIVE, max_error=1).encode(np.array([[[0, 2]]], np.int16))
    predictor = "4c 00 f2 6b 00" + "01 80" + "03 00 06"  # D_A and the limit; Theta, phi and psi
    header = bytes.fromhex("00 0002 0001 0001 87 0000 08 40" + predictor + "92 22")
    assert data == header + bytes([0b000_11_000])
    assert decode(data).tolist() == [[[0, 3]]]


@pytest.mark.parametrize("max_error", [0, 1, 7, 32767])
@pytest.mark.parametrize("dtype", ["uint16", "int16"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 20, 30), (4, 1, 9), (4, 9, 1), (7, 1, 1), (426, 2, 3), (3, 40, 2), (2, 3, 300)]
)
def test_bounds_hold_for_all_shapes_and_limits_of_types(shape, dtype, max_error):
    for codec in (Ccsds123(max_error), Ccsds123(max_error, local_sums="narrow neighbor", damping=3)):
        assert error(extremes(shape, dtype), codec) <= max_error
        assert error(smooth(shape, dtype), codec) <= max_error


@pytest.mark.parametrize("value", [-32768, -1, 0, 32767])
def test_constant_cubes_take_a_bit_a_sample_or_nearly_none(value):
    cube = np.full((5, 30, 40), value, np.int16)
    for codec, rate in ((SAMPLE_ADAPTIVE, 1.2), (Ccsds123(), 0.2)):
        assert error(cube, codec) == 0
        assert 8 * len(codec.encode(cube)) < rate * cube.size


def test_the_longest_sides_are_restored():
    for shape in [(2**16, 1, 1), (1, 2**16, 1), (1, 1, 2**16)]:
        assert error(np.arange(2**16).astype(np.uint16).reshape(shape), Ccsds123()) == 0


def test_smooth_cubes_compress():
    cube = smooth((20, 40, 50))
    rate = [8 * len(Ccsds123(max_error).encode(cube)) / cube.size for max_error in (0, 1, 3, 10)]
    assert rate[0] < 5  # 3.6 bits are the noise
    assert rate == sorted(rate, reverse=True) and rate[-1] < 1


def test_preceding_bands_help():
    cube = smooth((20, 40, 50), noise=0) + np.random.default_rng(0).integers(0, 200, (40, 50), np.int16)
    assert 2 * len(Ccsds123().encode(cube)) < len(Ccsds123(prediction_bands=0).encode(cube))


def test_views_are_restored():
    cube = smooth((40, 30, 6)).transpose(2, 0, 1)[:, ::2, ::-1]
    assert error(cube, Ccsds123()) == 0


@pytest.mark.parametrize("max_error", [0, 2])
def test_parameters_of_a_search_suit_the_cube(max_error):
    """Bands that have nothing in common are best coded on their own."""
    cube = np.concatenate([smooth((1, 40, 50), seed=seed, noise=9) for seed in range(8)])[:, ::-1]
    cube[1::2] = cube[1::2, :, ::-1] // 3
    codec = search(cube, max_error)
    assert codec.max_error == max_error and codec.prediction_bands < 3
    assert len(codec.encode(cube)) < 0.98 * len(Ccsds123(max_error).encode(cube))
    assert error(cube, codec) <= max_error
    assert encode_tuned(cube, max_error) == codec.encode(cube)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 1), (40, 1, 2)])
def test_parameters_of_a_search_are_never_worse_than_the_defaults(shape):
    cube = extremes(shape, "uint16")
    assert len(encode_tuned(cube, 0)) <= len(Ccsds123().encode(cube))


@pytest.mark.parametrize(
    "codec", [SAMPLE_ADAPTIVE, Ccsds123(), Ccsds123(2, local_sums="narrow column", unary_limit=32)]
)
def test_damaged_bytes_raise_one_line_or_give_samples(codec):
    rng = np.random.default_rng(0)
    data = codec.encode(smooth((4, 10, 12)))
    refused = 0
    for _ in range(1500):
        damaged = bytearray(data[: rng.integers(len(data) + 1)] if rng.integers(2) else data)
        for place in rng.integers(0, max(len(damaged), 1), rng.integers(1, 4)):
            damaged[place : place + 1] = bytes([rng.integers(256)])
        try:
            decode(bytes(damaged))
        except DamagedError as damage:
            assert "\n" not in str(damage)
            refused += 1
    assert refused > 800


@pytest.mark.parametrize("codec", [SAMPLE_ADAPTIVE, Ccsds123(), Ccsds123(max_error=2)])
def test_cut_and_lengthened_images_are_refused(codec):
    data = codec.encode(smooth((3, 8, 9)))
    for end in range(len(data)):
        with pytest.raises(DamagedError):
            decode(data[:end])
    with pytest.raises(DamagedError):
        decode(data + b"\0")


@pytest.mark.parametrize("codec", [SAMPLE_ADAPTIVE, Ccsds123()])
def test_headers_that_claim_too_much_are_refused_before_memory_is_taken(codec):
    data = bytearray(codec.encode(smooth((3, 8, 9))))
    data[1:7] = bytes(6)  # 65536 columns, rows and bands
    with pytest.raises(DamagedError, match="too few"):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("byte", "value", "words"),
    [
        (7, 0b0000_0011, "dynamic range must be"),  # D = 1
        (7, 0b0010_0001, "more than 16 bits, which is not supported"),
        (7, 0b0001_1000, "interleaving depth"),  # band-interleaved with M = 65536
        (10, 0b0000_1110, "entropy coder is unknown"),
        (12, 0b0000_1101, "exponent offsets without a table.*not supported"),
        (13, 0b0000_0001, "register size"),
        (15, 0b1111_0000, "v_min"),
        (16, 0b0100_0101, "initial weights without a table.*not supported"),
        (17, 0b0011_1010, "unary length limit"),
        (18, 0b0011_1110, "accumulators.* without a table.*not supported"),
    ],
)
def test_damaged_headers_and_options_that_are_not_supported_are_named(byte, value, words):
    data = bytearray(SAMPLE_ADAPTIVE.encode(smooth((3, 8, 9))))
    data[byte] = value
    with pytest.raises(DamagedError, match=words):
        decode(bytes(data))


@pytest.mark.parametrize(
    "cube",
    [
        np.zeros((2, 3), np.int16),
        np.zeros((0, 3, 3), np.int16),
        np.zeros((1, 2, 2), np.float32),
        np.zeros((1, 2, 2), np.int32),
        np.zeros((1, 1, 2**16 + 1), np.int16),
    ],
)
def test_unsupported_cubes_are_refused(cube):
    with pytest.raises(CodingError):
        Ccsds123().encode(cube)


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_error": -1},
        {"max_error": 32768},
        {"max_error": 0.5},
        {"prediction_bands": 16},
        {"local_sums": "wide"},
        {"weight_exponent_first": 4, "weight_exponent_last": 3},
        {"representative_resolution": 2, "damping": 4, "offset": 0},
        {"representative_resolution": 0},  # the default offset is too large
        {"initial_count_exponent": 6},  # the default rescaling exponent is too small
        {"unary_limit": 7},
        {"accumulator_exponent": 15},
        {"entropy_coder": "block-adaptive"},
    ],
)
def test_parameters_out_of_range_are_refused(parameters):
    with pytest.raises(CodingError, match=r"must be a whole number|must be one of|must be hybrid or"):
        Ccsds123(**parameters)


def test_numpy_integers_are_accepted():
    cube = smooth((3, 8, 9))
    assert Ccsds123(max_error=np.int32(3)).encode(cube) == Ccsds123(max_error=3).encode(cube)


def test_every_parameter_is_documented():
    for field in fields(Ccsds123):
        assert f"        {field.name}: " in Ccsds123.__doc__
