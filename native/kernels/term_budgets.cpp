// Budgets of terms: of the powers of two of a group the largest are kept. Compiled once for each instruction set, as LEVEL.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "divided.hpp"

namespace LEVEL {
namespace {

// By magnitude: its powers of two, and in byte e how many of them are 2**e or larger.
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

extern const KeepTerms keep_terms = any_keep_terms;

}  // namespace LEVEL
