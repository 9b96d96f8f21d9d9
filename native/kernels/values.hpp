// Levels to the values of a format, one at a time in plain code that compilers turn into vectors: no branch inside, no
// call, and every operation is the one that the reference does, in its order, in float32.
//
// The value of a level x under a format of floats is round(x / step) * step, with step from the exponent of x: exact, as
// step is a power of two. Included inside a file of kernels.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../quantize.hpp"
#include "rounding.hpp"

namespace LEVEL {
namespace {

float clip(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

// Formats: a level to its value.
struct Same {
    explicit Same(const Format&) {}
    float operator()(float level) const { return level; }
};

template <class Round>
struct Integers {
    float lowest, highest, unit, inverse;
    explicit Integers(const Format& f) : lowest(f.lowest), highest(f.highest), unit(f.unit), inverse(1.0f / f.unit) {}
    float operator()(float level) const { return Round()(clip(level * inverse, lowest, highest)) * unit; }
};

// In units of 1.
struct Whole {
    float lowest, highest, limit;
    explicit Whole(const Format& f)
        : lowest(f.lowest), highest(f.highest), limit(lowest < 0.0f ? std::min(highest, -lowest) + 0.5f : 0.0f) {}
    float operator()(float level) const { return rounded(clip(level, lowest, highest)); }
    float rounded(float level) const { return NearestEven()(level); }
};

template <class Round>
float to_steps(float level, int32_t least, int32_t mantissa) {
    const int32_t step = std::max((bits_of(level) >> 23) & 0xff, least) - mantissa;
    return Round()(level * float_of((254 - step) << 23)) * float_of(step << 23);
}

template <class Round>
struct Floats {
    float lowest, highest;
    int32_t mantissa, smallest;
    explicit Floats(const Format& f)
        : lowest(f.lowest), highest(f.highest), mantissa(f.mantissa_bits), smallest(f.smallest_exponent + 127) {}
    float operator()(float level) const { return to_steps<Round>(clip(level, lowest, highest), smallest, mantissa); }
};

// 1.5 · 2^23 steps more leave no bits below a step, and float32's own rounding is to nearest even. The sum must fit:
// `kernels` gives no format whose largest value or whose mantissas are too large.
template <>
struct Floats<NearestEven> {
    float lowest, highest, limit;
    int32_t least, up;
    explicit Floats(const Format& f)
        : lowest(f.lowest), highest(f.highest), least((f.smallest_exponent + 127) << 23),
          up(((23 - f.mantissa_bits) << 23) + 0x400000) {
        const int32_t half_step = std::max(bits_of(highest) & 0x7f800000, least) - ((f.mantissa_bits + 1) << 23);
        limit = lowest < 0.0f ? highest + float_of(std::max(half_step, 0)) : 0.0f;
    }
    float operator()(float level) const { return rounded(clip(level, lowest, highest)); }
    float rounded(float level) const {
        const float steps = float_of(std::max(bits_of(level) & 0x7f800000, least) + up);
        return (level + steps) - steps;
    }
};

// Where magnitudes of levels are below the limit, which they are mostly, nothing saturates.
template <class Value>
struct Unclipped {
    static constexpr bool kExists = false;
};
template <class Value>
struct Limited {
    static constexpr bool kExists = true;
    Value value;
    float operator()(float level) const { return value.rounded(level); }
};
template <>
struct Unclipped<Whole> : Limited<Whole> {};
template <>
struct Unclipped<Floats<NearestEven>> : Limited<Floats<NearestEven>> {};

// Powers of two without a zero, rounded down or up: scales of MX.
template <bool kIsUp>
struct Powers {
    float lowest, highest;
    explicit Powers(const Format& f) : lowest(f.lowest), highest(f.highest) {}
    float operator()(float level) const {
        level = clip(level, lowest, highest);
        const float power = float_of((bits_of(level) + (kIsUp ? 0x7fffff : 0)) & 0x7f800000);
        return level == lowest || power < lowest ? lowest : power;  // which may be 2^-127
    }
};

// Floats whose steps, or one over them, may be smaller than float32's normal numbers.
template <class Round>
struct TinyFloats {
    float lowest, highest;
    int32_t mantissa, smallest;
    explicit TinyFloats(const Format& f)
        : lowest(f.lowest), highest(f.highest), mantissa(f.mantissa_bits), smallest(f.smallest_exponent + 127) {}
    float operator()(float level) const {
        level = clip(level, lowest, highest);
        const bool is_small = level < 1.0f;
        const float value =
            to_steps<Round>(level * (is_small ? 0x1p64f : 0x1p-64f), smallest + (is_small ? 64 : -64), mantissa);
        return value * (is_small ? 0x1p-64f : 0x1p64f);
    }
};

template <int kCount>
struct Symmetric {
    float lowest, thresholds[kCount], steps[kCount], odd_levels[2], odd_values[2];
    int32_t inward;
    explicit Symmetric(const Format& f)
        : lowest(f.lowest), odd_levels{f.odd_levels[0], f.odd_levels[1]}, odd_values{f.odd_values[0], f.odd_values[1]},
          inward(f.inward) {
        for (int i = 0; i < kCount; ++i) {
            thresholds[i] = i < f.count ? f.thresholds[i] : INFINITY;
            steps[i] = i < f.count ? f.steps[i] : 0.0f;
        }
    }
    float operator()(float level) const {
        level = level < lowest ? lowest : level;
        // one step toward zero moves a tie, and nothing else, across its threshold
        const float magnitude = float_of((bits_of(level) & 0x7fffffff) - (level < 0.0f ? inward : 0));
        float value = 0.0f;
        for (int i = 0; i < kCount; ++i) value += magnitude >= thresholds[i] ? steps[i] : 0.0f;
        value = std::copysign(value, level);
        value = level == odd_levels[0] ? odd_values[0] : value;
        return level == odd_levels[1] ? odd_values[1] : value;
    }
};

// A zero point: the level is rounded before the shift, so that real zero lands on its code.
struct Shifted {
    float lowest, highest, zero;
    float operator()(float level) const { return clip(std::nearbyintf(level) + zero, lowest, highest) - zero; }
};

}  // namespace
}  // namespace LEVEL
