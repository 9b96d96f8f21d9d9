// Matrix products whose sums go through an integer register at every product: it saturates, or must never be left.
// Compiled once for each instruction set, as LEVEL.
//
// Registers of 16 bits are stepped as such, beside the exact sums modulo 2**16. For wider ones a chunk of products is
// added at once wherever no sum can leave the register on its way; the other vectors of sums are stepped.
#include <cmath>

#include "rows.hpp"
#include "steps.hpp"

namespace LEVEL {
namespace {

// Registers of 16 bits.
constexpr int kShorts = 2 * kLanes, kShortWidth = 2 * kWidth;
#ifdef __AVX512BW__
constexpr int kShortRows = 4;
#else
constexpr int kShortRows = 2;
#endif

// Each sum saturated, exact modulo 2**16, and whether the two ever differed where they were compared.
struct ShortSums {
    std::vector<int16_t> saturated, exact, differed;
    int64_t pitch;
    void clear(int64_t rows, int64_t wide) {
        pitch = wide;
        for (auto* sums : {&saturated, &exact, &differed}) sums->assign(rows * pitch, 0);
    }
    INLINE bool is_equal(int64_t at, int32_t spare) const { return ((saturated[at] ^ exact[at]) >> spare) == 0; }
};

// A few rows and a panel; compared after every `kBetween` products, or `between` where that is 0.
template <int64_t kBetween>
INLINE void meet_shorts(const int32_t* x, const int32_t* w, int64_t slots, int64_t between, ShortSums& sums, int64_t at) {
    Shorts saturated[kShortRows][kVectors], exact[kShortRows][kVectors], differed[kShortRows][kVectors];
    const auto each = [&](auto work) {
        for (int r = 0; r < kShortRows; ++r)
            for (int c = 0; c < kVectors; ++c) work(r, c, at + r * sums.pitch + c * kShorts);
    };
    each([&](int r, int c, int64_t i) {
        saturated[r][c] = load<Shorts>(&sums.saturated[i]);
        exact[r][c] = load<Shorts>(&sums.exact[i]);
        differed[r][c] = load<Shorts>(&sums.differed[i]);
    });
    for (int64_t start = 0; start < slots;) {
        const int64_t end = std::min(start + (kBetween ? kBetween : between), slots);
        for (; start < end; ++start)
            for (int r = 0; r < kShortRows; ++r) {
                const Shorts a = (Shorts)all(x[r * kPitch + start]);
                for (int c = 0; c < kVectors; ++c) {
                    const Shorts product = times(a, load<Shorts>(w + start * kWidth + c * kLanes));
                    saturated[r][c] = add_saturating(saturated[r][c], product);
                    exact[r][c] = sum_of(exact[r][c], product);
                }
            }
        each([&](int r, int c, int64_t) { differed[r][c] |= saturated[r][c] ^ exact[r][c]; });
    }
    each([&](int r, int c, int64_t i) {
        store(&sums.saturated[i], saturated[r][c]);
        store(&sums.exact[i], exact[r][c]);
        store(&sums.differed[i], differed[r][c]);
    });
}

// The difference of a saturated and an exact sum grows by less than a product a step: between two comparisons it cannot
// grow from 0 to 2**bits, which looks like 0.
void step_shorts(const Rows& rows, int32_t* x, ShortSums& sums) {
    const Products& p = rows.p;
    const int64_t between = std::min<int64_t>((p.high - p.low) / p.largest, kDepth);
    sums.clear(rows.padded, parts_of(p.n, kShortWidth) * kShortWidth);
    for_all_panels(rows, stepped_cut(p), sums.pitch / kShortWidth, p.packed, x, kEvery,
        [&](const int32_t* x, const int32_t* w, int64_t, int64_t slots, int64_t r, int64_t panel) {
            for (int part = 0; part < kRows; part += kShortRows) {
                const int64_t at = (r + part) * sums.pitch + panel * kShortWidth;
                const int32_t* from = x + part * kPitch;
                if (between >= 8) meet_shorts<0>(from, w, slots, between, sums, at);
                else if (between >= 4) meet_shorts<4>(from, w, slots, 4, sums, at);
                else meet_shorts<2>(from, w, slots, 2, sums, at);
            }
        });
}

// One sum, exact: it fits 32 bits in any order.
int32_t exact_sum(const Products& p, int64_t row, int64_t column) {
    const float *x = p.x + row * p.x_pitch, *w = p.w + row_of(p, column) * p.w_pitch;
    const float x_by = static_cast<float>(p.x_by), w_by = static_cast<float>(p.w_by);
    int32_t sum = 0;
    for (int64_t i = 0; i < p.k; ++i) sum += static_cast<int32_t>(x[i] * x_by) * static_cast<int32_t>(w[i] * w_by);
    return sum;
}

// Exact sums of a panel of columns, [padded, kWidth].
void exact_panel(const Rows& rows, int64_t panel, int32_t* x, std::vector<int32_t>& packed, std::vector<int32_t>& sums) {
    Products p = rows.p;
    p.spare_bits = 0;
    const Cut cut = pairs_cut(p);
    packed.resize(kDepth * kWidth);
    sums.assign(rows.padded * kWidth, 0);
    for (int64_t start = 0; start < cut.slots; start += cut.depth) {
        const int64_t slots = std::min(cut.depth, cut.slots - start);
        rows.fill(cut, start, slots, x);
        pack_block(p, cut, panel * kWidth, kWidth, start, slots, packed.data());
        for (int64_t r = 0; r < rows.padded; r += kRows) add_pairs(x + r * kPitch, packed.data(), slots, &sums[r * kWidth], kWidth);
    }
}

// How many saturated sums differ from the exact ones. Equal ones that once differed may be apart by 2**bits: they are added
// up again, each by itself, or a panel of them where they are many.
int64_t count_different(const Rows& rows, const ShortSums& sums, int32_t* x, std::vector<int32_t>& packed, std::vector<int32_t>& exact) {
    const Products& p = rows.p;
    const int32_t spare = p.spare_bits;
    int64_t different = 0;
    for (int64_t panel = 0; panel * kWidth < p.n; ++panel) {
        const int64_t first = panel * kWidth, last = std::min(first + kWidth, p.n);
        int64_t unclear = 0;
        for (int64_t r = 0; r < rows.count; ++r) {
            int32_t unlike = 0, open = 0;
            for (int64_t c = first; c < last; ++c) {
                const int64_t at = r * sums.pitch + c;
                const int32_t is_equal = sums.is_equal(at, spare);
                unlike += !is_equal, open += is_equal & (sums.differed[at] != 0);
            }
            different += unlike, unclear += open;
        }
        if (!unclear) continue;
        const bool is_many = unclear > kWidth;
        if (is_many) exact_panel(rows, panel, x, packed, exact);
        for (int64_t r = 0; r < rows.count; ++r)
            for (int64_t c = first; c < last; ++c) {
                const int64_t at = r * sums.pitch + c;
                if (!sums.differed[at] || !sums.is_equal(at, spare)) continue;
                const int32_t sum = is_many ? exact[r * kWidth + c - first] : exact_sum(p, rows.first + r, c);
                different += sum != sums.saturated[at] >> spare;
            }
    }
    return different;
}

int64_t saturate_rows(const Products& p, int64_t first, int64_t last) {
    const int64_t pitch = parts_of(p.n, kShortWidth) * kShortWidth;
    const std::vector<double> w_outside = outside_of_columns(p);
    std::vector<int32_t> x(rows_at_once(pitch, last - first) * kPitch), packed, exact;
    ShortSums sums;
    int64_t overflows = 0;
    in_blocks(p, first, last, pitch, [&](const Rows& rows) {
        step_shorts(rows, x.data(), sums);
        overflows += count_different(rows, sums, x.data(), packed, exact);
        for (int64_t r = 0; r < rows.count; ++r) {
            shift_out(p, &sums.saturated[r * pitch]);
            write(p, rows.first + r, &sums.saturated[r * pitch], w_outside.data());
        }
    });
    return overflows;
}

// Wider registers.

// Half the Euclidean norms of a panel's columns over some slots, a little too large at most.
void norms_of(const int32_t* slots, int64_t count, float* norms) {
    for (int c = 0; c < kWidth; c += kLanes) {
        Floats square = all(0.0f);
        for (int64_t i = 0; i < count; ++i) {
            const Ints slot = load<Ints>(slots + i * kWidth + c);
            square += to_floats(pairs(slot, slot));
        }
        for (int j = 0; j < kLanes; ++j) norms[c + j] = std::sqrt(square[j]) * (0.5f + 0x1p-16f);
    }
}

// Of a row's chunks, whole.
template <int64_t kChunk>
void norms_of_row(const int32_t* slots, int64_t count, float* norms) {
    const auto square = [&](int64_t i) {
        const int32_t low = static_cast<int16_t>(slots[i]), high = slots[i] >> 16;
        return static_cast<float>(low * low + high * high);
    };
    int64_t i = 0;
    for (; i + kChunk <= count; i += kChunk) {
        float squares[kChunk];
        for (int64_t j = 0; j < kChunk; ++j) squares[j] = square(i + j);
        for (int64_t half = kChunk / 2; half; half /= 2)
            for (int64_t j = 0; j < half; ++j) squares[j] += squares[j + half];
        *norms++ = std::sqrt(squares[0]);
    }
    float rest = 0.0f;
    for (; i < count; ++i) rest += square(i);
    *norms = std::sqrt(rest);  // there is room
}

// Where sums are safe: as far as `most` from the centre, in the middle between where a chunk starts and where it ends.
struct Reach {
    Ints centre;
    Floats most;
    explicit Reach(const Products& p) {
        const int64_t low = lowest_of(p), high = highest_of(p);
        centre = all(static_cast<int32_t>((low + high) >> 1));
        most = all(static_cast<float>((high - low) / 2) * (1.0f - 0x1p-20f) - 2.0f);  // what roundings take
    }
};

// Of some rows [rows, pitch] and all columns: what they are multiplied from, and their registers.
struct Sums {
    std::vector<int32_t> x, steps;        // slots [rows, kPitch], and the same as steps want them
    std::vector<float> x_norms, w_norms;  // [rows, kDepth / chunk + 1], and halved [block of K][panel][chunk][kWidth]
    std::vector<int32_t> totals, errors;
    int64_t pitch;
};

// A few rows meet a panel. Sums of a chunk start at s and end at s + c; on their way they stay within
// s + c / 2 ± |x||w| / 2, as its positive products less the negative ones are c, and both together at most |x||w|.
template <int64_t kChunk, class Step>
int64_t meet_steps(const Step& step, const Reach& reach, Sums& sums, const int32_t* w, int64_t slots, int64_t row, int64_t column, const float* w_norms) {
    constexpr int64_t kChunks = kDepth / kChunk + 1, kAhead = 64 / kChunk;  // 128 products fit 32 bits, spare bits and all
    const float* x_norms = &sums.x_norms[row * kChunks];
    Tile tile{&sums.x[row * kPitch], &sums.steps[row * kPitch * Step::kWords], w, &sums.totals[row * sums.pitch + column], &sums.errors[row * sums.pitch + column], sums.pitch, {}};
    int64_t left = 0, start = 0;
    const auto move = [&](int64_t chunks) {
        start += chunks * kChunk, x_norms += chunks, w_norms += chunks * kWidth;
        tile.move<Step>(chunks * kChunk);
    };
    while (start < slots) {
        const int64_t count = std::min(kChunk, slots - start);
        Ints sum[kRows][kVectors] = {};
        const auto add = [&](int64_t i) {
            for (int r = 0; r < kRows; ++r) {
                const Ints a = all(tile.slots[r * kPitch + i]);
                for (int c = 0; c < kVectors; ++c) sum[r][c] += pairs(a, load<Ints>(tile.w + i * kWidth + c * kLanes));
            }
        };
        if (count == kChunk) for (int64_t i = 0; i < kChunk; ++i) add(i);
        else for (int64_t i = 0; i < count; ++i) add(i);
        uint32_t near = 0;  // a bit for each vector that must be stepped
        for (int r = 0; r < kRows; ++r)
            for (int c = 0; c < kVectors; ++c) {
                int32_t* total = tile.total(r, c);
                const Ints before = load<Ints>(total), middle = sum_of(difference_of(before, reach.centre), sum[r][c] >> 1);
                const Floats farthest = size(to_floats(middle)) + all(x_norms[r * kChunks]) * load<Floats>(w_norms + c * kLanes);
                near |= uint32_t{is_any_above(farthest, reach.most)} << (r * kVectors + c);
                store(total, sum_of(before, sum[r][c]));
            }
        if (near) {
            for (int r = 0; r < kRows; ++r)
                for (int c = 0; c < kVectors; ++c) tile.sum[r * kVectors + c] = sum[r][c];
            left += count == kChunk ? step_again<kChunk>(step, tile, near, kChunk) : step_again<0>(step, tile, near, count);
        }
        move(1);
        if (__builtin_popcount(near) > Step::kMany && start < slots) {  // it is likely the same for some time
            left += step_through(step, tile, std::min(kChunk * kAhead, slots - start));
            move(kAhead);
        }
    }
    return left;
}

template <int64_t kChunk, class Step>
int64_t add_steps(const Rows& rows, const Step& step, const Reach& reach, Sums& sums) {
    const Products& p = rows.p;
    const Cut cut = pairs_cut(p);
    const int64_t panels = sums.pitch / kWidth;
    int64_t left = 0;
    for (int64_t start = 0; start < cut.slots; start += cut.depth) {
        const int64_t slots = std::min(cut.depth, cut.slots - start);
        rows.fill(cut, start, slots, sums.x.data());
        for (int64_t r = 0; r < rows.padded; ++r) {
            const int32_t* x = &sums.x[r * kPitch];
            step.fill(x, slots, &sums.steps[r * kPitch * Step::kWords]);
            norms_of_row<kChunk>(x, slots, &sums.x_norms[r * (kDepth / kChunk + 1)]);
        }
        for (int64_t panel = 0; panel < panels; ++panel) {
            const int32_t* w = p.packed + (start * panels + panel * slots) * kWidth;
            const float* w_norms = &sums.w_norms[(start / kChunk * panels + panel * parts_of(slots, kChunk)) * kWidth];
            for (int64_t r = 0; r < rows.padded; r += kRows)
                left += meet_steps<kChunk>(step, reach, sums, w, slots, r, panel * kWidth, w_norms);
        }
    }
    return left;
}

// Of all weights.
template <int64_t kChunk>
void find_norms(const Products& p, Sums& sums) {
    const Cut cut = pairs_cut(p);
    const int64_t panels = sums.pitch / kWidth;
    sums.w_norms.resize(parts_of(cut.slots, kChunk) * panels * kWidth);
    float* norms = sums.w_norms.data();
    for (int64_t start = 0; start < cut.slots; start += cut.depth)
        for (int64_t panel = 0; panel < panels; ++panel) {
            const int64_t slots = std::min(cut.depth, cut.slots - start);
            const int32_t* w = p.packed + (start * panels + panel * slots) * kWidth;
            for (int64_t i = 0; i < slots; i += kChunk, norms += kWidth) norms_of(w + i * kWidth, std::min(kChunk, slots - i), norms);
        }
}

template <int64_t kChunk, class Step>
int64_t step_rows(const Products& p, int64_t first, int64_t last) {
    Sums sums;
    sums.pitch = parts_of(p.n, kWidth) * kWidth;
    const int64_t most = rows_at_once(sums.pitch, last - first);
    sums.x.resize(most * kPitch), sums.steps.resize(most * kPitch * Step::kWords), sums.x_norms.resize(most * (kDepth / kChunk + 1));
    find_norms<kChunk>(p, sums);
    const std::vector<double> w_outside = outside_of_columns(p);
    const Step step(p);
    const Reach reach(p);
    int64_t overflows = 0;
    in_blocks(p, first, last, sums.pitch, [&](const Rows& rows) {
        sums.totals.assign(rows.padded * sums.pitch, 0), sums.errors.assign(rows.padded * sums.pitch, 0);
        overflows += add_steps<kChunk>(rows, step, reach, sums);
        for (int64_t r = 0; r < rows.count; ++r) {
            for (int64_t c = 0; c < p.n; ++c) overflows += sums.errors[r * sums.pitch + c] != 0;
            shift_out(p, &sums.totals[r * sums.pitch]);
            write(p, rows.first + r, &sums.totals[r * sums.pitch], w_outside.data());
        }
    });
    return overflows;
}

// Of the elements of a few rows, times `by`: the square root of their mean square.
double typical(const float* rows, int64_t count, int64_t pitch, int64_t k, double by) {
    const int64_t looked_at = std::min<int64_t>(count, 16);
    double square = 0.0;
    for (int64_t i = 0; i < looked_at; ++i) {
        const float* row = rows + i * count / looked_at * pitch;
        for (int64_t j = 0; j < k; ++j) square += static_cast<double>(row[j]) * row[j];
    }
    return std::sqrt(square / static_cast<double>(looked_at * k)) * by;
}

// Long chunks cost less and pass where the register is wide beside a typical product.
template <class Step>
int64_t step_in_chunks(const Products& p, int64_t first, int64_t last) {
    const double product = typical(p.x, p.m, p.x_pitch, p.k, p.x_by) * typical(p.w, p.n, p.w_pitch, p.k, p.w_by);
    const double slots = static_cast<double>(p.high - p.low) / (16.0 * product);
    if (slots >= 24.0) return step_rows<32, Step>(p, first, last);
    if (slots >= 6.0) return step_rows<8, Step>(p, first, last);
    return step_rows<4, Step>(p, first, last);
}

int64_t multiply_steps(const Products& p, int64_t first, int64_t last) {
    if (p.kind == kSaturate) return saturate_rows(p, first, last);
    if (p.kind == kWatch) return step_in_chunks<Watching>(p, first, last);
#ifdef __AVX512BW__
    if (p.x_shift >= 0 && has_dot_products()) return step_in_chunks<Saturating>(p, first, last);
#endif
    return step_in_chunks<Clipping>(p, first, last);
}

}  // namespace

extern const Multiply multiply_stepped = multiply_steps;

}  // namespace LEVEL
