// Overwriting lanes: an outlier takes a zero behind it. Compiled once for each instruction set, as LEVEL.
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

#include "divided.hpp"

namespace LEVEL {
namespace {

constexpr int kWord = 64;

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

}  // namespace

extern const Overwrite overwrite = any_overwrite;

}  // namespace LEVEL
