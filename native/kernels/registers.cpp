// Matrix products of 16-bit integers whose sums go through a register. Compiled once for each instruction set, as LEVEL.
//
// A few rows of x meet a panel of weights with all their sums in registers. Sums of integers are exact in any order; a
// register's own steps are done along K.
#include <algorithm>
#include <type_traits>

#include "inner.hpp"
#include "rows.hpp"
#include "tile_registers.hpp"

namespace LEVEL {
namespace {

// Rows of x meet a panel: all tiles of a block of K, of kPairs slots each, or of `pairs_a_tile` where that is 0.
template <int kPairs, class Register>
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
                    total[r][c] = at.add(total[r][c], pairs(a, b), r, c, t);
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

// Apart from its callers, which are large.
template <int kPairs, class Make>
__attribute__((noinline)) void add_up(const Rows& rows, int32_t* x, Make make, typename decltype(make(0, 0, 0))::Total* totals, int64_t pitch) {
    const Cut cut = stepped_cut(rows.p);
    for_all_panels(rows, cut, pitch / kWidth, rows.p.packed, x, kEvery,
        [&](const int32_t* at, const int32_t* w, int64_t start, int64_t slots, int64_t r, int64_t panel) {
            const auto reg = make(start / cut.slots_a_tile, r, panel);
            meet<kPairs>(reg, at, w, slots / cut.slots_a_tile, cut.slots_a_tile, totals + r * pitch + panel * kWidth, pitch);
        });
}

// The same where the sums of tiles go through a register of their own. Returns how many of them were changed.
template <class Inner, class Make>
__attribute__((noinline)) int64_t add_stepped(const Rows& rows, int32_t* x, const Inner& inner, Make make, typename decltype(make(0, 0, 0))::Total* totals, int64_t pitch) {
    const Cut cut = stepped_cut(rows.p);
    int64_t changed = 0;
    for_all_panels(rows, cut, pitch / kWidth, rows.p.packed, x, kEvery,
        [&](const int32_t* at, const int32_t* w, int64_t start, int64_t slots, int64_t r, int64_t panel) {
            const auto reg = make(start / cut.slots_a_tile, r, panel);
            changed += meet_stepped(
                inner, reg, at, w, slots / cut.slots_a_tile, cut.slots_a_tile, totals + r * pitch + panel * kWidth, pitch);
        });
    return changed;
}

// With loops of fixed length for the tiles that are common. Returns how many sums of tiles overflow changed.
template <class Make>
int64_t add_tiles(const Rows& rows, int32_t* x, Make make, typename decltype(make(0, 0, 0))::Total* totals, int64_t pitch) {
    const Products& p = rows.p;
    switch (p.inner) {
        case kSaturates: return add_stepped(rows, x, Saturates{Limits(p)}, make, totals, pitch);
        case kWraps: return add_stepped(rows, x, Wraps{Limits(p), (1 << p.spare_bits) - 1}, make, totals, pitch);
        case kWatches: return add_stepped(rows, x, Watches{Limits(p)}, make, totals, pitch);
        default: break;
    }
    switch (stepped_cut(p).slots_a_tile) {
        case 1: add_up<1>(rows, x, make, totals, pitch); break;
        case 8: add_up<8>(rows, x, make, totals, pitch); break;
        case 16: add_up<16>(rows, x, make, totals, pitch); break;
        case 32: add_up<32>(rows, x, make, totals, pitch); break;
        default: add_up<0>(rows, x, make, totals, pitch);
    }
    return 0;
}

template <class Round>
int64_t add_rounded(const Rows& rows, int32_t* x, const Round& round, float* totals, int64_t pitch) {
    if (rows.p.rounds_twice)
        return add_tiles(rows, x, [&](int64_t, int64_t, int64_t) { return Narrow<Round, true>{round}; }, totals, pitch);
    return add_tiles(rows, x, [&](int64_t, int64_t, int64_t) { return Narrow<Round, false>{round}; }, totals, pitch);
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
                add_pairs(at, w, slots, sums + r * width + panel * kWidth, width);
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
    if (!is_clipped) return add_tiles(rows, x, made(std::false_type()), totals.data(), pitch);
    const int64_t changed = add_tiles(rows, x, made(std::true_type()), totals.data(), pitch);
    const Cut cut = stepped_cut(p);
    return changed + count_clipped(rows, totals.data(), pitch, p.spare_bits, exact, [&](auto wanted, int32_t* sums, int64_t width) {
        const auto make = made(std::false_type());
        if (p.inner) {
            add_tiles(rows, x, make, sums, width);
            return;
        }
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

// Scales of the tiles of these rows; ones where x has none.
void copy_scales(const Rows& rows, int64_t tiles, std::vector<float>& scales) {
    scales.assign(rows.padded * tiles, 1.0f);
    if (const float* from = rows.p.x_inside) std::copy(from + rows.first * tiles, from + (rows.first + rows.count) * tiles, scales.begin());
}

// Registers of the rows of one call, made anew for each block.
struct Registers {
    std::vector<int32_t> x, ints, exact;
    std::vector<float> floats, scales;
};

const auto kPlain = [](int64_t, int64_t, int64_t) { return Added{}; };

int64_t count_odd(const Rows& rows, const int32_t* totals, int64_t pitch) {
    int64_t count = 0;
    for (int64_t r = 0; r < rows.count; ++r)
        for (int64_t c = 0; c < rows.p.n; ++c) count += totals[r * pitch + c] & 1;
    return count;
}

int64_t add_integers(const Rows& rows, Registers& of, int64_t pitch) {
    const Products& p = rows.p;
    const int64_t size = rows.padded * pitch;
    int32_t* x = of.x.data();
    if (p.kind == kClip) {
        of.ints.assign(size, p.spare_bits >= 2);
        const Clipped clipped{all(lowest_of(p)), all(highest_of(p))};
        const int64_t changed = add_tiles(rows, x, [&](int64_t, int64_t, int64_t) { return clipped; }, of.ints.data(), pitch);
        if (!p.inner) return count_clipped(rows, x, of.ints.data(), pitch, of.exact);
        return changed + count_clipped(rows, of.ints.data(), pitch, p.spare_bits, of.exact, [&](auto, int32_t* sums, int64_t width) {
            add_tiles(rows, x, kPlain, sums, width);
        });
    }
    if (p.kind == kScaledInt) {
        copy_scales(rows, parts_of(p.k, p.tile), of.scales);
        return add_scaled(rows, x, of.scales.data(), of.ints, pitch, of.exact);
    }
    of.ints.assign(size, 0);
    if (p.kind == kAdd) return add_tiles(rows, x, kPlain, of.ints.data(), pitch);
    if (p.kind == kMark) {
        const Marked marked{all(lowest_of(p)), all(highest_of(p))};
        add_tiles(rows, x, [&](int64_t, int64_t, int64_t) { return marked; }, of.ints.data(), pitch);
        return count_odd(rows, of.ints.data(), pitch);
    }
    for_all_panels(rows, stepped_cut(p), pitch / kWidth, p.packed, x, kEvery,
        [&](const int32_t* at, const int32_t* w, int64_t, int64_t slots, int64_t r, int64_t panel) {
            add_pairs(at, w, slots, &of.ints[r * pitch + panel * kWidth], pitch);
        });
    return 0;
}

int64_t add_floats(const Rows& rows, Registers& of, int64_t pitch) {
    const Products& p = rows.p;
    int32_t* x = of.x.data();
    of.floats.assign(rows.padded * pitch, 0.0f);
    if (p.kind == kScaled) {
        const int64_t tiles = parts_of(p.k, p.tile);
        copy_scales(rows, tiles, of.scales);
        const float* xs = of.scales.data();
        const int32_t* ws = p.packed + pitch * stepped_cut(p).slots;
        return add_tiles(rows, x, [=](int64_t t, int64_t r, int64_t panel) {
            return Scaled{xs + r * tiles + t, ws + (panel * tiles + t) * kWidth, tiles};
        }, of.floats.data(), pitch);
    }
    if (p.rounding == 0) {
        const float smallest = static_cast<float>(int64_t{1} << p.smallest_exponent);
        const float magic = 1.5f * static_cast<float>(1 << (23 - p.mantissa_bits));
        return add_rounded(rows, x, Nearest{all(smallest), all(magic), all(p.highest)}, of.floats.data(), pitch);
    }
    const Ints kept = all(~((1 << (23 - p.mantissa_bits)) - 1));
    return add_rounded(rows, x, TowardZero{kept, all(p.highest)}, of.floats.data(), pitch);
}

int64_t multiply_rows(const Products& p, int64_t first, int64_t last) {
    const int64_t pitch = parts_of(p.n, kWidth) * kWidth;
    const std::vector<double> w_outside = outside_of_columns(p);
    const bool is_integer = p.kind != kScaled && p.kind != kFloat;
    Registers of;
    of.x.resize(rows_at_once(pitch, last - first) * kPitch);
    int64_t overflows = 0;
    in_blocks(p, first, last, pitch, [&](const Rows& rows) {
        overflows += is_integer ? add_integers(rows, of, pitch) : add_floats(rows, of, pitch);
        for (int64_t r = 0; r < rows.count; ++r) {
            const int64_t row = rows.first + r;
            if (!is_integer) {
                write(p, row, of.floats.data() + r * pitch, w_outside.data());
                continue;
            }
            int32_t* ints = of.ints.data() + r * pitch;
            if (p.spare_bits) shift_out(p, ints);
            if (p.wraps) wrap(p, ints, p.n, overflows);
            write(p, row, ints, w_outside.data());
        }
    });
    return overflows;
}

}  // namespace

extern const Multiply multiply = multiply_rows;

}  // namespace LEVEL
