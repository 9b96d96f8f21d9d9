// Tables of up to 7 positive values under one scale, for vectors at a time. Included inside a file of kernels.
//
// Thresholds are moved from levels to elements, so that no element is divided: x / by, rounded, never falls as x rises, and
// there is one smallest x for which it reaches a threshold. They are compared as integers, in a search of three steps.
#pragma once
#include "values.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#include <limits>

namespace LEVEL {
namespace {

float after(float x) { return float_of(bits_of(x) + 1); }
float before(float x) { return float_of(bits_of(x) - 1); }

// Smallest x with x / by >= level, for positive ones.
float first_reaching(float level, float by) {
    if (level == INFINITY) return level;
    float x = std::min(level * by, std::numeric_limits<float>::max());
    while (x > 0.0f && before(x) / by >= level) x = before(x);
    while (x < INFINITY && !(x / by >= level)) x = after(x);
    return x;
}

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
using Vector = __m512;
using Integer = __m512i;
INLINE Integer all(int32_t x) { return _mm512_set1_epi32(x); }
INLINE Vector load(const float* x) { return _mm512_loadu_ps(x); }
INLINE void store(float* out, Vector x) { _mm512_storeu_ps(out, x); }
#else
constexpr int64_t kLanes = 8;
using Vector = __m256;
using Integer = __m256i;
INLINE Integer all(int32_t x) { return _mm256_set1_epi32(x); }
INLINE Vector load(const float* x) { return _mm256_loadu_ps(x); }
INLINE void store(float* out, Vector x) { _mm256_storeu_ps(out, x); }
#endif

struct Thresholds {
    Integer second, fourth, sixth;
    Integer others;  // the first, third, fifth and seventh, where the search looks for them
    Thresholds() = default;
    explicit Thresholds(const int32_t (&bits)[7]) {
        int32_t other[kLanes] = {0};
        // m > bits - 1 is m >= bits; masks of AVX2 are -1, and counts of them negative
        for (int i = 0; i < 4; ++i) other[kLanes == 8 ? -i & 7 : 2 * i] = bits[2 * i] - 1;
        second = all(bits[1] - 1), fourth = all(bits[3] - 1), sixth = all(bits[5] - 1);
        std::memcpy(&others, other, sizeof others);
    }
};

struct Ladder {
    Thresholds positive, negative;
    Vector values;
    Integer magnitude, sign;  // masks; of unsigned formats: all bits, of which negative numbers are below every threshold
    int32_t odd;  // which threshold differs with the sign: 0 none, 8 several

    Ladder(const Symmetric<7>& table, float by, double outside) {
        int32_t up[7], down[7];
        float value[8] = {0.0f}, found[kLanes] = {0.0f};
        odd = 0;
        for (int i = 0; i < 7; ++i) {
            const float level = table.thresholds[i];
            float other = table.inward && level < INFINITY ? after(level) : level;
            for (const float odd : table.odd_levels) {
                if (level == -odd) other = after(level);
                else if (before(level) == -odd) other = -odd;
            }
            if (other != level) odd = odd ? 8 : i + 1;
            up[i] = bits_of(first_reaching(level, by)), down[i] = bits_of(first_reaching(other, by));
            value[i + 1] = value[i] + table.steps[i];
        }
        for (int i = 0; i < 8; ++i)
            found[kLanes == 8 ? -i & 7 : i] = static_cast<float>(static_cast<double>(value[i]) * outside);
        positive = Thresholds(up), negative = Thresholds(down), values = load(found);
        magnitude = all(table.lowest < 0.0f ? 0x7fffffff : -1), sign = all(table.lowest < 0.0f ? INT32_MIN : 0);
    }

#if defined(__AVX512F__)
    template <int32_t kOdd>
    INLINE Vector at(Vector x) const {
        const Integer bits = _mm512_castps_si512(x), m = _mm512_and_si512(bits, magnitude);
        Thresholds t = positive;
        const __mmask16 is_negative = _mm512_movepi32_mask(bits);
        if (kOdd == 2 || kOdd == 8) t.second = _mm512_mask_mov_epi32(t.second, is_negative, negative.second);
        if (kOdd == 4 || kOdd == 8) t.fourth = _mm512_mask_mov_epi32(t.fourth, is_negative, negative.fourth);
        if (kOdd == 6 || kOdd == 8) t.sixth = _mm512_mask_mov_epi32(t.sixth, is_negative, negative.sixth);
        const __mmask16 is_high = _mm512_cmpgt_epi32_mask(m, t.fourth);
        Integer count = _mm512_maskz_mov_epi32(is_high, all(4));
        const Integer middle = _mm512_mask_mov_epi32(t.second, is_high, t.sixth);
        count = _mm512_mask_or_epi32(count, _mm512_cmpgt_epi32_mask(m, middle), count, all(2));
        Integer last = _mm512_permutexvar_epi32(count, t.others);
        if (kOdd == 8) last = _mm512_mask_permutexvar_epi32(last, is_negative, count, negative.others);
        count = _mm512_mask_or_epi32(count, _mm512_cmpgt_epi32_mask(m, last), count, all(1));
        const Integer value = _mm512_castps_si512(_mm512_permutexvar_ps(count, values));
        return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(value, bits, sign, 0xf8));  // value | (bits & sign)
    }
#else
    template <int32_t kOdd>
    INLINE Vector at(Vector x) const {
        const Integer bits = _mm256_castps_si256(x), m = _mm256_and_si256(bits, magnitude);
        const auto by_sign = [&](int32_t which, Integer up, Integer down) {
            if (kOdd != which && kOdd != 8) return up;
            return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(up), _mm256_castsi256_ps(down), x));
        };
        const Integer second = by_sign(2, positive.second, negative.second);
        const Integer fourth = by_sign(4, positive.fourth, negative.fourth);
        const Integer sixth = by_sign(6, positive.sixth, negative.sixth);
        const Integer is_high = _mm256_cmpgt_epi32(m, fourth);
        const Integer middle = _mm256_blendv_epi8(second, sixth, is_high);
        Integer count = _mm256_add_epi32(_mm256_add_epi32(is_high, is_high), _mm256_cmpgt_epi32(m, middle));
        Integer last = _mm256_permutevar8x32_epi32(positive.others, count);
        if (kOdd == 8) last = by_sign(kOdd, last, _mm256_permutevar8x32_epi32(negative.others, count));
        count = _mm256_add_epi32(_mm256_add_epi32(count, count), _mm256_cmpgt_epi32(m, last));
        const Integer value = _mm256_castps_si256(_mm256_permutevar8x32_ps(values, count));
        return _mm256_castsi256_ps(_mm256_or_si256(value, _mm256_and_si256(bits, sign)));
    }
#endif

    void fill(const float* x, float* out, int64_t count) const {
        switch (odd) {
            case 0: return fill<0>(x, out, count);
            case 2: return fill<2>(x, out, count);
            case 4: return fill<4>(x, out, count);
            case 6: return fill<6>(x, out, count);
            default: return fill<8>(x, out, count);
        }
    }

private:
    template <int32_t kOdd>
    INLINE void fill(const float* x, float* out, int64_t count) const {
        const int64_t whole = count / kLanes * kLanes;
        for (int64_t i = 0; i < whole; i += kLanes) store(out + i, at<kOdd>(load(x + i)));
        if (whole < count) {
            float rest[kLanes] = {0.0f};
            std::copy(x + whole, x + count, rest);
            store(rest, at<kOdd>(load(rest)));
            std::copy(rest, rest + count - whole, out + whole);
        }
    }
};

}  // namespace
}  // namespace LEVEL
#endif
