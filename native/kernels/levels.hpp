// Elements to levels: x / by, mostly without a division. Included inside a file of kernels.
#pragma once
#include "values.hpp"

namespace LEVEL {
namespace {

#if defined(__FMA__) || defined(__aarch64__)
constexpr bool kHasFma = true;
#else
constexpr bool kHasFma = false;
#endif

struct Divided {
    float by;
    float operator()(float x) const { return x / by; }
};

// By a power of two: exact.
struct Shrunk {
    float inverse;
    float operator()(float x) const { return x * inverse; }
};

// The same bits as x / by. With inverse = 1 / by rounded, q is off by less than 1.5 units in its last place (u), and `rest`
// is exact. With by = B · 2^i and x = A · 2^j, where 2^23 <= A, B < 2^24, the last sum before it is rounded is off by
// |x / by - q| · B · 2^-48 u at most. A quotient that is no midpoint of two floats is 1 / 2B u away from every one. There is
// one 0.5 u from q, where 0.5 · B · 2^-48 < 1 / 2B. The next one is 1.5 u from q, which no quotient comes near enough:
// |x / by - q| <= A · 2^-24 + 0.5 <= 1.5 - 2^-23, or B is a power of two. So both round alike (after Markstein, IBM J. Res.
// Dev. 34(1), 1990). It needs exponents away from float32's ends: see `is_plain`.
struct Refined {
    float by, inverse;
    float operator()(float x) const {
        const float q = x * inverse, rest = std::fma(-q, by, x);
        return std::fma(rest, inverse, q);
    }
};

// Levels below this become zero, so that only larger ones have to be exact.
float least_of(const Format& f) {
    if (f.kind == 1) return 0.5f * f.unit;
    if (f.kind == 2) return float_of((f.smallest_exponent - f.mantissa_bits + 126) << 23);
    return f.thresholds[0];
}

// Whether `Refined` is exact: no quotient overflows, and where |x / by| >= least the remainder does not underflow.
INLINE bool is_plain(float by, float inverse, float largest, float least) {
    return (by * least >= 0x1p-100f) & (by <= 0x1p125f) & (largest * inverse <= 0x1p125f);
}

// Whether levels that come to this largest magnitude, give or take a few roundings, are below the limit.
INLINE bool is_below(float largest_level, float limit) { return largest_level < limit * (1.0f - 0x1p-20f); }

}  // namespace
}  // namespace LEVEL
