// Matrix products of 16-bit integers whose sums go through a register. Compiled once for each instruction set, as LEVEL.
//
// A few rows of x meet a panel of weights with all their sums in registers. Sums of integers are exact in any order; a
// register's own steps are done along K.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "slots.hpp"

namespace LEVEL {
namespace {

// Ends of an integer register, with its spare bits.
int32_t lowest_of(const Products& p) { return static_cast<int32_t>(p.low * (1 << p.spare_bits)); }
int32_t highest_of(const Products& p) { return static_cast<int32_t>((p.high + 1) * (1 << p.spare_bits) - 1); }

// Registers: a tile's sum enters in `add`; r, c and t are its row, vector and tile.
struct Wide {
    using Lanes = Ints;
    using Total = int32_t;
    INLINE Ints add(Ints total, Ints sum, int, int, int64_t) const { return total + sum; }
};

struct Clipped {
    using Lanes = Ints;
    using Total = int32_t;
    Ints low, high;
    INLINE Ints add(Ints total, Ints sum, int, int, int64_t) const { return smaller(larger(total + sum, low), high); }
};

struct Scaled {
    using Lanes = Floats;
    using Total = float;
    const float* x;
    const int32_t* w;
    int64_t pitch;
    INLINE Floats add(Floats total, Ints sum, int r, int c, int64_t t) const {
        return total + to_floats(sum) * (all(x[r * pitch + t]) * load<Floats>(w + t * kWidth + c * kLanes));
    }
};

// Scales are integers whose products float32 holds.
template <bool kClips>
struct ScaledInts {
    using Lanes = Ints;
    using Total = int32_t;
    const float* x;
    const int32_t* w;
    int64_t pitch;
    int32_t shift;
    Ints up, odd, most, low, high;
    ScaledInts(const Products& p, const float* xs, const int32_t* ws, int64_t tiles)
        : x(xs), w(ws), pitch(tiles), shift(p.shift), up(all(p.up)), odd(all(p.odd)), most(all(p.most)),
          low(all(lowest_of(p))), high(all(highest_of(p))) {}
    INLINE Ints add(Ints total, Ints sum, int r, int c, int64_t t) const {
        const Ints product = to_ints(all(x[r * pitch + t]) * load<Floats>(w + t * kWidth + c * kLanes));
        const Ints next = total + sum * smaller((product + up + ((product >> shift) & odd)) >> shift, most);
        return kClips ? smaller(larger(next, low), high) : next;
    }
};

// To nearest, ties to even: adding a number whose last bit is the step rounds to the step.
struct Nearest {
    Floats smallest, to_magic, highest;
    INLINE Floats operator()(Floats value) const {
        const Floats magic = larger((Floats)((Ints)value & 0x7f800000), smallest) * to_magic;
        return larger(smaller((value + magic) - magic, highest), -highest);
    }
};

struct TowardZero {
    Ints kept;
    Floats highest;
    INLINE Floats operator()(Floats value) const {
        return larger(smaller((Floats)((Ints)value & kept), highest), -highest);
    }
};

template <class Round, bool kTwice>
struct Narrow {
    using Lanes = Floats;
    using Total = float;
    Round round;
    INLINE Floats add(Floats total, Ints sum, int, int, int64_t) const {
        return round(total + (kTwice ? round(to_floats(sum)) : to_floats(sum)));
    }
};

// Rows of x meet a panel: all tiles of a block of K, of kPairs slots each, or of `pairs_a_tile` where that is 0. Halves of
// a slot are tiles of their own where kHalves.
template <int kPairs, bool kHalves = false, class Register>
INLINE void meet(
    const Register& at, const int32_t* x, const int32_t* w, int64_t tiles, int64_t pairs_a_tile, typename Register::Total* totals,
    int64_t pitch) {
    using Lanes = typename Register::Lanes;
    const int64_t count = kPairs ? kPairs : pairs_a_tile;
    Lanes total[kRows][kVectors];
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kVectors; ++c) total[r][c] = load<Lanes>(totals + r * pitch + c * kLanes);
    for (int64_t t = 0; t < tiles; ++t) {
        if constexpr (kPairs == 1) {
            for (int r = 0; r < kRows; ++r) {
                const Ints a = all(x[r * kPitch]);
                for (int c = 0; c < kVectors; ++c) {
                    const Ints b = load<Ints>(w + c * kLanes);
                    if constexpr (kHalves) {
                        total[r][c] = at.add(total[r][c], pairs(a & 0xffff, b), r, c, t);
                        total[r][c] = at.add(total[r][c], pairs(a & ~0xffff, b), r, c, t);
                    } else {
                        total[r][c] = at.add(total[r][c], pairs(a, b), r, c, t);
                    }
                }
            }
        } else {
            Ints sum[kRows][kVectors] = {};
            for (int64_t j = 0; j < count; ++j)
                for (int r = 0; r < kRows; ++r) {
                    const Ints a = all(x[r * kPitch + j]);
                    for (int c = 0; c < kVectors; ++c) sum[r][c] += pairs(a, load<Ints>(w + j * kWidth + c * kLanes));
                }
            for (int r = 0; r < kRows; ++r)
                for (int c = 0; c < kVectors; ++c) total[r][c] = at.add(total[r][c], sum[r][c], r, c, t);
        }
        x += count;
        w += count * kWidth;
    }
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kVectors; ++c) store(totals + r * pitch + c * kLanes, total[r][c]);
}

// The same for short lanes that saturate.
INLINE void meet(const int32_t* x, const int32_t* w, int64_t slots, int16_t* totals, int64_t pitch) {
    constexpr int kShorts = 2 * kLanes;
    Shorts total[kRows][kVectors];
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kVectors; ++c) total[r][c] = load<Shorts>(totals + r * pitch + c * kShorts);
    for (int64_t i = 0; i < slots; ++i)
        for (int r = 0; r < kRows; ++r) {
            const Shorts a = (Shorts)all(x[r * kPitch + i]);
            for (int c = 0; c < kVectors; ++c)
                total[r][c] = add_saturating(total[r][c], times(a, load<Shorts>(w + i * kWidth + c * kLanes)));
        }
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kVectors; ++c) store(totals + r * pitch + c * kShorts, total[r][c]);
}

// Rows of x as slots, for one block of K; those beyond the last are zero.
struct Rows {
    const Products& p;
    int64_t first, count, padded;
    void fill(const Cut& cut, int64_t start, int64_t slots, int32_t* packed) const {
        for (int64_t r = 0; r < padded; ++r) {
            int32_t* to = packed + r * kPitch;
            if (r < count) fill_slots(p.x + (first + r) * p.x_pitch, p.k, cut, start, slots, static_cast<float>(p.x_by), to);
            else std::fill(to, to + slots, 0);
        }
    }
};

// Calls meet(x, w, first slot, slots, row, panel) for all panels that are wanted.
template <class Wanted, class Meet>
INLINE void for_all_panels(const Rows& rows, const Cut& cut, int64_t panels, const int32_t* weights, int32_t* x, Wanted wanted, Meet meet) {
    for (int64_t start = 0; start < cut.slots; start += cut.depth) {
        const int64_t slots = std::min(cut.depth, cut.slots - start);
        rows.fill(cut, start, slots, x);
        for (int64_t panel = 0; panel < panels; ++panel) {
            if (!wanted(panel)) continue;
            const int32_t* w = weights + (start * panels + panel * slots) * kWidth;
            for (int64_t r = 0; r < rows.padded; r += kRows) meet(x + r * kPitch, w, start, slots, r, panel);
        }
    }
}

const auto kEvery = [](int64_t) { return true; };

template <int kPairs, bool kHalves = false, class Make>
void add_up(const Rows& rows, int32_t* x, Make make, typename decltype(make(0, 0, 0))::Total* totals, int64_t pitch) {
    const Cut cut = stepped_cut(rows.p);
    for_all_panels(rows, cut, pitch / kWidth, rows.p.packed, x, kEvery,
        [&](const int32_t* at, const int32_t* w, int64_t start, int64_t slots, int64_t r, int64_t panel) {
            const auto reg = make(start / cut.slots_a_tile, r, panel);
            meet<kPairs, kHalves>(reg, at, w, slots / cut.slots_a_tile, cut.slots_a_tile, totals + r * pitch + panel * kWidth, pitch);
        });
}

// With loops of fixed length for the tiles that are common.
template <class Make>
void add_tiles(const Rows& rows, int32_t* x, Make make, typename decltype(make(0, 0, 0))::Total* totals, int64_t pitch) {
    switch (stepped_cut(rows.p).slots_a_tile) {
        case 1: return add_up<1>(rows, x, make, totals, pitch);
        case 8: return add_up<8>(rows, x, make, totals, pitch);
        case 16: return add_up<16>(rows, x, make, totals, pitch);
        case 32: return add_up<32>(rows, x, make, totals, pitch);
        default: return add_up<0>(rows, x, make, totals, pitch);
    }
}

template <class Round>
void add_rounded(const Rows& rows, int32_t* x, const Round& round, float* totals, int64_t pitch) {
    if (rows.p.rounds_twice)
        add_tiles(rows, x, [&](int64_t, int64_t, int64_t) { return Narrow<Round, true>{round}; }, totals, pitch);
    else
        add_tiles(rows, x, [&](int64_t, int64_t, int64_t) { return Narrow<Round, false>{round}; }, totals, pitch);
}

void add_saturating(const Rows& rows, int32_t* x, int16_t* totals, int64_t pitch) {
    for_all_panels(rows, stepped_cut(rows.p), pitch / (2 * kWidth), rows.p.packed, x, kEvery,
        [&](const int32_t* at, const int32_t* w, int64_t, int64_t slots, int64_t r, int64_t panel) {
            meet(at, w, slots, totals + r * pitch + panel * 2 * kWidth, pitch);
        });
}

// How many sums differ from the exact ones, which add(wanted, sums, pitch) adds up in the panels that are wanted: those that
// hold a sum that was ever clipped. `exact_spare` bits of the exact sums are spare as well.
template <class Total, class Add>
int64_t count_clipped(const Rows& rows, const Total* totals, int64_t pitch, int32_t exact_spare, std::vector<int32_t>& exact, Add add) {
    const Products& p = rows.p;
    const int32_t mask = (1 << p.spare_bits) - 1;
    const int64_t panels = parts_of(p.n, kWidth);
    std::vector<char> is_clipped(panels);
    bool is_any = false;
    for (int64_t panel = 0; panel < panels; ++panel) {
        int32_t different = p.spare_bits < 2;
        const int64_t end = std::min((panel + 1) * kWidth, p.n);
        for (int64_t r = 0; r < rows.count && !different; ++r)
            for (int64_t c = panel * kWidth; c < end; ++c) different |= (totals[r * pitch + c] & mask) ^ 1;
        is_any |= is_clipped[panel] = different != 0;
    }
    if (!is_any) return 0;
    const int64_t width = panels * kWidth;
    exact.assign(rows.padded * width, 0);
    add([&](int64_t panel) { return is_clipped[panel]; }, exact.data(), width);
    int64_t overflows = 0;
    for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t end = is_clipped[panel] ? std::min((panel + 1) * kWidth, p.n) : 0;
        for (int64_t r = 0; r < rows.count; ++r)
            for (int64_t c = panel * kWidth; c < end; ++c)
                overflows += (totals[r * pitch + c] >> p.spare_bits) != (exact[r * width + c] >> exact_spare);
    }
    return overflows;
}

// The same of unscaled sums.
template <class Total>
int64_t count_clipped(const Rows& rows, int32_t* x, const Total* totals, int64_t pitch, std::vector<int32_t>& exact) {
    const Products& p = rows.p;
    return count_clipped(rows, totals, pitch, 0, exact, [&](auto wanted, int32_t* sums, int64_t width) {
        for_all_panels(rows, pairs_cut(p), width / kWidth, p.pairs, x, wanted,
            [&](const int32_t* at, const int32_t* w, int64_t, int64_t slots, int64_t r, int64_t panel) {
                meet<1>(Wide(), at, w, slots, 1, sums + r * width + panel * kWidth, width);
            });
    });
}

// Sums of blocks times their scales in an integer register.
int64_t add_scaled(const Rows& rows, int32_t* x, const float* scales, std::vector<int32_t>& totals, int64_t pitch, std::vector<int32_t>& exact) {
    const Products& p = rows.p;
    const int64_t tiles = parts_of(p.k, p.tile);
    const int32_t* of_columns = p.packed + pitch * stepped_cut(p).slots;
    const auto made = [&](auto clips) {
        return [=, &p](int64_t t, int64_t r, int64_t panel) {
            return ScaledInts<decltype(clips)::value>(p, scales + r * tiles + t, of_columns + (panel * tiles + t) * kWidth, tiles);
        };
    };
    const bool is_clipped = p.spare_bits > 0;
    totals.assign(rows.padded * pitch, is_clipped);
    if (!is_clipped) {
        add_tiles(rows, x, made(std::false_type()), totals.data(), pitch);
        return 0;
    }
    add_tiles(rows, x, made(std::true_type()), totals.data(), pitch);
    const Cut cut = stepped_cut(p);
    return count_clipped(rows, totals.data(), pitch, p.spare_bits, exact, [&](auto wanted, int32_t* sums, int64_t width) {
        const auto make = made(std::false_type());
        for_all_panels(rows, cut, width / kWidth, p.packed, x, wanted,
            [&](const int32_t* at, const int32_t* w, int64_t start, int64_t slots, int64_t r, int64_t panel) {
                meet<0>(make(start / cut.slots_a_tile, r, panel), at, w, slots / cut.slots_a_tile, cut.slots_a_tile,
                        sums + r * width + panel * kWidth, width);
            });
    });
}

// What is read from a register of some bits that holds this sum modulo its size; and whether it had to wrap.
struct Wrap {
    int64_t low, size, half, slope;
    explicit Wrap(const Products& p) : low(p.low), size(p.high - p.low + 1), half(-p.low), slope(p.slope) {}
    INLINE int64_t read(int32_t sum, int64_t& overflows) const {
        int64_t held = (sum - low) % size;
        held += (held < 0 ? size : 0) + low;
        overflows += held != sum;
        if (!slope) return held;
        const int64_t magnitude = held < 0 ? -held : held, folded = std::min(magnitude, slope * (half - magnitude));
        return held < 0 ? -folded : folded;
    }
    // The same for powers of two, without a branch.
    INLINE int32_t wrapped(int32_t sum) const {
        const uint32_t mask = static_cast<uint32_t>(size - 1), from = static_cast<uint32_t>(low);
        return static_cast<int32_t>(((static_cast<uint32_t>(sum) - from) & mask) + from);
    }
};

void wrap(const Products& p, int32_t* totals, int64_t count, int64_t& overflows) {
    const Wrap wrap(p);
    if (!p.slope && (wrap.size & (wrap.size - 1)) == 0 && wrap.size <= int64_t{1} << 31) {
        int32_t outside = 0;
        for (int64_t c = 0; c < count; ++c) {
            const int32_t held = wrap.wrapped(totals[c]);
            outside += held != totals[c];
            totals[c] = held;
        }
        overflows += outside;
    } else {
        for (int64_t c = 0; c < count; ++c) totals[c] = static_cast<int32_t>(wrap.read(totals[c], overflows));
    }
}

template <class Total>
void write(const Products& p, int64_t row, const Total* totals, const double* w_outside) {
    const double outside = p.x_outside[row], unit = p.unit;
    double* out = p.out + row * p.out_pitch;
    if (p.columns) {
        for (int64_t c = 0; c < p.n; ++c) out[p.columns[c]] = totals[c] * unit * outside * w_outside[c];
    } else {
        for (int64_t c = 0; c < p.n; ++c) out[c] = totals[c] * unit * outside * w_outside[c];
    }
}

template <class Total>
void shift_out(const Products& p, Total* totals) {
    for (int64_t c = 0; c < p.n; ++c) totals[c] = static_cast<Total>(totals[c] >> p.spare_bits);
}

// One row's registers to `out`.
template <class Total>
void write_shifted(const Products& p, int64_t row, Total* totals, const double* w_outside) {
    shift_out(p, totals);
    write(p, row, totals, w_outside);
}

// Scales of the tiles of these rows; ones where x has none.
void copy_scales(const Rows& rows, int64_t tiles, std::vector<float>& scales) {
    scales.assign(rows.padded * tiles, 1.0f);
    if (const float* from = rows.p.x_inside) std::copy(from + rows.first * tiles, from + (rows.first + rows.count) * tiles, scales.begin());
}

int64_t multiply_rows(const Products& p, int64_t first, int64_t last) {
    const int64_t pitch = parts_of(p.n, panel_columns(p)) * panel_columns(p), tiles = parts_of(p.k, p.tile);
    const int64_t block_rows = std::min<int64_t>(std::max<int64_t>(kBlock / pitch, 48), 192) / kRows * kRows;
    std::vector<int32_t> x(std::min(block_rows, parts_of(last - first, kRows) * kRows) * kPitch), ints, exact;
    std::vector<int16_t> shorts;
    std::vector<float> floats, scales;
    std::vector<double> w_outside(p.n);
    for (int64_t c = 0; c < p.n; ++c) w_outside[c] = p.w_outside[row_of(p, c)];
    int64_t overflows = 0;
    for (int64_t row = first; row < last; row += block_rows) {
        const int64_t count = std::min(block_rows, last - row);
        const Rows rows{p, row, count, parts_of(count, kRows) * kRows};
        const int64_t size = rows.padded * pitch;
        if (p.kind == kSaturate) {
            shorts.assign(size, p.spare_bits >= 2);
            add_saturating(rows, x.data(), shorts.data(), pitch);
            overflows += count_clipped(rows, x.data(), shorts.data(), pitch, exact);
            for (int64_t r = 0; r < count; ++r) write_shifted(p, row + r, shorts.data() + r * pitch, w_outside.data());
        } else if (p.kind == kClip) {
            ints.assign(size, p.spare_bits >= 2);
            const Clipped clipped{all(lowest_of(p)), all(highest_of(p))};
            const auto make = [&](int64_t, int64_t, int64_t) { return clipped; };
            if (p.tile == 1) add_up<1, true>(rows, x.data(), make, ints.data(), pitch);
            else add_tiles(rows, x.data(), make, ints.data(), pitch);
            overflows += count_clipped(rows, x.data(), ints.data(), pitch, exact);
            for (int64_t r = 0; r < count; ++r) write_shifted(p, row + r, ints.data() + r * pitch, w_outside.data());
        } else if (p.kind == kExact || p.kind == kScaledInt) {
            if (p.kind == kExact) {
                ints.assign(size, 0);
                add_up<1>(rows, x.data(), [](int64_t, int64_t, int64_t) { return Wide(); }, ints.data(), pitch);
            } else {
                copy_scales(rows, tiles, scales);
                overflows += add_scaled(rows, x.data(), scales.data(), ints, pitch, exact);
            }
            for (int64_t r = 0; r < count; ++r) {
                if (p.spare_bits) shift_out(p, ints.data() + r * pitch);
                if (p.wraps) wrap(p, ints.data() + r * pitch, p.n, overflows);
                write(p, row + r, ints.data() + r * pitch, w_outside.data());
            }
        } else {
            floats.assign(size, 0.0f);
            if (p.kind == kScaled) {
                copy_scales(rows, tiles, scales);
                const float* xs = scales.data();
                const int32_t* ws = p.packed + pitch * stepped_cut(p).slots;
                add_tiles(rows, x.data(), [=](int64_t t, int64_t r, int64_t panel) {
                    return Scaled{xs + r * tiles + t, ws + (panel * tiles + t) * kWidth, tiles};
                }, floats.data(), pitch);
            } else if (p.rounding == 0) {
                const float smallest = static_cast<float>(int64_t{1} << p.smallest_exponent);
                const float magic = 1.5f * static_cast<float>(1 << (23 - p.mantissa_bits));
                add_rounded(rows, x.data(), Nearest{all(smallest), all(magic), all(p.highest)}, floats.data(), pitch);
            } else {
                const Ints kept = all(~((1 << (23 - p.mantissa_bits)) - 1));
                add_rounded(rows, x.data(), TowardZero{kept, all(p.highest)}, floats.data(), pitch);
            }
            for (int64_t r = 0; r < count; ++r) write(p, row + r, floats.data() + r * pitch, w_outside.data());
        }
    }
    return overflows;
}

}  // namespace

extern const PackedSize packed_size = packed_words;
extern const PackWeights pack_weights = pack;
extern const Multiply multiply = multiply_rows;

}  // namespace LEVEL
