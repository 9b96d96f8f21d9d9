"""OverQ and its published figures, from the specification alone (specs/overq_and_term_revealing.md, A1 to A12).

Plain Python, one lane at a time; nothing here imports bitwright. A tile is a list of levels x / step; a slot is a
payload and a state's letter.
"""

import math
from dataclasses import dataclass
from itertools import pairwise, product

LETTERS = "NMLC"  # A2: codes 00, 01, 10, 11
TRANSITIONS = {"NN", "NM", "NL", "MN", "MC", "CC", "CN", "LN"}  # A2
Slot = tuple[int, str]


@dataclass(frozen=True)
class Oracle:
    """Options of one encoder. Signed lanes carry a sign and bits - 1 magnitude bits in every slot."""

    bits: int = 4
    cascade: int = 0  # 0: no range overwriting (A1)
    precision: bool = False
    largest: bool = False
    signed: bool = False

    @property
    def digit_bits(self) -> int:
        return self.bits - self.signed

    @property
    def radix(self) -> int:
        """B of A1. Signed: our rule is value = high · B + low in magnitudes, and both slots carry the sign."""
        return 1 << self.digit_bits

    def base(self, level: float) -> int:
        """q of A1. Ties go toward +infinity, below zero too."""
        return math.floor(min(max(level, -(2.0**40)), 2.0**40) + 0.5)

    def fine(self, level: float) -> int:
        """f of A1 of a normal value, or the nearest f that reads back as normal: 15.5 would be an outlier.

        That is the one deviation from A1. In signed lanes -1/2 would be a zero; -(B - 1/2) is still normal.
        """
        half, most = self.radix // 2, (self.radix - 1) * self.radix + self.radix // 2
        lowest, highest = (half, most - 1) if level > 0 else (-most, -half - 1)
        return min(max(math.floor(level * self.radix + 0.5), lowest), highest)

    def payload(self, level: float, magnitude: int) -> int:
        """Bits of one digit with the level's sign; two's complement."""
        return (-magnitude if level < 0 else magnitude) & ((1 << self.bits) - 1)

    def owners(self, q: list[int]) -> dict[int, int]:
        """Used zeros and the outlier that gets each. A zero serves the run of non-zeros before it (A3.6)."""
        used = {}
        for zero in (i for i, code in enumerate(q) if code == 0):
            start = zero
            while start > 0 and q[start - 1] != 0 and zero - start < self.cascade:
                start -= 1
            eligible = [i for i in range(start, zero) if abs(q[i]) >= self.radix]
            if eligible:
                used[zero] = max(eligible, key=lambda i: (abs(q[i]), -i)) if self.largest else eligible[0]
        return used

    def encode(self, tile: list[float]) -> list[Slot]:
        """A complete pass of range overwriting, then one of precision overwriting on the zeros that are left (A3.5)."""
        radix, q = self.radix, [self.base(level) for level in tile]
        slots = [(self.payload(x, min(abs(code), radix - 1)), "N") for x, code in zip(tile, q)]
        own, moved = slots[:], self.owners(q)
        taken = set()
        for zero, home in moved.items():
            value = min(abs(q[home]), radix * radix - 1)
            slots[home] = self.payload(tile[home], value % radix), "N"
            slots[home + 1] = self.payload(tile[home], value // radix), "M"
            for lane in range(home + 2, zero + 1):
                slots[lane] = own[lane - 1][0], "C"
            taken.update(range(home, zero + 1))
        for lane, code in enumerate(q[:-1]):
            if self.precision and lane not in taken and 0 < abs(code) < radix and q[lane + 1] == 0:
                high, low = divmod(abs(self.fine(tile[lane])), radix)
                slots[lane : lane + 2] = [(self.payload(tile[lane], high), "N"), (self.payload(tile[lane], low), "L")]
        return slots

    def scan(self, tile: list[float]) -> list[Slot]:
        """The single left-to-right scan of A3, which picks the leftmost outlier. Unsigned."""
        radix, q, i = self.radix, [self.base(level) for level in tile], 0
        slots = [(min(code, radix - 1), "N") for code in q]
        while i < len(q):
            reach = range(i + 1, min(i + self.cascade, len(q) - 1) + 1)
            zero = next((j for j in reach if q[j] == 0), None)
            if q[i] >= radix and zero is not None:
                value = min(q[i], radix * radix - 1)
                slots[i], slots[i + 1] = (value & (radix - 1), "N"), (value >> self.bits, "M")
                slots[i + 2 : zero + 1] = [(min(q[j - 1], radix - 1), "C") for j in range(i + 2, zero + 1)]
                i = zero
            elif self.precision and 0 < q[i] < radix and i + 1 < len(q) and q[i + 1] == 0:
                slots[i] = self.fine(tile[i]) >> self.bits, "N"
                slots[i + 1] = self.fine(tile[i]) & (radix - 1), "L"
                i += 1
            i += 1
        return slots

    def digit(self, payload: int) -> int:
        """The number that a payload's bits stand for."""
        return payload - (1 << self.bits) if self.signed and payload >> (self.bits - 1) else payload

    def shift(self, state: str) -> int:
        """Left shift of a product, which counts step / radix (A4)."""
        return {"N": 1, "C": 1, "M": 2, "L": 0}[state] * self.digit_bits

    def decode(self, slots: list[Slot]) -> list[int]:
        """Elements of a tile, in units of step / radix (A4)."""
        elements = [0] * len(slots)
        for lane, (payload, state) in enumerate(slots):
            elements[lane - (state != "N")] += self.digit(payload) << self.shift(state)
        return elements

    def dot(self, slots: list[Slot], weights: list[int]) -> int:
        """What comes out below one column of processing elements (A4), in units of step / radix."""
        assert slots[0][1] == "N", "no processing element lies above the first"
        total = 0
        for lane, (payload, state) in enumerate(slots):
            weight = weights[lane] if state == "N" else weights[lane - 1]
            total += (weight * self.digit(payload)) << self.shift(state)
        return total

    def optimum(self, tile: list[float]) -> int:
        """Most outliers that any choice of disjoint regions [outlier, some zero at most `cascade` on] covers."""
        q = [self.base(level) for level in tile]
        best = [0] * (len(q) + 1)
        for i in reversed(range(len(q))):
            reach = range(i + 1, min(i + self.cascade, len(q) - 1) + 1) if abs(q[i]) >= self.radix else ()
            best[i] = max([best[i + 1], *(1 + best[j + 1] for j in reach if q[j] == 0)])
        return best[0]


def covered(slots: list[Slot]) -> int:
    """Outliers that keep all their bits: one M each."""
    return sum(state == "M" for _, state in slots)


def transitions(letters: str) -> set[str]:
    return {a + b for a, b in pairwise(letters)}


def text(slots: list[Slot]) -> str:
    """The specification's notation of a tile."""
    return " ".join(f"{payload}{state}" for payload, state in slots)


def coverage(zeros: float, outliers: float, cascade: int, tile: int) -> float:
    """Expected share of outliers covered in a tile of independent lanes, by enumerating all tiles of three classes."""
    oracle = Oracle(bits=2, cascade=cascade)
    chance = {0.0: zeros, 1.0: 1 - zeros - outliers, 5.0: outliers}
    tiles = product(chance, repeat=tile)
    found = math.fsum(math.prod(chance[x] for x in t) * len(oracle.owners([oracle.base(x) for x in t])) for t in tiles)
    return found / (outliers * tile)


def lcg(count: int, seed: int) -> list[int]:
    """A12's generator."""
    values = []
    for _ in range(count):
        seed = (1103515245 * seed + 12345) & 0x7FFFFFFF
        values.append(seed >> 16)
    return values


def bulk(oracle: Oracle) -> tuple[list[list[float]], list[int]]:
    """A12's bulk vector: four tiles of 64 levels f / 16, and 256 weights. The levels give back both q and f."""
    r, levels, codes = lcg(512, 3), [], []
    for i in range(256):
        q = 0 if r[i] % 100 < 50 else 16 + r[i + 256] % 48 if r[i] % 100 >= 88 else 1 + r[i + 256] % 15
        f = 16 * q + ((r[i] >> 7) % 16 - 8 if q else 0)
        levels.append(f / 16)
        codes.append(q)
        assert oracle.base(f / 16) == q
        assert not 0 < q < 16 or oracle.fine(f / 16) == f, "f of a normal value stays below the cap"
    assert (codes.count(0), sum(q >= 16 for q in codes)) == (127, 28), "as A12 says"
    return [levels[i : i + 64] for i in range(0, 256, 64)], [v % 255 - 127 for v in lcg(256, 5)]


W = [3, -5, 7, 11, -13, 17, -19, 23]  # A12

# A12: levels, cascade, precision overwriting, slots, accumulator in units of step / 16
CASES = {
    "A": ([2, 37, 0, 5, 0, 0, 9, 1], 1, False, "2N 5N 2M 5N 0N 0N 9N 1N", -4352),
    "B": ([2, 37, 4, 0, 0, 6, 9, 1], 1, False, "2N 15N 4N 0N 0N 6N 9N 1N", -1392),
    "C": ([2, 37, 4, 0, 0, 6, 9, 1], 2, False, "2N 5N 2M 4C 0N 6N 9N 1N", -3152),
    "D": ([37, 4, 6, 0, 0, 6, 9, 1], 3, False, "5N 2M 4C 6C 0N 6N 9N 1N", 1392),
    "E": ([37, 20, 0, 0, 5, 40, 0, 1], 2, False, "5N 2M 15C 0N 5N 8N 2M 1N", 10784),
    "F": ([300, 0, 1, 0, 0, 0, 255, 0], 1, False, "15N 15M 1N 0N 0N 0N 15N 15M", -65168),
    "G": ([1, 0, 2, 3, 0, 4, 5, 77], 4, False, "1N 0N 2N 3N 0N 4N 5N 15N", 5888),
    "H": ([2.4, 0, 5.56, 0, 0, 7.03, 0, 1.5], 0, True, "2N 6L 5N 9L 0N 7N 0L 2N", 3377),
    "I": ([2.4, 37.3, 0, 0, 5.56, 0, 0, 16.6], 2, True, "2N 5N 2M 0N 5N 9L 0N 15N", 1499),
    "J": ([33, 7.25, 0, 0, 6.75, 0, 15.4, 15.6], 2, True, "1N 2M 7C 0N 6N 12L 15N 15N", 580),
}

# A12, bulk: cascade, precision, sum over accumulators, outliers covered, values with extra precision, signature
BULK = [
    (1, False, -473696, 11, 0, "e26bc5bc34c07faf"),
    (2, False, -517520, 19, 0, "1299a118db3293fe"),
    (4, False, -613808, 24, 0, "96baeb678639a676"),
    (8, False, -551152, 24, 0, "7da4d69800f5d909"),
    (4, True, -612514, 24, 42, "0eee470a61d6fcd2"),
    (0, True, -313959, 0, 55, "bb9965f485f74ecc"),
]

# A6: zeros, outliers, cascade, tile, coverage in such a tile, coverage in an endless lane
COVERAGE = [
    (0.5, 0.01, 1, None, 0.500, 0.500), (0.5, 0.01, 2, None, 0.745, 0.745), (0.5, 0.01, 4, None, 0.924, 0.924),
    (0.5, 0.01, 4, 64, 0.899, 0.924), (0.5, 0.05, 4, None, 0.872, 0.872), (0.3, 0.05, 8, 64, 0.796, 0.830),
    (0.6, 0.01, 4, None, 0.961, 0.961),
]  # fmt: skip
PERCENT = {  # A6: coverage of an endless lane with 1 % outliers, cascades 1 to 8
    0.3: [30.0, 50.7, 65.0, 74.8, 81.6, 86.3, 89.6, 91.8], 0.4: [40.0, 63.6, 77.5, 85.7, 90.6, 93.4, 95.1, 96.1],
    0.5: [50.0, 74.5, 86.5, 92.4, 95.3, 96.7, 97.4, 97.7], 0.6: [60.0, 83.4, 92.5, 96.1, 97.5, 98.0, 98.2, 98.3],
    0.7: [70.0, 90.3, 96.2, 97.9, 98.4, 98.5, 98.6, 98.6],
}  # fmt: skip

# A7: best SQNR in dB over clip points mean + k standard deviations, and that k, for CONFIGURATIONS
CONFIGURATIONS = [
    (0, False),
    (1, False),
    (2, False),
    (4, False),
    (8, False),
    (0, True),
    (4, True),
]  # cascade, precision
SYNTHETIC = {
    ("normal", 4): [(24.45, 4), (24.87, 4), (25.99, 3.5), (26.69, 3), (26.76, 3), (26.65, 5), (29.00, 3.5)],
    ("normal", 5): [(30.03, 5), (30.05, 5), (31.51, 4), (31.97, 3.5), (32.23, 3.5), (32.77, 5), (34.46, 4)],
    ("laplace", 4): [(21.30, 6), (21.96, 5), (23.18, 5), (24.85, 3.5), (25.54, 3.5), (23.45, 6), (27.19, 4)],
    ("laplace", 5): [(25.46, 6), (26.99, 6), (28.17, 6), (29.85, 4), (31.40, 4), (26.66, 6), (32.31, 5)],
    ("t", 4): [(13.01, 6), (18.72, 6), (20.75, 5), (22.45, 5), (23.45, 3.5), (13.27, 6), (24.42, 5)],
}
