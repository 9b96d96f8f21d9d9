// Overwriting lanes and term budgets: what an element becomes depends on its neighbours. Compiled once a level, as LEVEL.
//
// Rows are worked on in words of 64 lanes. What a lane does alone is a loop of fixed length that compilers turn into
// vectors; where neighbours decide, a word's zeros and outliers are bits, and bits are searched.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "../groups.hpp"
#include "rounding.hpp"

namespace LEVEL {
namespace {

constexpr int32_t kDone = 0, kNotFinite = 1, kNegative = 2, kUnknown = -1;
constexpr int kWord = 64;

template <class Call>
int32_t with_rounding(int32_t rounding, Call call) {
    switch (rounding) {
        case 0: return call(NearestEven());
        case 1: return call(NearestUp());
        case 2: return call(NearestAway());
        case 3: return call(NearestZero());
        case 4: return call(Floor());
        case 5: return call(Ceiling());
        case 6: return call(TowardZero());
        default: return kUnknown;
    }
}

// 64 flags, each 0 or 1, as bits.
INLINE uint64_t word_of(const uint8_t* flags) {
    uint64_t word = 0;
#ifdef __SSE2__
    for (int i = 0; i < kWord; i += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(flags + i));
        word |= static_cast<uint64_t>(_mm_movemask_epi8(_mm_slli_epi16(bytes, 7))) << i;
    }
#else
    for (int i = 0; i < kWord; i += 8) {
        uint64_t bytes = 0;
        for (int j = 0; j < 8; ++j) bytes |= static_cast<uint64_t>(flags[i + j]) << (8 * j);
        word |= bytes * 0x0102040810204080u >> 56 << i;
    }
#endif
    return word;
}

INLINE int first_bit(uint64_t word) { return __builtin_ctzll(word); }

// Levels, and whether an x is not finite or a level negative; of kCount elements, or of count where that is 0.
template <int kCount>
INLINE void divide(const float* x, float* __restrict levels, int64_t count, float by, int32_t& bad, int32_t& negative) {
    int32_t odd = 0, below = 0;
    for (int64_t i = 0; i < (kCount ? kCount : count); ++i) {
        const float level = x[i] / by;
        odd |= (bits_of(x[i]) & 0x7f800000) == 0x7f800000 ? 1 : 0;
        below |= level < 0.0f ? 1 : 0;
        levels[i] = level;
    }
    bad |= odd, negative |= below;
}

// What the lanes of one row are, and where.
struct Row {
    std::vector<float> levels;              // whole words
    std::vector<uint64_t> zeros, outliers;  // a bit a lane
    std::vector<uint64_t> free;             // zeros that no outlier takes
    explicit Row(int64_t k) : levels((k + kWord - 1) / kWord * kWord), zeros(levels.size() / kWord + 1), outliers(zeros), free(zeros) {}
};

template <class Round>
struct IntegerLanes {
    float highest;
    explicit IntegerLanes(const Overwriting& o) : highest(o.highest) {}
    INLINE float element(float level, float wide) const {
        wide = wide > highest ? highest : wide;
        return wide < -highest ? -highest : wide;
    }
};

template <class Round>
struct TableLanes {
    float lowest, thresholds[16], steps[16], odd_levels[2], odd_values[2];
    int32_t inward;
    explicit TableLanes(const Overwriting& o)
        : lowest(o.lane.lowest), odd_levels{o.lane.odd_levels[0], o.lane.odd_levels[1]},
          odd_values{o.lane.odd_values[0], o.lane.odd_values[1]}, inward(o.lane.inward) {
        for (int i = 0; i < 16; ++i) {
            thresholds[i] = i < o.lane.count ? o.lane.thresholds[i] : INFINITY;
            steps[i] = i < o.lane.count ? o.lane.steps[i] : 0.0f;
        }
    }
    INLINE float element(float level, float) const {
        level = level < lowest ? lowest : level;
        const int32_t bits = (bits_of(level) & 0x7fffffff) - (level < 0.0f ? inward : 0);
        float magnitude, value = 0.0f;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
        for (int i = 0; i < 16; ++i) value += magnitude >= thresholds[i] ? steps[i] : 0.0f;
        value = std::copysign(value, level);
        value = level == odd_levels[0] ? odd_values[0] : value;
        return level == odd_levels[1] ? odd_values[1] : value;
    }
};

template <class Round, class Lanes>
struct Overwriter {
    const Overwriting& o;
    Lanes lanes;
    float outside, inverse_unit;
    int32_t bad = 0, negative = 0;

    Overwriter(const Overwriting& o, float outside) : o(o), lanes(o), outside(outside), inverse_unit(1.0f / o.unit) {}

    INLINE float scaled(float value) const { return value * outside; }

    // As an integer in units of two digits.
    INLINE float wide(float level) const { return Round()(level * inverse_unit); }

    // One word of lanes, each alone.
    INLINE void see(const float* x, float* __restrict out, float* __restrict levels, float by, uint64_t& zero, uint64_t& outlier) {
        alignas(64) uint8_t is_zero[kWord], is_outlier[kWord];
        const float beyond = o.highest * inverse_unit;
        divide<kWord>(x, levels, kWord, by, bad, negative);
        for (int i = 0; i < kWord; ++i) {
            const float level = levels[i], integer = wide(level), element = lanes.element(level, integer);
            is_zero[i] = element == 0.0f;
            is_outlier[i] = std::fabs(integer) > beyond;
            out[i] = scaled(element);
        }
        zero = word_of(is_zero), outlier = word_of(is_outlier);
    }

    void row(const float* x, float* out, int64_t k, float by, Row& row) {
        int64_t w = 0;
        for (; (w + 1) * kWord <= k; ++w)
            see(x + w * kWord, out + w * kWord, &row.levels[w * kWord], by, row.zeros[w], row.outliers[w]);
        if (const int64_t rest = k - w * kWord) {
            alignas(64) float from[kWord] = {}, to[kWord];
            std::copy(x + w * kWord, x + k, from);
            see(from, to, &row.levels[w * kWord], by, row.zeros[w], row.outliers[w]);
            std::copy(to, to + rest, out + w * kWord);
            const uint64_t there = (uint64_t{1} << rest) - 1;
            row.zeros[w] &= there, row.outliers[w] &= there;
        }
        if (o.keeps_fractions) row.free = row.zeros;
        if (o.cascade) overwrite(out, k, row);
        if (o.keeps_fractions) keep_fractions(out, k, row);
    }

    // Outliers from left to right, each with the first zero behind it.
    void overwrite(float* out, int64_t k, Row& row) const {
        const int64_t words = (k + kWord - 1) / kWord;
        int64_t taken = -1, holder = -1, tile_end = 0;
        for (int64_t w = 0; w < words; ++w)
            for (uint64_t left = row.outliers[w]; left; left &= left - 1) {
                const int64_t i = w * kWord + first_bit(left);
                while (i >= tile_end) tile_end += o.tile;
                const int64_t zero = first_zero(row, i + 1, std::min({i + o.cascade + 1, tile_end, k}));
                if (zero < 0) continue;
                if (zero == taken) {
                    if (!o.picks_largest || !(size(row.levels[i]) > size(row.levels[holder]))) continue;
                    const float level = row.levels[holder];
                    out[holder] = scaled(lanes.element(level, wide(level)));
                }
                taken = zero, holder = i;
                out[i] = scaled(two_digits(row.levels[i]));
                if (o.keeps_fractions) row.free[zero / kWord] &= ~(uint64_t{1} << zero % kWord);
            }
    }

    INLINE static int64_t first_zero(const Row& row, int64_t from, int64_t end) {
        if (from >= end) return -1;
        int64_t w = from / kWord;
        uint64_t found = row.zeros[w] >> from % kWord << from % kWord;
        while (!found && (w + 1) * kWord < end) found = row.zeros[++w];
        if (!found) return -1;
        const int64_t zero = w * kWord + first_bit(found);
        return zero < end ? zero : -1;
    }

    // Beyond 2**52 all are alike.
    INLINE float size(float level) const { return std::min(std::fabs(wide(level)), 0x1p52f); }

    INLINE float two_digits(float level) const {
        const float most = o.largest * inverse_unit, integer = std::min(std::max(wide(level), -most), most);
        return o.digits ? o.digits[static_cast<int64_t>(integer) + o.count] : integer * o.unit;
    }

    // Zeros that are left hold fractions of the ordinary values before them.
    void keep_fractions(float* out, int64_t k, Row& row) const {
        const int64_t words = (k + kWord - 1) / kWord;
        for (int64_t start = 0; start < k; start += o.tile) row.free[start / kWord] &= ~(uint64_t{1} << start % kWord);
        row.free[words] = 0;
        for (int64_t w = 0; w < words; ++w) {
            const uint64_t owners = (row.free[w] >> 1 | row.free[w + 1] << 63) & ~row.zeros[w] & ~row.outliers[w];
            if (!owners) continue;
            const int count = static_cast<int>(std::min<int64_t>(kWord, k - w * kWord));
            float* to = out + w * kWord;
            alignas(64) float last[kWord];
            if (count < kWord) {
                std::copy(to, to + count, last);
                fractions(last, &row.levels[w * kWord], owners);
                std::copy(last, last + count, to);
            } else {
                fractions(to, &row.levels[w * kWord], owners);
            }
        }
    }

    INLINE void fractions(float* __restrict out, const float* __restrict levels, uint64_t owners) const {
        const float radix = o.radix, inverse = 1.0f / o.radix, highest = o.highest;
        alignas(64) float fine[kWord];
        for (int i = 0; i < kWord; ++i) {
            const float rounded = Round()(levels[i] * radix), landed = std::fabs(Round()(rounded * inverse));
            const float away = landed == 0.0f ? 1.0f : 0.0f, back = landed > highest ? 1.0f : 0.0f;
            const float sign = rounded == 0.0f ? 0.0f : std::copysign(1.0f, rounded);
            fine[i] = scaled((rounded + sign * (away - back)) * inverse);
        }
        for (int half = 0; half < kWord; half += 32) {
            const uint32_t bits = static_cast<uint32_t>(owners >> half);
            for (int i = 0; i < 32; ++i) out[half + i] = bits & 1u << i ? fine[half + i] : out[half + i];
        }
    }
};

// Calls work(x, out, by, factor, bad, negative) on each row.
template <class Work>
int32_t each_row(const Matrix& m, bool is_signed, int64_t first, int64_t last, Work work) {
    int32_t bad = 0, negative = 0;
    for (int64_t r = first; r < last; ++r) {
        const int64_t scale = m.scale_rows == 1 ? 0 : r;
        const float* x = m.x + r * m.k;
        float* out = m.out + r * m.k;
        const float by = m.by[scale];
        const double outside = m.outside ? m.outside[scale] : 1.0;
        const bool is_narrow = static_cast<double>(static_cast<float>(outside)) == outside;
        if (by > 0.0f) {
            work(x, out, by, is_narrow ? static_cast<float>(outside) : 1.0f, bad, negative);
            for (int64_t i = 0; !is_narrow && i < m.k; ++i) out[i] = static_cast<float>(static_cast<double>(out[i]) * outside);
        } else {
            for (int64_t i = 0; i < m.k; ++i) bad |= (bits_of(x[i]) & 0x7f800000) == 0x7f800000;
            std::fill(out, out + m.k, 0.0f);
        }
        if (bad) return kNotFinite;
        if (negative && !is_signed) return kNegative;
    }
    return kDone;
}

template <class Round, class Lanes>
int32_t overwrite_rows(const Overwriting& o, int64_t first, int64_t last) {
    Row row(o.matrix.k);
    const bool is_signed = o.lane.lowest < 0.0f;
    return each_row(
        o.matrix, is_signed, first, last,
        [&](const float* x, float* out, float by, float factor, int32_t& bad, int32_t& negative) {
            Overwriter<Round, Lanes> overwriter(o, factor);
            overwriter.row(x, out, o.matrix.k, by, row);
            bad |= overwriter.bad, negative |= overwriter.negative;
        });
}

int32_t any_overwrite(const Overwriting& job, int64_t first, int64_t last) {
    Overwriting o = job;
    o.tile = o.tile ? o.tile : o.matrix.k;
    o.cascade = std::min(o.cascade, o.matrix.k);
    return with_rounding(o.lane.rounding, [&](auto round) {
        using Round = decltype(round);
        if (o.lane.kind == 1) return overwrite_rows<Round, IntegerLanes<Round>>(o, first, last);
        return overwrite_rows<Round, TableLanes<Round>>(o, first, last);
    });
}

// Term budgets. By magnitude: its powers of two, and in byte e how many of them are 2**e or larger.
struct Digits {
    const uint16_t *added, *subtracted;
    std::vector<uint64_t> counts;
    bool is_narrow, is_nonadjacent;  // all powers fit a byte; all are those of the non-adjacent form
    explicit Digits(const TermBudget& t) : added(t.added), subtracted(t.subtracted), is_narrow(true), is_nonadjacent(true) {
        if (t.values) return;
        counts.resize(t.largest + 1);
        uint64_t most = 0;
        for (uint32_t x = 0; x <= static_cast<uint32_t>(t.largest); ++x) {
            const uint32_t present = added[x] | subtracted[x];
            is_narrow = is_narrow && present < 256;
            is_nonadjacent = is_nonadjacent && added[x] == (3 * x & ~x) >> 1 && subtracted[x] == (x & ~(3 * x)) >> 1;
            uint64_t above = 0;
            for (int e = 7; e >= 0; --e) counts[x] |= (above += present >> e & 1) << 8 * e;
            most = std::max(most, above);
        }
        // sums of bytes are compared with the budget in bytes
        is_narrow = is_narrow && t.budget < 127 && most * t.group <= 128 + static_cast<uint64_t>(t.budget);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        is_narrow = false;
#endif
    }
};

constexpr uint64_t kOnes = 0x0101010101010101u, kTops = 0x8080808080808080u;

INLINE uint64_t load(const uint8_t* bytes) {
    uint64_t word;
    std::memcpy(&word, bytes, sizeof word);
    return word;
}

// Which powers each element of a group keeps, a byte each, and up to 7 bytes beyond.
INLINE void keep_group(const Digits& digits, const uint16_t* magnitudes, const uint8_t* present, uint8_t* kept, int64_t group, uint64_t budget) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < group; ++i) sum += digits.counts[magnitudes[i]];
    const uint64_t over = (sum + (127 - budget) * kOnes) & kTops;  // the powers with more terms from them on than the budget
    const int cut = __builtin_popcountll(over);
    const uint64_t whole = (0xffu << cut & 0xffu) * kOnes;
    const uint64_t left = budget - (cut < 8 ? sum >> 8 * cut & 0xff : 0);
    const int last = cut ? cut - 1 : 0;  // of this power the first are kept
    uint64_t before = 0;
    for (int64_t i = 0; i < group; i += 8) {
        uint64_t here = load(present + i) >> last & kOnes;
        if (group - i < 8) here &= (uint64_t{1} << 8 * (group - i)) - 1;
        const uint64_t order = here * kOnes + before * kOnes;
        before = order >> 56;
        const uint64_t late = ((order + (127 - left) * kOnes) & kTops) >> 7;
        const uint64_t bytes = whole | (here & ~late) << last;
        std::memcpy(kept + i, &bytes, sizeof bytes);
    }
}

template <class Round>
struct TermKeeper {
    static constexpr int kSpan = 512;  // elements worked on together; at most so many are narrow in a group
    const TermBudget& t;
    const Digits& digits;
    alignas(64) float levels[kSpan];
    alignas(64) uint16_t magnitudes[kSpan];
    alignas(64) uint8_t present[kSpan + 8], added[kSpan], subtracted[kSpan], kept[kSpan + 8];
    TermKeeper(const TermBudget& t, const Digits& digits) : t(t), digits(digits), present{} {}

    INLINE void see(const float* x, int64_t count, float by, int32_t& bad, int32_t& negative) {
        divide<0>(x, levels, count, by, bad, negative);
        const float largest = static_cast<float>(t.largest);
        for (int64_t i = 0; i < count; ++i) {
            float level = levels[i] > -largest ? levels[i] : -largest;  // NaN too: magnitudes are looked up
            level = level > largest ? largest : level;
            magnitudes[i] = static_cast<uint16_t>(static_cast<int32_t>(std::fabs(Round()(level))));
        }
    }

    void row(const float* x, float* out, int64_t k, float by, float outside, int32_t& bad, int32_t& negative) {
        const int64_t group = t.values ? 1 : t.group, span = kSpan / group * group;
        for (int64_t start = 0; start < k; start += span) {
            const int64_t count = std::min(span, k - start), padded = (count + group - 1) / group * group;
            see(x + start, count, by, bad, negative);
            if (t.values) {
                for (int64_t i = 0; i < count; ++i) out[start + i] = std::copysign(t.values[magnitudes[i]], levels[i]) * outside;
                continue;
            }
            std::fill(magnitudes + count, magnitudes + padded, 0);
            find_digits(padded);
            if (group == 16) for (int64_t i = 0; i < padded; i += 16) keep_group(digits, magnitudes + i, present + i, kept + i, 16, t.budget);
            else if (group == 8) for (int64_t i = 0; i < padded; i += 8) keep_group(digits, magnitudes + i, present + i, kept + i, 8, t.budget);
            else for (int64_t i = 0; i < padded; i += group) keep_group(digits, magnitudes + i, present + i, kept + i, group, t.budget);
            write(out + start, count, outside);
        }
    }

    INLINE void find_digits(int64_t count) {
        if (digits.is_nonadjacent) {
            for (int64_t i = 0; i < count; ++i) {
                const uint16_t x = magnitudes[i], triple = static_cast<uint16_t>(3 * x);
                added[i] = static_cast<uint8_t>((triple & ~x) >> 1), subtracted[i] = static_cast<uint8_t>((x & ~triple) >> 1);
                present[i] = static_cast<uint8_t>((triple ^ x) >> 1);
            }
        } else {
            for (int64_t i = 0; i < count; ++i) {
                added[i] = static_cast<uint8_t>(t.added[magnitudes[i]]), subtracted[i] = static_cast<uint8_t>(t.subtracted[magnitudes[i]]);
                present[i] = added[i] | subtracted[i];
            }
        }
    }

    INLINE void write(float* __restrict out, int64_t count, float outside) const {
        for (int64_t i = 0; i < count; ++i) {
            const int32_t value = (added[i] & kept[i]) - (subtracted[i] & kept[i]);
            out[i] = static_cast<float>(levels[i] < 0.0f ? -value : value) * outside;
        }
    }
};

// Groups of any size, and powers of up to 2**15: term by term.
template <class Round>
struct SlowTermKeeper {
    const TermBudget& t;
    std::vector<float> levels;
    std::vector<int32_t> magnitudes, kept;
    SlowTermKeeper(const TermBudget& t, const Digits&) : t(t), levels(t.group), magnitudes(t.group), kept(t.group) {}

    void row(const float* x, float* out, int64_t k, float by, float outside, int32_t& bad, int32_t& negative) {
        const float largest = static_cast<float>(t.largest);
        for (int64_t start = 0; start < k; start += t.group) {
            const int64_t count = std::min(t.group, k - start);
            divide<0>(x + start, levels.data(), count, by, bad, negative);
            if (bad) return;
            for (int64_t i = 0; i < count; ++i) {
                magnitudes[i] = static_cast<int32_t>(std::fabs(Round()(std::min(std::max(levels[i], -largest), largest))));
                kept[i] = 0;
            }
            int64_t left = t.budget;
            for (int e = 15; e >= 0 && left; --e)
                for (int64_t i = 0; i < count && left; ++i) {
                    const int32_t term = (t.added[magnitudes[i]] | t.subtracted[magnitudes[i]]) & 1 << e;
                    kept[i] |= term, left -= term != 0;
                }
            for (int64_t i = 0; i < count; ++i) {
                const int32_t value = (t.added[magnitudes[i]] & kept[i]) - (t.subtracted[magnitudes[i]] & kept[i]);
                out[start + i] = static_cast<float>(levels[i] < 0.0f ? -value : value) * outside;
            }
        }
    }
};

template <class Keeper>
int32_t keep_rows(const TermBudget& t, const Digits& digits, int64_t first, int64_t last) {
    Keeper keeper(t, digits);
    return each_row(
        t.matrix, t.is_signed, first, last,
        [&](const float* x, float* out, float by, float factor, int32_t& bad, int32_t& negative) {
            keeper.row(x, out, t.matrix.k, by, factor, bad, negative);
        });
}

int32_t any_keep_terms(const TermBudget& job, int64_t first, int64_t last) {
    TermBudget t = job;
    t.group = std::min(t.group, t.matrix.k);
    const Digits digits(t);
    return with_rounding(t.rounding, [&](auto round) {
        using Round = decltype(round);
        if (t.values || digits.is_narrow) return keep_rows<TermKeeper<Round>>(t, digits, first, last);
        return keep_rows<SlowTermKeeper<Round>>(t, digits, first, last);
    });
}

}  // namespace

extern const Overwrite overwrite = any_overwrite;
extern const KeepTerms keep_terms = any_keep_terms;

}  // namespace LEVEL
