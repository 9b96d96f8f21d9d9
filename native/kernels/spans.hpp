// What blocks must cover: their largest magnitudes, or for unsigned formats their largest values, or zero.
// Included inside a file of kernels.
#pragma once
#include "values.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace LEVEL {
namespace {

INLINE int32_t largest_bits(const float* x, int64_t count) {
    int32_t largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, bits_of(x[i]) & 0x7fffffff);
    return largest;
}

bool is_finite(int32_t largest) { return largest < 0x7f800000; }

#if defined(__AVX2__)
// Of four rows: lanes i and i + 4 hold what row i has in one half each.
INLINE __m256i largest_of_four(__m256i a, __m256i b, __m256i c, __m256i d) {
    const auto two = [](__m256i one, __m256i other) {
        const __m256 x = _mm256_castsi256_ps(one), y = _mm256_castsi256_ps(other);
        return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x44)),
                                                    _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xee))));
    };
    const __m256 ab = two(a, b), cd = two(c, d);
    return _mm256_max_epi32(_mm256_castps_si256(_mm256_shuffle_ps(ab, cd, 0x88)),
                            _mm256_castps_si256(_mm256_shuffle_ps(ab, cd, 0xdd)));
}

// Spans of eight blocks. Integers order floats of one sign, NaN above all.
template <int64_t kBlock>
INLINE __m256i spans_of_eight(const float* x, __m256i mask) {
    __m256i row[8];
    for (int b = 0; b < 8; ++b) {
        row[b] = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + b * kBlock)), mask);
        for (int64_t i = 8; i < kBlock; i += 8) {
            const __m256i next = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + b * kBlock + i));
            row[b] = _mm256_max_epi32(row[b], _mm256_and_si256(next, mask));
        }
    }
    const __m256i low = largest_of_four(row[0], row[1], row[2], row[3]);
    const __m256i high = largest_of_four(row[4], row[5], row[6], row[7]);
    return _mm256_max_epi32(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31));
}
#endif

// Spans of consecutive blocks, of which the last may be short. Returns the bits of the largest magnitude of all.
template <int64_t kBlock>
int32_t find_spans(const float* x, int64_t elements, int64_t block, bool is_signed, float* spans) {
    int32_t worst = 0;
    int64_t start = 0;
#if defined(__AVX2__)
    if (kBlock && is_signed) {
        __m256i largest = _mm256_setzero_si256();
        for (; start + 8 * kBlock <= elements; start += 8 * kBlock) {
            const __m256i found = spans_of_eight<kBlock ? kBlock : 8>(x + start, _mm256_set1_epi32(0x7fffffff));
            largest = _mm256_max_epi32(largest, found);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(spans + start / kBlock), found);
        }
        alignas(32) int32_t lanes[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
        worst = *std::max_element(lanes, lanes + 8);
    }
#endif
    for (; start < elements; start += block) {
        const int64_t size = std::min(block, elements - start);
        const int32_t largest = kBlock && size == kBlock ? largest_bits(x + start, kBlock) : largest_bits(x + start, size);
        worst = std::max(worst, largest);
        float span = float_of(largest);
        if (!is_signed) {
            int32_t highest = 0;  // bits of negative numbers are below
            for (int64_t i = 0; i < size; ++i) highest = std::max(highest, bits_of(x[start + i]));
            span = float_of(highest);
        }
        spans[start / block] = span;
    }
    return worst;
}

}  // namespace
}  // namespace LEVEL
