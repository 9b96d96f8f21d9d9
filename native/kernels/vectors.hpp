// Vectors of the level's width, by the compilers' own vector types.
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __SSE4_1__
#include <immintrin.h>
#endif
#ifdef __ARM_NEON
#include <arm_neon.h>
#endif

#include "bits.hpp"

namespace LEVEL {
namespace {

#if defined(__AVX512BW__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

typedef int16_t Shorts __attribute__((vector_size(kBytes)));
typedef int32_t Ints __attribute__((vector_size(kBytes)));
typedef float Floats __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / 4;  // of 32 bits

template <class V>
INLINE V load(const void* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

template <class V>
INLINE void store(void* to, V v) {
    std::memcpy(to, &v, sizeof v);
}

typedef uint32_t Unsigneds __attribute__((vector_size(kBytes)));
typedef uint16_t UnsignedShorts __attribute__((vector_size(kBytes)));
// Modulo the lane's size.
INLINE Ints sum_of(Ints a, Ints b) { return (Ints)((Unsigneds)a + (Unsigneds)b); }
INLINE Ints difference_of(Ints a, Ints b) { return (Ints)((Unsigneds)a - (Unsigneds)b); }
INLINE Shorts sum_of(Shorts a, Shorts b) { return (Shorts)((UnsignedShorts)a + (UnsignedShorts)b); }

INLINE Ints all(int32_t value) { return Ints{} + value; }

#if defined(__AVX512BW__)
INLINE Floats all(float value) { return (Floats)_mm512_set1_ps(value); }
INLINE Ints pairs(Ints a, Ints b) { return (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
INLINE Shorts times(Shorts a, Shorts b) { return (Shorts)_mm512_mullo_epi16((__m512i)a, (__m512i)b); }
INLINE Shorts add_saturating(Shorts a, Shorts b) { return (Shorts)_mm512_adds_epi16((__m512i)a, (__m512i)b); }
INLINE Ints larger(Ints a, Ints b) { return (Ints)_mm512_max_epi32((__m512i)a, (__m512i)b); }
INLINE Ints smaller(Ints a, Ints b) { return (Ints)_mm512_min_epi32((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
INLINE Floats all(float value) { return (Floats)_mm256_set1_ps(value); }
INLINE Ints pairs(Ints a, Ints b) { return (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
INLINE Shorts times(Shorts a, Shorts b) { return (Shorts)_mm256_mullo_epi16((__m256i)a, (__m256i)b); }
INLINE Shorts add_saturating(Shorts a, Shorts b) { return (Shorts)_mm256_adds_epi16((__m256i)a, (__m256i)b); }
INLINE Ints larger(Ints a, Ints b) { return (Ints)_mm256_max_epi32((__m256i)a, (__m256i)b); }
INLINE Ints smaller(Ints a, Ints b) { return (Ints)_mm256_min_epi32((__m256i)a, (__m256i)b); }
#elif defined(__SSE4_1__)
INLINE Floats all(float value) { return (Floats)_mm_set1_ps(value); }
INLINE Ints pairs(Ints a, Ints b) { return (Ints)_mm_madd_epi16((__m128i)a, (__m128i)b); }
INLINE Shorts times(Shorts a, Shorts b) { return (Shorts)_mm_mullo_epi16((__m128i)a, (__m128i)b); }
INLINE Shorts add_saturating(Shorts a, Shorts b) { return (Shorts)_mm_adds_epi16((__m128i)a, (__m128i)b); }
INLINE Ints larger(Ints a, Ints b) { return (Ints)_mm_max_epi32((__m128i)a, (__m128i)b); }
INLINE Ints smaller(Ints a, Ints b) { return (Ints)_mm_min_epi32((__m128i)a, (__m128i)b); }
#else
INLINE Floats all(float value) { return Floats{value, value, value, value}; }
// Products of the low and of the high halves of each lane, added.
INLINE Ints pairs(Ints a, Ints b) { return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16); }
INLINE Shorts times(Shorts a, Shorts b) { return a * b; }
#ifdef __ARM_NEON
INLINE Shorts add_saturating(Shorts a, Shorts b) { return (Shorts)vqaddq_s16((int16x8_t)a, (int16x8_t)b); }
#else
INLINE Shorts add_saturating(Shorts a, Shorts b) {
    const Shorts sum = sum_of(a, b);
    const Shorts is_outside = ((sum ^ a) & (sum ^ b)) >> 15, end = (a >> 15) ^ static_cast<int16_t>(0x7fff);
    return (sum & ~is_outside) | (end & is_outside);
}
#endif
INLINE Ints larger(Ints a, Ints b) { return a > b ? a : b; }
INLINE Ints smaller(Ints a, Ints b) { return a < b ? a : b; }
#endif

INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
INLINE Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
INLINE Floats size(Floats a) { return (Floats)((Ints)a & 0x7fffffff); }
#if defined(__AVX512BW__)
INLINE bool is_any_above(Floats a, Floats b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ); }
#elif defined(__AVX2__)
INLINE bool is_any_above(Floats a, Floats b) { return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)); }
#else
INLINE bool is_any_above(Floats a, Floats b) {
    const Ints is_above = a > b;
    return (is_above[0] | is_above[1] | is_above[2] | is_above[3]) != 0;
}
#endif
INLINE Floats to_floats(Ints a) { return __builtin_convertvector(a, Floats); }
INLINE Ints to_ints(Floats a) { return __builtin_convertvector(a, Ints); }

}  // namespace
}  // namespace LEVEL
