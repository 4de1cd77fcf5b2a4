"""A second, slow implementation of CCSDS 123.0-B-2: the equations of the standard, with integers and bit strings.

The codec is compared with it, so it shares only the names of the parameters and the trees of the hybrid coder with the
codec. Every quantity of the standard is an array over (z, y, x); nothing is fused, updated in place or kept from the
preceding sample. It writes what the codec writes, and all that other encoders may write.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np

from coding.classical.ccsds123.hybrid_codes import SYMBOL_LIMITS, THRESHOLDS, TREES

CODERS = ("sample-adaptive", "hybrid", "block-adaptive")
LOCAL_SUMS = ("wide neighbor", "narrow neighbor", "wide column", "narrow column")


@dataclass
class Limits:
    """Error limits of one kind: bits of each, whether bands have their own, and the limits (periods, bands)."""

    bits: int
    per_band: bool
    table: list

    def written(self, period):
        row = self.table[period] if self.per_band else self.table[period][:1]
        return "".join(f"{limit:0{self.bits}b}" for limit in row)


@dataclass
class Options:
    """What other encoders may choose; None stands for the choice of the codec, and for what a header leaves out.

    Attributes:
        D: dynamic range; the smallest.
        M: interleaving depth, 0 for band-sequential order.
        B: bytes of an output word.
        R: register size.
        Q, weights: resolution and table (bands, weights) of initial weights.
        exponent_offsets: table (bands, weights), with one column for all directions.
        absolute, relative: `Limits`; one absolute limit, max_error.
        u: log2 of the period of error limits.
        phi, psi: for each band.
        K: k'' for each band.
        accumulators: of the hybrid coder at the start of each band.
        supplementary: bits of tables, each with its own header.
    """

    D: int | None = None
    M: int = 0
    B: int = 1
    R: int = 64
    Q: int = 0
    weights: list | None = None
    exponent_offsets: list | None = None
    absolute: Limits | None = None
    relative: Limits | None = None
    u: int | None = None
    phi: list | None = None
    psi: list | None = None
    K: list | None = None
    accumulators: list | None = None
    supplementary: list = field(default_factory=list)


def filled(bits, size=8):
    return bits + -len(bits) % size * "0"


def twos_complement(value, size):
    return f"{value % 2**size:0{size}b}"


class PlainImage:
    """An image (C, H, W) of uint16 or int16, and its quantities in the standard for the parameters of a codec."""

    def __init__(self, cube, codec, options):
        self.codec, self.options, self.cube = codec, options, cube.astype(object)
        self.N_z, self.N_y, self.N_x = cube.shape
        self.signed = cube.dtype == np.int16
        self.absolute, self.relative = options.absolute, options.relative
        m = codec.max_error
        if m and not (self.absolute or self.relative):
            self.absolute = Limits(m.bit_length(), False, [[m] * self.N_z])
        self.D = options.D or self.smallest_dynamic_range(cube, m)
        self.s_min = -(2 ** (self.D - 1)) if self.signed else 0
        self.s_max = self.s_min + 2**self.D - 1
        self.s_mid = 0 if self.signed else 2 ** (self.D - 1)
        self.local_sums = codec.local_sums
        self.full = codec.full_prediction
        if self.N_x == 1:
            self.full = False
            self.local_sums = codec.local_sums.replace("neighbor", "column")
        self.K = options.K or [min(codec.accumulator_exponent, self.D - 2)] * self.N_z
        self.phi = options.phi or [codec.damping] * self.N_z
        lossless = not (self.absolute or self.relative)
        self.psi = [0] * self.N_z if lossless else options.psi or [codec.offset] * self.N_z

    def smallest_dynamic_range(self, cube, m):
        for D in range(2, 17):
            low, high = (-(2 ** (D - 1)), 2 ** (D - 1) - 1) if self.signed else (0, 2**D - 1)
            if low <= cube.min() and cube.max() <= high and m < 2 ** (D - 1):
                return D
        raise AssertionError("more than 16 bits")

    # -- predictor -----------------------------------------------------------------------------

    def local_sum(self, z, y, x):
        s = self.representatives
        kind = self.local_sums
        if kind == "wide neighbor":
            if y == 0:
                return 4 * s[z, y, x - 1]
            if x == 0:
                return 2 * s[z, y - 1, x] + 2 * s[z, y - 1, x + 1]
            if x == self.N_x - 1:
                return s[z, y, x - 1] + s[z, y - 1, x - 1] + 2 * s[z, y - 1, x]
            return s[z, y, x - 1] + s[z, y - 1, x - 1] + s[z, y - 1, x] + s[z, y - 1, x + 1]
        if kind == "narrow neighbor" and y > 0:
            if x == 0:
                return 2 * s[z, y - 1, x] + 2 * s[z, y - 1, x + 1]
            if x == self.N_x - 1:
                return 2 * s[z, y - 1, x - 1] + 2 * s[z, y - 1, x]
            return s[z, y - 1, x - 1] + 2 * s[z, y - 1, x] + s[z, y - 1, x + 1]
        if y > 0:
            return 4 * s[z, y - 1, x]
        if kind == "wide column":
            return 4 * s[z, y, x - 1]
        return 4 * s[z - 1, y, x - 1] if z > 0 else 4 * self.s_mid

    def difference_vector(self, z, y, x):
        s, sigma, vector = self.representatives, self.local_sum(z, y, x), []
        if self.full and y == 0:
            vector += [0, 0, 0]
        elif self.full and x == 0:
            vector += 3 * [4 * s[z, y - 1, x] - sigma]
        elif self.full:
            vector += [4 * neighbor - sigma for neighbor in (s[z, y - 1, x], s[z, y, x - 1], s[z, y - 1, x - 1])]
        for i in range(1, min(z, self.codec.prediction_bands) + 1):
            vector.append(4 * s[z - i, y, x] - self.local_sum(z - i, y, x))
        return vector

    def initial_weights(self, z):
        Omega, Q = self.codec.weight_resolution, self.options.Q
        if self.options.weights:
            # 2^(Omega + 3 - Q) L + ceil(2^(Omega + 2 - Q) - 1)
            middle = -((2**Q - 2 ** (Omega + 2)) // 2**Q)
            return [2 ** (Omega + 3 - Q) * value + middle for value in self.options.weights[z]]
        weights = [0, 0, 0] if self.full else []
        spectral = [7 * 2**Omega // 8]
        while len(spectral) < min(z, self.codec.prediction_bands):
            spectral.append(spectral[-1] // 8)
        return weights + spectral[: min(z, self.codec.prediction_bands)]

    def exponent_offsets(self, z):
        if not self.options.exponent_offsets:
            return [0] * (3 * self.full + min(z, self.codec.prediction_bands))
        offsets = self.options.exponent_offsets[z]
        return [*offsets[:1], *offsets[:1], *offsets] if self.full else offsets

    def updated_weights(self, weights, vector, error, t, offsets):
        codec = self.codec
        learned = codec.weight_exponent_first + (t - self.N_x) // 2**codec.weight_interval_exponent
        learned = max(codec.weight_exponent_first, min(learned, codec.weight_exponent_last))
        sign = 1 if error >= 0 else -1
        w_min, w_max = -(2 ** (codec.weight_resolution + 2)), 2 ** (codec.weight_resolution + 2) - 1
        updated = []
        for w, u, offset in zip(weights, vector, offsets, strict=True):
            rho = learned + self.D - codec.weight_resolution + offset
            # floor((sign * 2^-rho * u + 1) / 2), with integers
            step = (sign * u + 2**rho) // 2 ** (rho + 1) if rho >= 0 else (sign * u * 2**-rho + 1) // 2
            updated.append(max(w_min, min(w + step, w_max)))
        return updated

    def max_error(self, z, y, s_hat):
        period = y // 2**self.options.u if self.options.u is not None else 0
        limits = []
        if self.absolute:
            limits.append(self.absolute.table[period][z])
        if self.relative:
            limits.append(self.relative.table[period][z] * abs(s_hat) // 2**self.D)
        return min(limits, default=0)

    def predict(self):
        """Return delta of every sample, and the decoded samples."""
        codec, s_min, s_max = self.codec, self.s_min, self.s_max
        Omega, Theta, R = codec.weight_resolution, codec.representative_resolution, self.options.R
        self.representatives = np.zeros(self.cube.shape, object)
        deltas, decoded = np.zeros(self.cube.shape, object), np.zeros(self.cube.shape, object)
        for z, y, x in np.ndindex(self.cube.shape):
            s, t = self.cube[z, y, x], y * self.N_x + x
            if t == 0:
                s_hat = self.cube[z - 1, 0, 0] if z > 0 and codec.prediction_bands > 0 else self.s_mid
                q = s - s_hat
                theta = min(s_hat - s_min, s_max - s_hat)
                deltas[z, y, x] = self.mapped(q, theta, 2 * s_hat)
                self.representatives[z, y, x] = decoded[z, y, x] = s
                continue
            if t == 1:
                weights = self.initial_weights(z)
            vector = self.difference_vector(z, y, x)
            d_hat = sum(w * u for w, u in zip(weights, vector, strict=True))
            s_breve = d_hat + 2**Omega * (self.local_sum(z, y, x) - 4 * self.s_mid)
            s_breve = (s_breve + 2 ** (R - 1)) % 2**R - 2 ** (R - 1)
            s_breve += 2 ** (Omega + 2) * self.s_mid + 2 ** (Omega + 1)
            s_breve = max(2 ** (Omega + 2) * s_min, min(s_breve, 2 ** (Omega + 2) * s_max + 2 ** (Omega + 1)))
            s_tilde = s_breve // 2 ** (Omega + 1)
            s_hat = s_tilde // 2

            m = self.max_error(z, y, s_hat)
            residual = s - s_hat
            sign = (residual > 0) - (residual < 0)
            q = sign * ((abs(residual) + m) // (2 * m + 1))
            center = max(s_min, min(s_hat + q * (2 * m + 1), s_max))
            theta = min((s_hat - s_min + m) // (2 * m + 1), (s_max - s_hat + m) // (2 * m + 1))
            deltas[z, y, x] = self.mapped(q, theta, s_tilde)
            decoded[z, y, x] = center

            sign, phi = (q > 0) - (q < 0), self.phi[z]
            double = 4 * (2**Theta - phi) * (center * 2**Omega - sign * m * self.psi[z] * 2 ** (Omega - Theta))
            double = (double + phi * s_breve - phi * 2 ** (Omega + 1)) // 2 ** (Omega + Theta + 1)
            self.representatives[z, y, x] = (double + 1) // 2
            weights = self.updated_weights(weights, vector, 2 * center - s_tilde, t, self.exponent_offsets(z))
        return deltas, decoded

    @staticmethod
    def mapped(q, theta, s_tilde):
        if abs(q) > theta:
            return abs(q) + theta
        if 0 <= (-1) ** (s_tilde % 2) * q <= theta:
            return 2 * abs(q)
        return 2 * abs(q) - 1

    # -- entropy coders ----------------------------------------------------------------------------

    def order(self):
        """Return (z, y, x) of the samples in the order of the stream."""
        M = self.options.M
        if not M:
            return list(np.ndindex(self.cube.shape))
        return [
            (z, y, x)
            for y in range(self.N_y)
            for first in range(0, self.N_z, M)
            for x in range(self.N_x)
            for z in range(first, min(first + M, self.N_z))
        ]

    def body(self, deltas):
        """Return the bits after the header."""
        coder = HybridCoder(self) if self.codec.entropy_coder == "hybrid" else SampleAdaptiveCoder(self)
        bits = ""
        for z, y, x in self.order():
            if z == x == 0 and self.options.u is not None and y % 2**self.options.u == 0:
                period = y // 2**self.options.u
                bits += "".join(limits.written(period) for limits in (self.absolute, self.relative) if limits)
            bits += coder.bits(z, y * self.N_x + x, deltas[z, y, x])
        return bits + coder.tail()

    # -- header ------------------------------------------------------------------------------------

    def header(self):
        options, coder = self.options, self.codec.entropy_coder
        fidelity = bool(self.absolute) + 2 * bool(self.relative)
        image = "00000000" + "".join(f"{side % 2**16:016b}" for side in (self.N_x, self.N_y, self.N_z))
        image += f"{self.signed:b}00{self.D % 16:04b}{not options.M:b}{options.M % 2**16:016b}"
        image += f"00{options.B % 8:03b}{CODERS.index(coder):02b}0{fidelity:02b}00{len(options.supplementary):04b}"
        image += "".join(map(filled, options.supplementary))
        return image + self.predictor_header() + self.coder_header(coder)

    def predictor_header(self):
        codec, options = self.codec, self.options
        represented = any(self.phi) or any(self.psi)
        custom, offset = bool(options.weights), bool(options.exponent_offsets)
        bits = f"0{represented:b}{codec.prediction_bands:04b}{not self.full:b}{offset:b}"
        bits += f"{LOCAL_SUMS.index(self.local_sums):02b}{options.R % 64:06b}"
        bits += f"{codec.weight_resolution - 4:04b}{codec.weight_interval_exponent - 4:04b}"
        bits += f"{codec.weight_exponent_first + 6:04b}{codec.weight_exponent_last + 6:04b}"
        bits += f"{offset:b}{custom:b}{custom:b}{options.Q:05b}"
        for table, size in ((options.weights, options.Q), (options.exponent_offsets, 4)):
            bits += filled("".join(twos_complement(value, size) for value in itertools.chain(*table or [])))
        if (self.absolute or self.relative) and options.M:
            bits += f"0{options.u is not None:b}00{options.u or 0:04b}"
        for limits in (self.absolute, self.relative):
            if limits:
                bits += f"0{limits.per_band:b}00{limits.bits % 16:04b}"
                bits += filled(limits.written(0)) if options.u is None else ""
        if represented:
            Theta = codec.representative_resolution
            bits += f"00000{Theta:03b}"
            for table, values in ((options.phi, self.phi), (options.psi, self.psi)):
                bits += "01100000" if table else f"0000{values[0]:04b}"
            for table, values in ((options.phi, self.phi), (options.psi, self.psi)):
                bits += filled("".join(f"{value:0{Theta}b}" for value in values if Theta)) if table else ""
        return bits

    def coder_header(self, coder):
        codec = self.codec
        bits = f"{codec.unary_limit % 32:05b}{codec.rescaling_exponent - 4:03b}{codec.initial_count_exponent % 8:03b}"
        if coder == "hybrid":
            return bits + "00000"
        if self.options.K:
            return bits + "11111" + filled("".join(f"{k:04b}" for k in self.K))
        return bits + f"{self.K[0]:04b}0"


class SampleAdaptiveCoder:
    def __init__(self, image):
        self.image, self.codec = image, image.codec
        self.counters, self.accumulators, self.preceding = {}, {}, {}

    def bits(self, z, t, delta):
        codec, D = self.codec, self.image.D
        if t == 0:
            return f"{delta:0{D}b}"
        if t == 1:
            self.counters[z] = 2**codec.initial_count_exponent
            self.accumulators[z] = (3 * 2 ** (self.image.K[z] + 6) - 49) * self.counters[z] // 2**7
        elif self.counters[z] == 2**codec.rescaling_exponent - 1:
            self.accumulators[z] = (self.accumulators[z] + self.preceding[z] + 1) // 2
            self.counters[z] = (self.counters[z] + 1) // 2
        else:
            self.accumulators[z] += self.preceding[z]
            self.counters[z] += 1
        self.preceding[z] = delta
        limit = self.accumulators[z] + 49 * self.counters[z] // 2**7
        k = max([k for k in range(1, D - 1) if self.counters[z] * 2**k <= limit], default=0)
        zeros = delta // 2**k
        if zeros < codec.unary_limit:
            return "0" * zeros + "1" + (f"{delta % 2**k:0{k}b}" if k else "")
        return "0" * codec.unary_limit + f"{delta:0{D}b}"

    def tail(self):
        return ""


class HybridCoder:
    """The accumulators of band-sequential images start with the mean index of the band before, as the codec does."""

    def __init__(self, image):
        self.image, self.codec = image, image.codec
        self.accumulators, self.counters = {}, {}
        self.codes = [code_words(text, limit) for text, limit in zip(TREES, SYMBOL_LIMITS, strict=True)]
        self.words = ["" for _ in self.codes]

    def first_accumulator(self, z):
        count = 2**self.codec.initial_count_exponent
        if self.image.options.accumulators:
            return self.image.options.accumulators[z]
        if z == 0:
            mean = 2 ** min(self.codec.accumulator_exponent, self.image.D - 2)
            return min(4 * mean * count, 2**self.image.D * count - 1)
        return min(self.accumulators[z - 1] * count // self.counters[z - 1], 2**self.image.D * count - 1)

    def bits(self, z, t, delta):
        D = self.image.D
        if t == 0:
            self.counters[z], self.accumulators[z] = 2**self.codec.initial_count_exponent, self.first_accumulator(z)
            return f"{delta:0{D}b}"
        bits = ""
        if self.counters[z] == 2**self.codec.rescaling_exponent - 1:
            bits = f"{self.accumulators[z] % 2}"
            self.counters[z] = (self.counters[z] + 1) // 2
            self.accumulators[z] = (self.accumulators[z] + 4 * delta + 1) // 2
        else:
            self.counters[z] += 1
            self.accumulators[z] += 4 * delta
        accumulator, counter = self.accumulators[z], self.counters[z]
        if accumulator * 2**14 >= THRESHOLDS[0] * counter:
            limit = accumulator + 49 * counter // 2**5
            return bits + self.reversed(
                delta, max(k for k in range(2, max(D - 2, 2) + 1) if counter * 2 ** (k + 2) <= limit)
            )
        code = max(i for i in range(16) if accumulator * 2**14 < counter * THRESHOLDS[i])
        if delta <= SYMBOL_LIMITS[code]:
            self.words[code] += f"{delta:X}"
        else:
            self.words[code] += "Z"
            bits += self.reversed(delta - SYMBOL_LIMITS[code] - 1, 0)
        codewords, _ = self.codes[code]
        if self.words[code] in codewords:
            bits += codewords[self.words[code]]
            self.words[code] = ""
        return bits

    def reversed(self, value, k):
        zeros = value // 2**k
        if zeros < self.codec.unary_limit:
            return (f"{value % 2**k:0{k}b}" if k else "") + "1" + "0" * zeros
        return f"{value:0{self.image.D}b}" + "0" * self.codec.unary_limit

    def tail(self):
        size = 2 + self.image.D + self.codec.rescaling_exponent
        bits = "".join(flush[word] for word, (_, flush) in zip(self.words, self.codes, strict=True))
        return bits + "".join(f"{self.accumulators[z]:0{size}b}" for z in range(self.image.N_z)) + "1"


def code_words(text, limit):
    """Return the codewords and the flush words of a tree, input word -> bits; Z is the escape symbol."""
    lengths, flush_lengths, letters = {}, {}, iter(text)

    def walk(word):
        letter = next(letters)
        size = ord(letter.lower()) - ord("a") + 1
        if letter.islower():
            lengths[word] = size
            return
        flush_lengths[word] = size
        for symbol in "0123456789ABC"[: limit + 1] + "Z":
            walk(word + symbol)

    walk("")
    assert next(letters, None) is None
    return canonical(lengths), canonical(flush_lengths)


def canonical(lengths):
    words, value, size = {}, 0, 0
    for word in sorted(lengths, key=lambda word: (lengths[word], len(word), word)):
        value <<= lengths[word] - size
        size = lengths[word]
        words[word] = f"{value:0{size}b}"[::-1]
        value += 1
    return words


def plain_encode(cube, codec, options=None):
    """Return the compressed image of `cube`, and the decoded cube."""
    image = PlainImage(cube, codec, options or Options())
    deltas, decoded = image.predict()
    bits = filled(image.header() + image.body(deltas), 8 * image.options.B)
    return int(bits, 2).to_bytes(len(bits) // 8, "big"), decoded.astype(cube.dtype)
