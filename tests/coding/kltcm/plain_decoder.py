"""A decoder of the codec `klt-cm`, written from the text of docs/format.md alone, in plain, slow Python.

It shares no code with the codec. Its functions and their names follow the text, section by section. Contexts and sets
of weights are entries of dictionaries, under their names in the text.
"""

import bisect
import dataclasses
import math
import struct
import zlib

RANGES = {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32)}
RANGES |= {f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32)}
NUMBERS = {**RANGES, "uint32": (-(2**31), 2**31 - 1), "float16": (-(2**24), 2**24), "float32": (-(2**24), 2**24)}
NUMBERS["float64"] = 1 - 2**31, 2**31 - 1
FLOATS = {"float16": "e", "float32": "f", "float64": "d"}
BITS = {"float16": "h", "float32": "i", "float64": "q"}
UNLIKELY = {name: low if name.startswith("i") else high for name, (low, high) in RANGES.items()}
UNLIKELY |= dict.fromkeys(FLOATS, math.nan)
CHARACTERS = {"int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", **FLOATS}


class Damaged(Exception):
    """Bytes that contradict the text."""


def decode_record(header, record, size):
    """Return the samples of a tile as nested lists [band][row][column], and its mask planes likewise.

    Args:
        header: fields of the header's text.
        record: record of the tile.
        size: H, W.
    """
    scene, parameters = header["scene"], header["parameters"]
    dtype, numbers = scene["dtype"], range(1, scene["bands"] + 1)
    dropped = [number for bands in header["dropped"].values() for number in bands]
    coded = [number for number in numbers if number not in dropped and number not in header["exact"]]
    packed, rest = first_block(record)
    moves, data = first_block(rest)
    exact = {}
    if header["exact"]:
        stored, data = first_block(data)
        exact = dict(zip(header["exact"], arrays(zlib.decompress(stored), dtype, size), strict=True))
    valid, masks, specials = mask(packed, len(coded), scene["masks"], size)
    nodata = scene["band_nodata"] or [scene["nodata"]] * scene["bands"]
    nodata = [float(value) if isinstance(value, str) else value for value in nodata]

    cubes = decode_tile(parameters, dtype, data, valid)
    move(cubes, valid, [nodata[number - 1] for number in coded], moves, dtype, header["max_error"] is not None)
    samples = {number: filled(nodata[number - 1], dtype, size) for number in dropped} | exact
    missing = []
    hiding = [] if header["max_error"] == 0 else exact.values()
    for number, cube, is_valid in zip(coded, cubes, valid, strict=True):
        samples[number] = filled(nodata[number - 1], dtype, size)
        for y, x in places(size):
            if is_valid[y][x]:
                samples[number][y][x] = cube[y][x]
            elif not all(band[y][x] for band in [*hiding, *masks_of(masks, number)]):
                samples[number][y][x] = 0 if nodata[number - 1] is None else nodata[number - 1]
            else:
                missing.append((number, y, x))
    for (number, y, x), value in special_values(specials, missing, coded, dtype, size).items():
        samples[number][y][x] = value
    return [samples[number] for number in numbers], masks


def filled(nodata, dtype, size):
    """Return a band without data."""
    height, width = size
    return [[UNLIKELY[dtype] if nodata is None else nodata] * width for _ in range(height)]


def masks_of(masks, number):
    """Return the mask plane of a band, in a list."""
    return masks[number - 1 : number] if len(masks) > 1 else masks


def places(size):
    return [(y, x) for y in range(size[0]) for x in range(size[1])]


def arrays(content, dtype, size):
    """Return arrays of samples [row][column]."""
    values = [value for (value,) in struct.iter_unpack("<" + CHARACTERS[dtype], content)]
    rows = [values[at : at + size[1]] for at in range(0, len(values), size[1])]
    return [rows[at : at + size[0]] for at in range(0, len(rows), size[0])]


def bit_planes(content, count, size):
    """Return planes of bits [row][column], and the bytes after them."""
    height, width = size
    kinds = struct.unpack_from(f"<{count}H", content)
    patterns = max((*kinds, 1)) - 1
    length = -(-height * width // 8)
    planes = []
    for kind in kinds:
        bits = [kind] * (height * width)
        if kind >= 2:
            start = 2 * count + (kind - 2) * length
            bits = [byte >> 7 - i & 1 for byte in content[start : start + length] for i in range(8)]
        planes.append([bits[y * width : (y + 1) * width] for y in range(height)])
    return planes, content[2 * count + patterns * length :]


def mask(packed, num_coded, num_masks, size):
    """Return the planes of valid samples, the mask planes, and the bytes of special values."""
    planes = [[[1] * size[1] for _ in range(size[0])] for _ in range(num_coded + num_masks)]
    specials = b""
    if packed:
        planes, specials = bit_planes(zlib.decompress(packed), num_coded + num_masks, size)
    return planes[:num_coded], planes[num_coded:], specials


def special_values(content, missing, coded, dtype, size):
    """Return the special values by (number of the band, row, column)."""
    if not content:
        return {}
    planes, content = bit_planes(content, len(coded), size)
    special = [(number, y, x) for number, y, x in missing if planes[coded.index(number)][y][x]]
    character = CHARACTERS[dtype]
    count, content = content[0], content[1:]
    values = [value for (value,) in struct.iter_unpack("<" + character, content)] if count == 0 else []
    if count:
        palette = struct.unpack_from(f"<{count}{character}", content)
        numbers = content[count * struct.calcsize(character) :] if count > 1 else bytes(len(special))
        values = [palette[number] for number in numbers]
    return dict(zip(special, values, strict=True))


def decode_tile(parameters, dtype, data, valid):
    """Return the samples of the codec's bytes, before they are moved and masked."""
    shape = len(valid), len(valid[0]), len(valid[0][0])
    places = [(b, y, x) for b in range(shape[0]) for y in range(shape[1]) for x in range(shape[2])]
    known = {(b, y, x): None for b, y, x in places if not valid[b][y][x]}
    if "bound" not in parameters:
        first, second = blocks(data, 2)
        return [
            [[round_sample(value, dtype) for value in row] for row in band]
            for band in decode_transformed(first, second, shape)
        ]
    if parameters["divisor"] == 0:
        return decode_floats(data, shape, dtype, known)
    signs = None
    if parameters.get("has_negative_zeros"):
        signs, data = blocks(data, 2)
    numbers = decode_numbers(data, shape, parameters["bound"], known=known)
    samples = [[[sample(x, dtype, parameters) for x in row] for row in band] for band in numbers]
    if signs is not None:
        samples = with_signs_of_zeros(samples, valid, zlib.decompress(signs))
    return samples


def with_signs_of_zeros(samples, valid, signs):
    seen = 0
    for band, band_valid in zip(samples, valid, strict=True):
        for row, row_valid in zip(band, band_valid, strict=True):
            for x, value in enumerate(row):
                if value == 0 and row_valid[x]:
                    row[x] = -0.0 if signs[seen // 8] >> 7 - seen % 8 & 1 else 0.0
                    seen += 1
    return samples


def first_block(data):
    """Return the first block with a short frame, and the bytes after it."""
    length = position = 0
    while True:
        length += (data[position] & 127) << 7 * position
        position += 1
        if data[position - 1] < 128:
            return data[position : position + length], data[position + length :]


def blocks(data, count):
    """Return `count` blocks with short frames."""
    found = []
    while data:
        block, data = first_block(data)
        found.append(block)
    if len(found) != count:
        raise Damaged("blocks")
    return found


def clamp(value, least, most):
    return max(least, min(value, most))


def half(number):
    """Return the size in half octaves."""
    if number < 2:
        return number
    return 2 * number.bit_length() - 2 + (number >> (number.bit_length() - 2) & 1)


# -- Planes


class Plane:
    """A plane of integers with a margin.

    Args:
        before: the plane whose first row is above this one; None for the first plane.
        outside: the value above the first plane.
    """

    def __init__(self, height, width, before=None, outside=0):
        self.height, self.width, self.before, self.outside = height, width, before, outside
        self.values = {}

    def at(self, y, x):
        if y < 0:
            return self.before.at(0, x) if self.before else self.outside
        if (y, x) in self.values:
            return self.values[y, x]
        y = min(y, self.height - 1)
        return self.at(y - 1, 0) if x < 0 else self.values[y, min(x, self.width - 1)]

    def around(self, y, x):
        """Return the function of (rows below, columns right) that the sums take."""
        return lambda dy, dx: self.at(y + dy, x + dx)


class Everywhere(Plane):
    """A constant plane."""

    def __init__(self, value):
        self.value = value

    def at(self, y, x):
        return self.value


SIDES = [(0, -1), (-1, 0), (0, 1), (1, 0)]


def left_sum(v):
    return 2 * v(0, -1) + v(0, -2)


def above_sum(v):
    return 2 * v(-1, 0) + v(-1, -1) + v(-1, 1) + v(-2, 0)


def causal_sum(v):
    return left_sum(v) + above_sum(v)


def cross_sum(v):
    return sum(v(*side) for side in SIDES)


# -- Streams of decisions


def squash_table():
    """Return squash(x) at index x + 3072."""
    factor, term = 0, 2**64
    for j in range(1, 20):
        factor += term
        term //= 256 * j
    power, upper = 2**64, []
    for _ in range(3073):
        upper.append(2**16 * power // (power + 2**64))
        power = power * factor >> 64
    lower = [2**16 - upper[-x] for x in range(-3072, 0)]
    return [clamp(p, 1, 65535) for p in lower + upper]


SQUASH = squash_table()
STRETCH = [bisect.bisect_left(SQUASH, 8 * (2 * i + 1)) - 3072 for i in range(4096)]
RATE = [2**17 // (2 * c + 3) for c in range(256)]
ALL = 2**48 - 1


class Stream:
    def __init__(self, data):
        self.bits, self.data = first_block(data) if data else (b"", b"")
        self.read, self.taken = 0, 6
        self.low, self.high, self.code = 0, ALL, int.from_bytes(self.data[:6].ljust(6, b"\0"), "big")
        self.counters, self.weights, self.initial_count = {}, {}, 0

    def check_end(self):
        if len(self.data) > self.taken or len(self.bits) > 4 * -(-self.read // 32):
            raise Damaged("a stream has bytes too many")

    def narrow(self, low, high):
        while low >> 32 == high >> 32:
            low, high = low << 16 & ALL, high << 16 & ALL | 0xFFFF
            word = int.from_bytes(self.data[self.taken : self.taken + 2].ljust(2, b"\0"), "big")
            self.code = self.code << 16 & ALL | word
            self.taken += 2
        self.low, self.high = low, high

    def decision(self, p):
        middle = self.low + (self.high - self.low >> 16) * p
        if self.code <= middle:
            self.narrow(self.low, middle)
            return 1
        self.narrow(middle + 1, self.high)
        return 0

    def plain(self, bits):
        if bits > 32:
            upper = self.plain(bits - 32)
            return upper << 32 | self.plain(32)
        number = 0
        for i in range(self.read, self.read + bits):
            if i < 8 * len(self.bits):
                number |= (self.bits[i // 8] >> i % 8 & 1) << i - self.read
        self.read += bits
        return number

    def counted(self, *context):
        q, _ = self.counters.get(context, (2**21, 0))
        bit = self.decision(clamp(q >> 6, 1, 65535))
        self.count(context, bit)
        return bit

    def count(self, context, bit):
        q, c = self.counters.get(context, (2**21, 0))
        target = 2**22 - 1 if bit else 0
        self.counters[context] = q + ((target - q) * RATE[c] >> 16), min(c + 1, 255)

    def mixed(self, name, contexts):
        """Decode a mixed decision with the weights of that name."""
        count = len(contexts)
        counters = [self.counters.get(context, (2**21, 0)) for context in contexts]
        if name not in self.weights:
            self.weights[name] = [[81920 // count] * count, self.initial_count]
        weights, seen = self.weights[name]
        inputs = [STRETCH[q >> 10] for q, _ in counters]
        x = sum(w * s for w, s in zip(weights, inputs, strict=True)) >> 16
        p = SQUASH[clamp(x, -3072, 3072) + 3072]
        bit = self.decision(p)
        error, h = (bit << 16) - p, 14 + (seen >> 8)
        for i in range(count):
            weights[i] = wrap_int32(weights[i] + (inputs[i] * error + 2 ** (h - 1) >> h))
        if h < 17:
            self.weights[name][1] += 1
        for context in contexts:
            self.count(context, bit)
        return bit

    def magnitude(self, name, contexts):
        def decision(node):
            return self.mixed((name, node), [(context, node) for context in contexts])

        for node in range(14):
            if not decision(node):
                return node
        bits = 0
        while bits < 23 and decision(14 + bits):
            bits += 1
        return min(2**bits + self.plain(bits) + 13, 2**24 - 1)


def wrap_int32(number):
    return (number + 2**31) % 2**32 - 2**31


# -- Arrays of integers


def array(data, rows, length):
    """Return integers [row][column]."""
    if rows * length == 0:
        if data:
            raise Damaged("an empty array has bytes")
        return [[] for _ in range(rows)]
    stream = Stream(data)
    magnitudes, signs = Plane(rows, length), Plane(rows, length)
    numbers = []
    for y in range(rows):
        m = 1
        for _ in range(4):
            m = 2 * m + stream.mixed("weight", [("weight", m)])
        weight = min(m - 16, 8)
        row = []
        for x in range(length):
            remainder = decode_remainder(stream, magnitudes, signs, y, x)
            row.append((weight * (row[-1] if row else 0) + 4 >> 3) + remainder)
        if not all(-(2**31) <= number < 2**31 for number in row):
            raise Damaged("beyond int32")
        numbers.append(row)
    stream.check_end()
    return numbers


def decode_remainder(stream, magnitudes, signs, y, x):
    around = magnitudes.around(y, x)
    causal, left, above = (min(half(f(around)), 63) for f in (causal_sum, left_sum, above_sum))
    contexts = [("causal", causal), ("left", left), ("above", above), ("sides", left >> 1, above >> 1)]
    contexts.append(("column", min(x, 255)))
    bits = 0
    while bits < 33 and stream.mixed(("bits", bits), [(*context, bits) for context in contexts]):
        bits += 1
    magnitude = bits
    if bits >= 2:
        second = stream.mixed("bit", [("bit", bits), ("bit", bits, causal)])
        magnitude = (2 + second << bits - 2) + stream.plain(bits - 2)
    is_negative = 0
    if magnitude:
        is_negative = stream.mixed("sign", [("sign",), ("sign", signs.at(y, x - 1), signs.at(y - 1, x))])
    magnitudes.values[y, x], signs.values[y, x] = magnitude, 1 + is_negative if magnitude else 0
    return -magnitude if is_negative else magnitude


# -- Transform


def decode_transformed(first, second, shape):
    """Return values [band][row][column] before rounding."""
    bands, height, width = shape
    step, count = struct.unpack_from("<fI", first)
    if not 0 < step < math.inf or count > bands:
        raise Damaged("a transform")
    means, *vectors = array(first[8:], 1 + count, bands)
    columns = basis(vectors, bands)
    planes = decode_components(second, count, height, width)
    values = []
    for c in range(bands):
        mean = means[c] * (step / math.sqrt(height * width))
        terms = [(columns[k][c] * step, planes[k]) for k in range(count)]
        values.append(
            [[mean + sum(b * plane[y][x] for b, plane in terms) for x in range(width)] for y in range(height)]
        )
    return values


def basis(vectors, bands):
    """Return the columns of B."""
    columns = [[0.0] * bands for _ in vectors]
    for k in reversed(range(len(vectors))):
        u = unit(vectors[k][k:])
        columns[k][k:] = u
        v = [u[0] + (1 if u[0] >= 0 else -1), *u[1:]]
        for column in columns[k + 1 :]:
            factor = sum(a * b for a, b in zip(v, column[k:], strict=True)) / (1 + abs(u[0]))
            column[k:] = [b - factor * a for a, b in zip(v, column[k:], strict=True)]
    return columns


def unit(vector):
    length = math.sqrt(sum(number * number for number in vector))
    return [number / length for number in vector] if length else [1.0] + [0.0] * (len(vector) - 1)


# -- Components

NEXT_STATE = [
    (0, 4),
    (2, 6),
    (4, 0),
    (6, 2),
    (8, 12),
    (10, 14),
    (12, 8),
    (14, 10),
    (9, 13),
    (11, 15),
    (13, 9),
    (15, 11),
    (1, 5),
    (3, 7),
    (5, 1),
    (7, 3),
]


@dataclasses.dataclass(frozen=True, eq=False)
class Subband:
    level: int
    orientation: int
    top: int
    left: int
    height: int
    width: int


def sizes_of_levels(height, width):
    """Return (H_l, W_l) for l = 0 to T."""
    sizes = [(height, width)]
    while len(sizes) - 1 < 5 and max(sizes[-1]) >= 4:
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes.append((height, width))
    return sizes


def subbands(sizes):
    """Return the subbands in the order of coding."""
    levels = len(sizes) - 1
    found = [Subband(levels, 0, 0, 0, *sizes[levels])]
    for level in range(levels, 0, -1):
        (h, w), (low_h, low_w) = sizes[level - 1], sizes[level]
        found.append(Subband(level, 1, 0, low_w, low_h, w - low_w))
        found.append(Subband(level, 2, low_h, 0, h - low_h, low_w))
        found.append(Subband(level, 3, low_h, low_w, h - low_h, w - low_w))
    return [subband for subband in found if subband.height and subband.width]


class Coefficients(dict):
    """Integers by (subband, y, x); 0 elsewhere."""

    def __missing__(self, key):
        return 0

    def around(self, subband, y, x):
        return lambda dy, dx: self[subband, y + dy, x + dx]

    def nearest(self, subband, y, x):
        if subband is None:
            return 0
        return self[subband, min(y, subband.height - 1), min(x, subband.width - 1)]


def size(a):
    return min(half(a), 15)


def three(v):
    return 0 if v == 0 else 1 if v <= 2 else 2


def decode_components(data, count, height, width):
    """Return components [component][row][column] in steps."""
    if count == 0:
        if data:
            raise Damaged("components where there are none")
        return []
    factors, content = blocks(data, 2)
    factors = array(factors, count, sum(features_of(k) for k in range(count - 1)))
    stream = Stream(content)
    stream.initial_count = 512
    expectation = Expectation()
    sizes = sizes_of_levels(height, width)
    order = subbands(sizes)
    last, second, mean = Coefficients(), Coefficients(), Coefficients()
    sources, features, components = [], [], []
    for k in range(count):
        place = k if k <= 40 else min(40 + (k - 40) // 8, 79)
        v, signs, expected = decode_plane(stream, order, place, (last, second, mean), expectation)
        component = synthesize(reconstruct(v, signs, expected, order, height, width), sizes)
        for j, factor in enumerate(factors[k]):
            if factor:
                if j >= len(features):
                    raise Damaged("a feature that is none yet")
                scale = factor / math.sqrt(height * width)
                component = combine(lambda a, b, scale=scale: a + scale * b, component, features[j])
        components.append(component)
        features += new_features(component, sources)
        last, second = v, last
        for subband in order:
            for y in range(subband.height):
                for x in range(subband.width):
                    p = subband, y, x
                    mean[p] += (16 * v[p] - mean[p]) >> 2
    stream.check_end()
    return components


class Expectation:
    """The filter that predicts values of coefficients."""

    def __init__(self):
        self.weights = [[0] * 32 for _ in range(4)]
        self.components = []

    def begin(self):
        """Begin a component."""
        self.components.append(Coefficients())
        for weights in self.weights:
            weights[16:] = [0] * 16

    def inputs(self, s, y, x):
        *before, here = self.components
        found = [here[s, y - 3, x]]
        found += [here[s, y - 2, x + dx] for dx in range(-2, 3)]
        found += [here[s, y - 1, x + dx] for dx in range(-3, 4)]
        found += [here[s, y, x + dx] for dx in range(-3, 0)]
        found += [before[k][s, y, x] if k < len(before) else 0 for k in range(8)]
        for rest in range(8):
            numbers = [k for k in range(8, len(before)) if k % 8 == rest]
            found.append(before[numbers[-1]][s, y, x] if numbers else 0)
        return [clamp(value, -8, 8) for value in found]

    def expect(self, s, y, x):
        return wrap_int32(sum(w * i for w, i in zip(self.weights[s.orientation], self.inputs(s, y, x), strict=True)))

    def adapt(self, s, y, x, expected, value):
        inputs, weights = self.inputs(s, y, x), self.weights[s.orientation]
        if any(inputs):
            error = (clamp(value, -12, 12) << 16) - expected
            g = wrap_int32(error * (2**16 // (4 + sum(i * i for i in inputs))) >> 16)
            for j in range(32):
                growth = wrap_int32(g * inputs[j] + 32) >> 6 if j < 16 else wrap_int32(g * inputs[j] + 16) >> 5
                weights[j] = wrap_int32(weights[j] + growth)
        self.components[-1][s, y, x] = value


def decode_plane(stream, order, place, history, expectation):
    """Return the magnitudes of a component in half steps, and its signs (1 positive, 2 negative)."""
    by_name = {(subband.level, subband.orientation): subband for subband in order}
    lowest, (last, second, mean) = order[0], history
    expectation.begin()
    v, signs, expectations, state = Coefficients(), Coefficients(), Coefficients(), 0
    for s in order:
        o = s.orientation
        parent = by_name.get((s.level + 1, o), lowest) if o else None
        hl, lh = by_name.get((s.level, 1)), by_name.get((s.level, 2))
        kind = min(s.level, 3), o
        for y in range(s.height):
            for x in range(s.width):
                around = v.around(s, y, x)
                near = causal_sum(around)
                over = v.nearest(parent, y >> 1, x >> 1)
                siblings = 0
                if o == 2:
                    siblings = 2 * v.nearest(hl, y, x)
                elif o == 3:
                    siblings = v.nearest(hl, y, x) + v.nearest(lh, y, x)
                here, there, usual = last[s, y, x], second[s, y, x], mean[s, y, x]
                across = 4 * here + 2 * there + cross_sum(last.around(s, y, x))
                total = 4 * near + 3 * across + 5 * over + (usual >> 2)
                amount = 0 if total == 0 else 1 if total < 24 else 2 if total < 80 else 3
                q = state >> 3
                expectations[s, y, x] = expected = expectation.expect(s, y, x)
                direction = expected < 0, size(abs(expected) >> 13)
                contexts = [
                    ("total", q, kind, min(half(total), 39)),
                    ("sums", q, size(near), size(across), o),
                    ("family", q, size(2 * over + siblings), size(across), min(here + 1 >> 1, 3), min(there, 2)),
                    (
                        *("neighbors", q, three(around(-1, 0)), three(around(0, -1))),
                        *(three(around(-1, -1)), three(around(-1, 1))),
                        *(three(here), three(there), min(usual >> 4, 2)),
                    ),
                    ("place", q, place, s.level, o, amount),
                    ("mean", q, size(near), size(usual >> 2), size(over)),
                    ("expected", q, min(half(total), 39), direction[1]),
                ]
                a = stream.magnitude((kind, q), contexts)
                state = NEXT_STATE[state][a & 1]
                if a > 0:
                    v[s, y, x] = 2 * a - q
                    up, left = signs[s, y - 1, x], signs[s, y, x - 1]
                    contexts = [
                        ("four", up, left, signs[s, y - 2, x], signs[s, y, x - 2], o),
                        ("always",),
                        ("two", up, left, o),
                        ("level", *direction, min(a, 3)),
                        ("expected", *direction, up, left, o),
                    ]
                    signs[s, y, x] = 1 + stream.mixed(("sign", o), contexts)
                expectation.adapt(s, y, x, expected, -v[s, y, x] if signs[s, y, x] == 2 else v[s, y, x])
    return v, signs, expectations


def reconstruct(v, signs, expected, order, height, width):
    """Return coefficients [row][column] in steps."""
    coefficients = [[0.0] * width for _ in range(height)]
    for s in order:
        for y in range(s.height):
            for x in range(s.width):
                if v[s, y, x] == 0:
                    value = 3 / 64 * math.sqrt(min(abs(expected[s, y, x]) / 2**16, 1))
                    coefficients[s.top + y][s.left + x] = math.copysign(value, expected[s, y, x])
                else:
                    value = 1 / 2 + 1 / 16 if v[s, y, x] == 1 else v[s, y, x] / 2 + 1 / 64
                    coefficients[s.top + y][s.left + x] = -value if signs[s, y, x] == 2 else value
    return coefficients


def synthesize(coefficients, sizes):
    for height, width in sizes[-2::-1]:
        for y in range(height):
            coefficients[y][:width] = join(coefficients[y][:width])
        for x in range(width):
            for y, value in enumerate(join([coefficients[y][x] for y in range(height)])):
                coefficients[y][x] = value
    return coefficients


def join(values):
    """Return a row or a column, given its low and high halves."""
    if len(values) == 1:
        return values
    count = (len(values) + 1) // 2
    low = [value / 1.139764007655 for value in values[:count]]
    high = [value / 0.887277075636 for value in values[count:]]

    def add_to_low(factor):
        for i in range(len(low)):
            low[i] += factor * (high[max(i - 1, 0)] + high[min(i, len(high) - 1)])

    def add_to_high(factor):
        for i in range(len(high)):
            high[i] += factor * (low[i] + low[min(i + 1, len(low) - 1)])

    add_to_low(-0.443506852043971)
    add_to_high(-0.882911075530934)
    add_to_low(0.052980118572961)
    add_to_high(1.586134342059924)
    joined = list(values)
    joined[0::2], joined[1::2] = low, high
    return joined


# -- Features of components


def features_of(k):
    """Return the number of features that component k adds."""
    return (4 if k < 8 else 0) + (k + 1 if k < 6 else 0) + (1 if k < 3 else 0)


def combine(function, *planes):
    return [[function(*values) for values in zip(*rows, strict=True)] for rows in zip(*planes, strict=True)]


def standardize(plane):
    """Return the plane minus its mean, divided by its standard deviation."""
    values = [value for row in plane for value in row]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    if deviation < 2**-20:
        deviation = 1.0
    return [[(value - mean) / deviation for value in row] for row in plane]


def new_features(component, sources):
    """Return the features of the next component, and append it to `sources`."""
    k = len(sources)
    sources.append(standardize(component))
    if k >= 8:
        return []
    z = sources[k]
    right, left = [[*row[1:], row[-1]] for row in z], [[row[0], *row[:-1]] for row in z]
    below, above = [*z[1:], z[-1]], [z[0], *z[:-1]]
    features = [
        combine(lambda a, b: a - b, right, left),
        combine(lambda a, b: a - b, below, above),
        combine(lambda a, b, c: a + b - 2 * c, right, left, z),
        combine(lambda a, b, c: a + b - 2 * c, below, above, z),
    ]
    if k < 6:
        features += [combine(lambda a, b: a * b, z, other) for other in sources]
    if k < 3:
        features.append(combine(lambda a: a**3, z))
    return [standardize(feature) for feature in features]


# -- Numbers

OWN = [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-1, 2), (-2, -1), (-2, 1)]


def regressors(band, pixels):
    """Return (bands before, row, column, kind) of each regressor."""
    lags = min(band, 32, pixels // 64)
    with_neighbors, on_all_sides = min(lags, 8, pixels // 256), min(lags, 2, pixels // 256)
    found = [(lag, 0, 0, 0 if lag == 1 else 1) for lag in range(1, lags + 1)]
    for lag in range(1, with_neighbors + 1):
        for y, x in SIDES if lag <= on_all_sides else SIDES[:2]:
            found.append((lag, y, x, 2 if lag == 1 else 3))
    return found + [(0, y, x, 4) for y, x in OWN[: min(10, pixels // 32)]]


@dataclasses.dataclass(frozen=True)
class Common:
    """What numbers have in common: E, M, and the known ones by (band, row, column), None in gaps.

    Attributes:
        means: of the bands.
    """

    bound: int = 0
    digits: int = 53
    known: dict = dataclasses.field(default_factory=dict)
    least: int = 0
    largest: int = 0
    means: tuple = ()


def lattice_shift(v, digits):
    return max(abs(v).bit_length() - digits, 0)


def place_of(v, digits):
    shift = lattice_shift(v, digits)
    place = shift * 2 ** (digits - 1) + (abs(v) >> shift)
    return -place if v < 0 else place


def number_at(place, digits):
    shift = 0
    while abs(place) - shift * 2 ** (digits - 1) >= 2**digits:
        shift += 1
    number = abs(place) - shift * 2 ** (digits - 1) << shift
    return -number if place < 0 else number


def decode_numbers(data, shape, bound, digits=53, known=None):
    """Return numbers [band][row][column]."""
    bands, height, width = shape
    least, largest = struct.unpack_from("<ii", data)
    if largest < least:
        raise Damaged("the range")
    if largest - least <= bound:
        if len(data) > 8:
            raise Damaged("bytes behind the range")
        return [[[(least + largest) // 2] * width for _ in range(height)] for _ in range(bands)]
    phases, rest = first_block(data[8:])
    settings, rest = first_block(rest)
    table, content = first_block(rest)
    settings = array(settings, 6, bands)
    means = [clamp(mean, least, largest) for mean in settings[0]]
    everywhere = [regressor[:3] for regressor in regressors(bands - 1, height * width)]
    table = array(table, len(everywhere), bands)
    stream = Stream(content)
    common = Common(bound, digits, known or {}, least, largest, tuple(means))
    correction = Correction(shape, phases) if largest - least < 2**24 else None
    planes, sizes, numbers = [], [Everywhere(4), Everywhere(4)], []
    for b in range(bands):
        coefficients = []
        for lag, y, x, kind in regressors(b, height * width):
            exponent = clamp(settings[1 + kind][b], 0, 16)
            entry = table[everywhere.index((lag, y, x))][b]
            coefficients.append((lag, y, x, clamp(entry << 16 - exponent, -(2**22), 2**22)))
        planes.append(Plane(height, width, planes[-1] if planes else None))
        sizes.append(Plane(height, width, sizes[-1]))
        numbers.append([])
        for y in range(height):
            row = [decode_number(stream, y, x, planes, sizes, coefficients, common, correction) for x in range(width)]
            numbers[b].append(row)
            if correction:
                correction.learn(b, y, bound)
    stream.check_end()
    return numbers


class Correction:
    """The adaptive filter that corrects predictions.

    Attributes:
        errors: t by (band, row, column).
        row: (column, C, activity - 1) of the numbers of a row.
    """

    PLACES = (0, 0), (0, -1), (-1, 0), (0, 1), (1, 0)
    ABOVE = (*((-1, x) for x in range(-3, 5)), *((-2, x) for x in range(-4, 4)))

    def __init__(self, shape, phases):
        self.bands, self.height, self.width = shape
        self.frequencies = struct.unpack_from("<4h", phases) if phases else None
        self.offsets = array(phases[8:], 2, -(-self.bands // 8)) if phases else None
        self.weights, self.class_weights, self.seen, self.pixels = {}, {}, {}, 0
        self.errors, self.row = {}, []

    def phase_class(self, b, y, x):
        if self.frequencies is None:
            return 0
        d1, r1, d2, r2 = self.frequencies
        first = (d1 * y + r1 * x + 256 * self.offsets[0][b // 8]) % 2**16
        second = (d2 * y + r2 * x + 256 * self.offsets[1][b // 8]) % 2**16
        return 8 * (first >> 13) + (second >> 13)

    def inputs(self, b, y, x):
        """Return t by the names of the 40 weights."""
        return {
            (dy, dx, lag): self.errors.get((b - lag, y + dy, x + dx), 0)
            for dy, dx in self.PLACES
            for lag in (range(8) if (dy, dx) == (-1, 0) else range(1, 9))
        }

    def class_inputs(self, b, y, x):
        """Return t by the names of the 18 weights of a phase class."""
        return {place: self.errors.get((b, y + place[0], x + place[1]), 0) for place in [*self.ABOVE, (0, -1), (0, -2)]}

    def at(self, b, y, x):
        weights = self.class_weights.get(self.phase_class(b, y, x), {})
        total = sum(self.weights.get(name, 0) * t for name, t in self.inputs(b, y, x).items())
        return total + sum(weights.get(name, 0) * t for name, t in self.class_inputs(b, y, x).items()) >> 16

    def learn(self, b, y, bound):
        """Change the weights after a row."""
        sums = {}
        for x, correction, activity in self.row:
            s = activity * (2 * bound + 1)
            m = clamp(self.errors[b, y, x] - correction, -(4 * s + 16), 4 * s + 16)
            v = 2 * (s + 8).bit_length()
            c = self.phase_class(b, y, x)
            h = v + min((self.seen.get(c, 0) >> 9).bit_length() - 7, -4 if self.frequencies else -2)
            weights = self.class_weights.setdefault(c, {})
            for name, t in self.class_inputs(b, y, x).items():
                weights[name] = weights.get(name, 0) + (m * t + 2 ** (h - 1) >> h)
                if name in self.ABOVE:
                    weights[name] = wrap_int32(weights[name])
            self.seen[c] = self.seen.get(c, 0) + 1
            g = (m << 20) + 2 ** (v - 1) >> v
            for name, t in self.inputs(b, y, x).items():
                sums[name] = sums.get(name, 0) + g * t
        h = 20 + min((self.pixels >> 12).bit_length() - 5, -2)
        for name, total in sums.items():
            self.weights[name] = self.weights.get(name, 0) + (total + 2 ** (h - 1) >> h)
        self.pixels += self.width
        self.row = []


def decode_number(stream, y, x, planes, sizes, coefficients, common, correction):
    """Return the number at (y, x) of the last band; fill in its representative in `planes`, error size in `sizes`."""
    bound, digits, b = common.bound, common.digits, len(planes) - 1
    mean = common.means[b]
    here, before, second = sizes[-1], sizes[-2], sizes[-3]
    total = sum(factor * planes[-1 - lag].at(y + dy, x + dx) for lag, dy, dx, factor in coefficients)
    fitted = (total + 2**12 >> 13) + 8 * mean
    if (b, y, x) in common.known:
        number = common.known[b, y, x]
        limited = clamp(fitted, 8 * common.least, 8 * common.largest)
        number = limited + 4 >> 3 if number is None else clamp(number, common.least, common.largest)
        planes[-1].values[y, x] = number - mean
        here.values[y, x] = causal_sum(here.around(y, x)) >> 3
        return number
    c = correction.at(b, y, x) if correction else 0
    predicted = clamp(fitted + (27 * c >> 5), 8 * common.least, 8 * common.largest)
    shift = lattice_shift(predicted, digits + 3)
    place = place_of(predicted, digits + 3)
    r = place + 4 >> 3
    f = place - 8 * r
    first, last = place_of(common.least, digits), place_of(common.largest, digits)
    level = clamp(r - first >> max((last - first).bit_length() - 7, 0), 0, 127)

    spectral = 2 * (before.at(y, x) + second.at(y, x)) + cross_sum(before.around(y, x))
    activity = (causal_sum(here.around(y, x)) + spectral >> shift + 1) + 1
    k = max(activity.bit_length() - 4, 0)
    fine = activity >> k
    number_class = 8 * min(k, 6) + fine
    amount = fine + 8 if k > 0 else fine
    fraction = abs(f) if k == 0 and bound == 0 else 0

    phase = correction.phase_class(b, y, x) if correction else 0
    contexts = [
        ("class", number_class, fraction),
        ("phase", phase, amount),
        ("level", level, amount),
        ("band", len(planes) - 1, fine % 8),
    ]
    h = stream.magnitude(min(k, 4), contexts)
    if h == 2**24 - 1:
        h = min(h + stream.plain(34), 2**35 >> k)
    a = h
    if k > 0:
        a = 2 * a + stream.counted("bit", number_class, min(h, 3))
        a = a << k - 1 | stream.plain(k - 1)
    error = a * (2 * bound + 1)
    if a > 0 and (stream.plain(1) if k > 0 else stream.counted("sign", fraction, a > 1)):
        error = -error
    if f < 0:
        error = -error
    place = clamp(r + error, first, last)
    number = number_at(place, digits)
    planes[-1].values[y, x] = number - clamp(number - r, -(bound // 2), bound // 2) - mean
    size = a if digits == 53 else abs(number - number_at(r, digits))
    here.values[y, x] = min(size, 2**33 - 1)
    if correction:
        correction.errors[b, y, x] = clamp(8 * number - fitted, -(2**20), 2**20)
        correction.row.append((x, c, activity - 1))
    return number


# -- Floats


def decode_floats(data, shape, dtype, gaps):
    """Return samples [band][row][column]."""
    exponent, flags = struct.unpack_from("<hB", data)
    if flags == 0:
        return decode_lines(data[3:], shape, dtype, gaps)
    digits, has_rests = flags & 127, flags >> 7
    outliers, values, kinds, numbers, rests = blocks(data[3:], 5)
    values = [value for (value,) in struct.iter_unpack("<" + FLOATS[dtype], values)]
    kinds = decode_kinds(kinds, shape, len(values), gaps)
    most = 2**30 - 1
    nearest = [clamp(math.trunc(math.ldexp(value, -exponent)), -most, most) for value in values]
    known = gaps | {place: nearest[kind - 1] for place, kind in kinds.items() if kind}
    samples = decode_numbers(numbers, shape, 0, digits, known)
    stream, last = Stream(rests), 0
    for place, kind in kinds.items():
        b, y, x = place
        if kind:
            samples[b][y][x] = values[kind - 1]
        elif has_rests and place not in gaps:
            samples[b][y][x], last = decode_rest(stream, samples[b][y][x], exponent, digits, last)
        else:
            samples[b][y][x] = math.ldexp(samples[b][y][x], exponent)
    stream.check_end()
    return with_outliers(samples, zlib.decompress(outliers) if outliers else b"", shape, dtype)


def decode_rest(stream, number, exponent, digits, last):
    """Return the sample, and the depth for the next one."""
    size, below = abs(number), max(digits - abs(number).bit_length(), 0)
    if size:
        sample = math.ldexp(size << below | stream.plain(below), exponent - below)
        return math.copysign(sample, number), last
    depth = stream.magnitude("depth", [("depth",), ("depth", min(last, 15))])
    sign = -1 if stream.mixed("sign", [("sign",), ("sign", min(depth, 15))]) else 1
    sample = 0.0
    if depth:
        sample = math.ldexp(2 ** (digits - 1) + stream.plain(digits - 1), exponent + 1 - depth - digits)
    return math.copysign(sample, sign), depth


def decode_kinds(data, shape, count, gaps):
    """Return kinds by (band, row, column)."""
    bands, height, width = shape
    stream, kinds = Stream(data), {}

    def at(b, y, x):
        return kinds.get((b, y, x), 0)

    for b in range(bands):
        for y in range(height):
            for x in range(width):
                west, north, center = at(b, y, x - 1), at(b, y - 1, x), at(b - 1, y, x)
                before = at(b - 2, y, x), at(b - 1, y, x + 1), at(b - 1, y + 1, x)
                contexts = [
                    ("near", west, north, at(b, y - 1, x - 1), at(b, y - 1, x + 1), center),
                    ("band", min(b, 1023), center),
                    ("before", center, *before, west, north),
                ]
                kind = 1 if (b, y, x) not in gaps else count + 1
                while kind <= count and not stream.mixed(kind, [(*context, kind) for context in contexts]):
                    kind += 1
                kinds[b, y, x] = kind if kind <= count else 0
    stream.check_end()
    return kinds


def with_outliers(samples, outliers, shape, dtype):
    _, height, width = shape
    count = len(outliers) // (4 + struct.calcsize(FLOATS[dtype]))
    listed = struct.unpack(f"<{count}I{count}{FLOATS[dtype]}", outliers)
    for position, value in zip(listed[:count], listed[count:], strict=True):
        samples[position // (height * width)][position // width % height][position % width] = value
    return samples


def decode_lines(data, shape, dtype, gaps):
    packed, numbers, corrections = blocks(data, 3)
    lines = struct.unpack(f"<{2 * shape[0]}d", packed)
    numbers, corrections = (decode_numbers(block, shape, 0, known=gaps) for block in (numbers, corrections))
    return [
        combine(lambda j, up, g=g, o=o: floats_above(nearest_float(j * g + o, dtype), up, dtype), *bands)
        for g, o, *bands in zip(lines[: shape[0]], lines[shape[0] :], numbers, corrections, strict=True)
    ]


def floats_above(value, count, dtype):
    """Return the float that is `count` floats above a value."""
    high = 2 ** (8 * struct.calcsize(BITS[dtype]) - 1) - 1
    (bits,) = struct.unpack("<" + BITS[dtype], struct.pack("<" + FLOATS[dtype], value))
    bits = (bits if bits >= 0 else bits ^ high) + count
    return struct.unpack("<" + FLOATS[dtype], struct.pack("<" + BITS[dtype], bits if bits >= 0 else bits ^ high))[0]


# -- Samples


def nearest_float(number, dtype):
    """Return the nearest float of a type."""
    try:
        return struct.unpack("<" + FLOATS[dtype], struct.pack("<" + FLOATS[dtype], number))[0]
    except OverflowError:
        largest = {"float16": 65504.0, "float32": 2.0**128 - 2.0**104}[dtype]
        return math.copysign(largest, number)


def float32(number):
    return nearest_float(number, "float32")


def next_float32(number, up):
    """Return the next float32 above or below a float32."""
    if number == 0:
        return 2.0**-149 if up else -(2.0**-149)
    (bits,) = struct.unpack("<i", struct.pack("<f", number))
    return struct.unpack("<f", struct.pack("<i", bits + (1 if up == (number > 0) else -1)))[0]


def sample(number, dtype, parameters):
    number = clamp(number, *NUMBERS[dtype])
    if dtype not in FLOATS:
        return number + 2**31 if dtype == "uint32" else number
    quotient = number / parameters["divisor"]
    if dtype == "float64" and not parameters.get("has_short_quotient"):
        return quotient
    return nearest_float(float32(quotient), dtype)


def round_sample(value, dtype):
    """Return the sample of a value without a bound; Python's `round` rounds halves to even."""
    return nearest_float(value, dtype) if dtype in FLOATS else clamp(round(value), *RANGES[dtype])


# -- Mask and moves


def move(samples, valid, nodata, bits, dtype, has_bound):
    """Move samples off the nodata value of their band as the bits say."""
    is_float = dtype == "float32"
    hits = 0
    for band, band_valid, value in zip(samples, valid, nodata, strict=True):
        value = float32(value) if is_float and value is not None else value
        for row, row_valid in zip(band, band_valid, strict=True):
            for x, is_valid in enumerate(row_valid):
                if is_valid and row[x] == value:
                    up = hits // 8 < len(bits) and bool(bits[hits // 8] >> 7 - hits % 8 & 1)
                    if not is_float and value in RANGES[dtype]:
                        up = value == RANGES[dtype][0]
                    row[x] = next_float32(value, up) if is_float else value + (1 if up else -1)
                    hits += 1
    if has_bound and len(bits) != (hits + 7) // 8:
        raise Damaged("moves")
