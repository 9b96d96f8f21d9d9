// Vectors of a tile's rows for each set of instructions. Included where LEVEL is compiled.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "bits.hpp"

namespace LEVEL {
namespace {

constexpr int64_t kStep = 8;  // elements of K that a vector of codes holds of each row

INLINE int32_t four_bytes(const void* at) {
    int32_t word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

// Vectors of whole tiles or halves of them: V::kLanes rows. Each has the same operations:
//   words(at)                  the codes of 8 elements of each row
//   value<shift>(table, words) what the codes at these bits stand for
//   dot(sums, table, words, x) sums plus exact products with 8 integers of x
struct Plain {
    static constexpr int kLanes = 16, kTokens = 4;
    static constexpr bool kHasSignedDot = true;
    struct Floats { float of[kLanes]; };
    struct Ints { int32_t of[kLanes]; };
    struct Words { uint32_t of[kLanes]; };
    struct Values { float of[16]; };
    struct Levels { int32_t of[16]; };

    static INLINE Words words(const uint8_t* at) {
        Words w;
        for (int r = 0; r < kLanes; ++r)
            w.of[r] = at[4 * r] | at[4 * r + 1] << 8 | at[4 * r + 2] << 16 | static_cast<uint32_t>(at[4 * r + 3]) << 24;
        return w;
    }
    static INLINE Values values(const float* of) {
        Values table;
        std::memcpy(table.of, of, sizeof table.of);
        return table;
    }
    template <int kShift>
    static INLINE Floats value(const Values& table, const Words& words) {
        Floats y;
        for (int r = 0; r < kLanes; ++r) y.of[r] = table.of[words.of[r] >> kShift & 15];
        return y;
    }
    static INLINE Floats zero() { return {}; }
    static INLINE Floats load(const float* at) {
        Floats y;
        std::memcpy(y.of, at, sizeof y.of);
        return y;
    }
    static INLINE void store(float* at, const Floats& x) { std::memcpy(at, x.of, sizeof x.of); }
    static INLINE Floats all(float x) {
        Floats y;
        for (int r = 0; r < kLanes; ++r) y.of[r] = x;
        return y;
    }
    template <class Lanes>
    static INLINE Lanes add(const Lanes& a, const Lanes& b) {
        Lanes y;
        for (int r = 0; r < kLanes; ++r) y.of[r] = a.of[r] + b.of[r];
        return y;
    }
    template <class Lanes>
    static INLINE Lanes multiply(const Lanes& a, const Lanes& b) {
        Lanes y;
        for (int r = 0; r < kLanes; ++r) y.of[r] = a.of[r] * b.of[r];
        return y;
    }
    static INLINE Floats fused(const Floats& a, const Floats& b, const Floats& c) { return add(multiply(a, b), c); }
    static INLINE Ints ints(int32_t x) {
        Ints y;
        for (int r = 0; r < kLanes; ++r) y.of[r] = x;
        return y;
    }
    static INLINE Ints bytes(const uint8_t* at) {
        Ints y;
        for (int r = 0; r < kLanes; ++r) y.of[r] = at[r];
        return y;
    }
    static INLINE void store(int32_t* at, const Ints& x) { std::memcpy(at, x.of, sizeof x.of); }
    static INLINE Floats floats(const Ints& x) {
        Floats y;
        for (int r = 0; r < kLanes; ++r) y.of[r] = static_cast<float>(x.of[r]);
        return y;
    }
    static INLINE Levels levels(const int8_t* of, int32_t offset) {
        Levels table;
        for (int i = 0; i < 16; ++i) table.of[i] = of[i] + offset;
        return table;
    }
    template <bool kUnsigned>
    static INLINE Ints dot(Ints sums, const Levels& table, const Words& words, const uint8_t* x) {
        for (int i = 0; i < kStep; ++i) {
            const int32_t factor = kUnsigned ? x[i] : static_cast<int8_t>(x[i]);
            const int shift = 8 * (i & 3) + i / 4 * 4;
            for (int r = 0; r < kLanes; ++r) sums.of[r] += table.of[words.of[r] >> shift & 15] * factor;
        }
        return sums;
    }
};

#if defined(__AVX512F__)
struct Base {
    static constexpr int kLanes = 16, kTokens = 8;
    using Floats = __m512;
    using Ints = __m512i;
    using Words = __m512i;
    using Values = __m512;
    using Levels = __m512i;

    static INLINE Words words(const uint8_t* at) { return _mm512_loadu_si512(at); }
    static INLINE Values values(const float* of) { return _mm512_loadu_ps(of); }
    template <int kShift>
    static INLINE Floats value(Values table, Words words) {
        return _mm512_permutexvar_ps(_mm512_srli_epi32(words, kShift), table);  // reads the lowest 4 bits of each
    }
    static INLINE Floats zero() { return _mm512_setzero_ps(); }
    static INLINE Floats load(const float* at) { return _mm512_loadu_ps(at); }
    static INLINE void store(float* at, Floats x) { _mm512_storeu_ps(at, x); }
    static INLINE Floats all(float x) { return _mm512_set1_ps(x); }
    static INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    static INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static INLINE Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static INLINE Ints ints(int32_t x) { return _mm512_set1_epi32(x); }
    static INLINE Ints bytes(const uint8_t* at) {
        return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
    }
    static INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
    static INLINE Ints multiply(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
    static INLINE void store(int32_t* at, Ints x) { _mm512_storeu_si512(at, x); }
    static INLINE Floats floats(Ints x) { return _mm512_cvtepi32_ps(x); }
    static INLINE Levels levels(const int8_t* of, int32_t offset) {
        const __m128i four = _mm_add_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(of)), _mm_set1_epi8(offset));
        return _mm512_broadcast_i32x4(four);
    }
    static INLINE Words low(Levels table, Words words) {
        return _mm512_shuffle_epi8(table, _mm512_and_si512(words, _mm512_set1_epi8(15)));
    }
    static INLINE Words high(Levels table, Words words) { return low(table, _mm512_srli_epi32(words, 4)); }
    // Pairs of products of bytes with and without a sign, summed in 16 bits.
    template <bool kUnsigned>
    static INLINE Words pairs(Words w, const uint8_t* x) {
        const Words factors = _mm512_set1_epi32(four_bytes(x));
        return kUnsigned ? _mm512_maddubs_epi16(factors, w) : _mm512_maddubs_epi16(w, factors);
    }
    static INLINE Words add16(Words a, Words b) { return _mm512_add_epi16(a, b); }
    static INLINE Ints widen(Ints sums, Words pairs) {
        return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
    }
};

struct Vnni : Base {
    template <bool kUnsigned>
    static INLINE Ints dot(Ints sums, Levels table, Words words, const uint8_t* x) {
        const Words a = _mm512_set1_epi32(four_bytes(x)), b = _mm512_set1_epi32(four_bytes(x + 4));
        const Words w = low(table, words), v = high(table, words);
        // by name, as the intrinsic would need flags that not every machine of this level allows
        asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(kUnsigned ? a : w), "v"(kUnsigned ? w : a));
        asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(kUnsigned ? b : v), "v"(kUnsigned ? v : b));
        return sums;
    }
};
#elif defined(__AVX2__)
struct Base {
    static constexpr int kLanes = 8, kTokens = 4;
    using Floats = __m256;
    using Ints = __m256i;
    using Words = __m256i;
    struct Values { __m256 lower, upper; };
    using Levels = __m256i;

    static INLINE Words words(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
    static INLINE Values values(const float* of) { return {_mm256_loadu_ps(of), _mm256_loadu_ps(of + 8)}; }
    template <int kShift>
    static INLINE Floats value(Values table, Words words) {
        const __m256i code = _mm256_srli_epi32(words, kShift);  // each half is found by the lowest 3 bits
        const __m256 is_upper = _mm256_castsi256_ps(_mm256_slli_epi32(words, 28 - kShift));
        return _mm256_blendv_ps(
            _mm256_permutevar8x32_ps(table.lower, code), _mm256_permutevar8x32_ps(table.upper, code), is_upper);
    }
    static INLINE Floats zero() { return _mm256_setzero_ps(); }
    static INLINE Floats load(const float* at) { return _mm256_loadu_ps(at); }
    static INLINE void store(float* at, Floats x) { _mm256_storeu_ps(at, x); }
    static INLINE Floats all(float x) { return _mm256_set1_ps(x); }
    static INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
    static INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
    static INLINE Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    static INLINE Ints ints(int32_t x) { return _mm256_set1_epi32(x); }
    static INLINE Ints bytes(const uint8_t* at) {
        return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)));
    }
    static INLINE Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
    static INLINE Ints multiply(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
    static INLINE void store(int32_t* at, Ints x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x); }
    static INLINE Floats floats(Ints x) { return _mm256_cvtepi32_ps(x); }
    static INLINE Levels levels(const int8_t* of, int32_t offset) {
        const __m128i four = _mm_add_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(of)), _mm_set1_epi8(offset));
        return _mm256_broadcastsi128_si256(four);
    }
    static INLINE Words low(Levels table, Words words) {
        return _mm256_shuffle_epi8(table, _mm256_and_si256(words, _mm256_set1_epi8(15)));
    }
    static INLINE Words high(Levels table, Words words) { return low(table, _mm256_srli_epi32(words, 4)); }
    template <bool kUnsigned>
    static INLINE Words pairs(Words w, const uint8_t* x) {
        const Words factors = _mm256_set1_epi32(four_bytes(x));
        return kUnsigned ? _mm256_maddubs_epi16(factors, w) : _mm256_maddubs_epi16(w, factors);
    }
    static INLINE Words add16(Words a, Words b) { return _mm256_add_epi16(a, b); }
    static INLINE Ints widen(Ints sums, Words pairs) {
        return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
};
#endif

#if defined(__AVX2__)
// kNarrow: four products of two bytes stay below 2**15.
template <bool kNarrow>
struct Pairs : Base {
    template <bool kUnsigned>
    static INLINE Ints dot(Ints sums, Levels table, Words words, const uint8_t* x) {
        const Words first = pairs<kUnsigned>(low(table, words), x), second = pairs<kUnsigned>(high(table, words), x + 4);
        return kNarrow ? widen(sums, add16(first, second)) : widen(widen(sums, first), second);
    }
};
using Vectors = Base;
#else
using Vectors = Plain;
#endif

}  // namespace
}  // namespace LEVEL
