"""A second, slow implementation of CCSDS 123.0-B-2: the equations of the standard, with integers and bit strings.

The codec is compared with it, so it shares only the names of the parameters with the codec. Every quantity of the
standard is an array over (z, y, x); nothing is fused, updated in place or kept from the preceding sample.
"""

import numpy as np


class PlainImage:
    """An image (C, H, W) of uint16 or int16, and its quantities in the standard for the parameters of a codec."""

    def __init__(self, cube, codec):
        self.codec, self.m, self.cube = codec, codec.max_error, cube.astype(object)
        self.N_z, self.N_y, self.N_x = cube.shape
        self.signed = cube.dtype == np.int16
        self.D = self.smallest_dynamic_range()
        self.s_min = -(2 ** (self.D - 1)) if self.signed else 0
        self.s_max = self.s_min + 2**self.D - 1
        self.s_mid = 0 if self.signed else 2 ** (self.D - 1)
        self.local_sums = codec.local_sums
        self.full = codec.full_prediction
        if self.N_x == 1:
            self.full = False
            self.local_sums = codec.local_sums.replace("neighbor", "column")
        self.K = min(codec.accumulator_exponent, self.D - 2)
        self.psi = codec.offset if self.m else 0

    def smallest_dynamic_range(self):
        for D in range(2, 17):
            low, high = (-(2 ** (D - 1)), 2 ** (D - 1) - 1) if self.signed else (0, 2**D - 1)
            if low <= self.cube.min() and self.cube.max() <= high and self.m < 2 ** (D - 1):
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

    def default_weights(self, z):
        weights = [0, 0, 0] if self.full else []
        spectral = [7 * 2**self.codec.weight_resolution // 8]
        while len(spectral) < min(z, self.codec.prediction_bands):
            spectral.append(spectral[-1] // 8)
        return weights + spectral[: min(z, self.codec.prediction_bands)]

    def updated_weights(self, weights, vector, error, t):
        codec = self.codec
        learned = codec.weight_exponent_first + (t - self.N_x) // 2**codec.weight_interval_exponent
        learned = max(codec.weight_exponent_first, min(learned, codec.weight_exponent_last))
        rho = learned + self.D - codec.weight_resolution
        sign = 1 if error >= 0 else -1
        w_min, w_max = -(2 ** (codec.weight_resolution + 2)), 2 ** (codec.weight_resolution + 2) - 1
        updated = []
        for w, u in zip(weights, vector, strict=True):
            # floor((sign * 2^-rho * u + 1) / 2), with integers
            step = (sign * u + 2**rho) // 2 ** (rho + 1) if rho >= 0 else (sign * u * 2**-rho + 1) // 2
            updated.append(max(w_min, min(w + step, w_max)))
        return updated

    def predict(self):
        """Return delta of every sample, and the decoded samples."""
        codec, m, s_min, s_max = self.codec, self.m, self.s_min, self.s_max
        Omega, Theta, phi = codec.weight_resolution, codec.representative_resolution, codec.damping
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
                weights = self.default_weights(z)
            vector = self.difference_vector(z, y, x)
            d_hat = sum(w * u for w, u in zip(weights, vector, strict=True))
            s_breve = d_hat + 2**Omega * (self.local_sum(z, y, x) - 4 * self.s_mid)
            assert -(2**63) <= s_breve < 2**63
            s_breve += 2 ** (Omega + 2) * self.s_mid + 2 ** (Omega + 1)
            s_breve = max(2 ** (Omega + 2) * s_min, min(s_breve, 2 ** (Omega + 2) * s_max + 2 ** (Omega + 1)))
            s_tilde = s_breve // 2 ** (Omega + 1)
            s_hat = s_tilde // 2

            residual = s - s_hat
            sign = (residual > 0) - (residual < 0)
            q = sign * ((abs(residual) + m) // (2 * m + 1))
            center = max(s_min, min(s_hat + q * (2 * m + 1), s_max))
            theta = min((s_hat - s_min + m) // (2 * m + 1), (s_max - s_hat + m) // (2 * m + 1))
            deltas[z, y, x] = self.mapped(q, theta, s_tilde)
            decoded[z, y, x] = center

            sign = (q > 0) - (q < 0)
            double = 4 * (2**Theta - phi) * (center * 2**Omega - sign * m * self.psi * 2 ** (Omega - Theta))
            double = (double + phi * s_breve - phi * 2 ** (Omega + 1)) // 2 ** (Omega + Theta + 1)
            self.representatives[z, y, x] = (double + 1) // 2
            weights = self.updated_weights(weights, vector, 2 * center - s_tilde, t)
        return deltas, decoded

    @staticmethod
    def mapped(q, theta, s_tilde):
        if abs(q) > theta:
            return abs(q) + theta
        if 0 <= (-1) ** (s_tilde % 2) * q <= theta:
            return 2 * abs(q)
        return 2 * abs(q) - 1

    # -- sample-adaptive entropy coder -------------------------------------------------------------

    def codewords(self, deltas):
        """Return the bits of one band, given its deltas in the order of t."""
        codec, D = self.codec, self.D
        bits = f"{deltas[0]:0{D}b}"
        for t in range(1, len(deltas)):
            if t == 1:
                counter = 2**codec.initial_count_exponent
                accumulator = (3 * 2 ** (self.K + 6) - 49) * counter // 2**7
            elif counter == 2**codec.rescaling_exponent - 1:
                accumulator, counter = (accumulator + deltas[t - 1] + 1) // 2, (counter + 1) // 2
            else:
                accumulator, counter = accumulator + deltas[t - 1], counter + 1
            fitting = [k for k in range(1, D - 1) if counter * 2**k <= accumulator + 49 * counter // 2**7]
            k = max(fitting, default=0)
            zeros = deltas[t] // 2**k
            if zeros < codec.unary_limit:
                bits += "0" * zeros + "1" + (f"{deltas[t] % 2**k:0{k}b}" if k else "")
            else:
                bits += "0" * codec.unary_limit + f"{deltas[t]:0{D}b}"
        return bits

    # -- header ------------------------------------------------------------------------------------

    def header(self):
        codec, m = self.codec, self.m
        sums = ("wide neighbor", "narrow neighbor", "wide column", "narrow column").index(self.local_sums)
        represented = codec.damping > 0 or self.psi > 0
        image = "00000000" + "".join(f"{side % 2**16:016b}" for side in (self.N_x, self.N_y, self.N_z))
        image += f"{self.signed:b}00{self.D % 16:04b}1" + 16 * "0"
        image += "00" + "001" + "00" + "0" + f"{m > 0:02b}" + "00" + "0000"
        predictor = f"0{represented:b}{codec.prediction_bands:04b}{not self.full:b}0{sums:02b}000000"
        predictor += f"{codec.weight_resolution - 4:04b}{codec.weight_interval_exponent - 4:04b}"
        predictor += f"{codec.weight_exponent_first + 6:04b}{codec.weight_exponent_last + 6:04b}00000000"
        if m:
            limit = f"{m:b}"
            predictor += f"0000{len(limit):04b}" + limit + -len(limit) % 8 * "0"
        if represented:
            predictor += f"00000{codec.representative_resolution:03b}0000{codec.damping:04b}0000{self.psi:04b}"
        coder = f"{codec.unary_limit % 32:05b}{codec.rescaling_exponent - 4:03b}"
        coder += f"{codec.initial_count_exponent % 8:03b}{self.K:04b}0"
        return image + predictor + coder


def plain_encode(cube, codec):
    """Return the compressed image of `cube`, and the decoded cube."""
    image = PlainImage(cube, codec)
    deltas, decoded = image.predict()
    bits = image.header() + "".join(image.codewords(band.ravel()) for band in deltas)
    bits += -len(bits) % 8 * "0"
    return int(bits, 2).to_bytes(len(bits) // 8, "big"), decoded.astype(cube.dtype)
