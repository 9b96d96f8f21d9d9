// Levels to representable values and back, at the speed of memory. Compiled once for each instruction set, as LEVEL.
//
// Plain loops that compilers turn into vectors: no branch inside, no call, and every operation is the one that the
// reference does, in its order, in float32. The value of a level x under a format of floats is
// round(x / step) * step, with step from the exponent of x: exact, as step is a power of two.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../quantize.hpp"

namespace LEVEL {
namespace {

// Loops of a fixed length become straight vector code only where they are inlined.
#define INLINE inline __attribute__((always_inline))

constexpr int32_t kDone = 0, kNotFinite = 1, kUnknown = -1;

int32_t bits_of(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

float float_of(int32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

float clip(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

// Each rounds a quotient whose integers float32 holds.
struct NearestEven { float operator()(float q) const { return std::nearbyintf(q); } };
struct NearestUp {
    float operator()(float q) const { const float floor = std::floor(q); return floor + (q - floor >= 0.5f ? 1.0f : 0.0f); }
};
struct NearestAway {
    float operator()(float q) const {
        const float magnitude = std::fabs(q), inward = std::floor(magnitude);
        return std::copysign(inward + (magnitude - inward >= 0.5f ? 1.0f : 0.0f), q);
    }
};
struct NearestZero {
    float operator()(float q) const {
        const float magnitude = std::fabs(q), inward = std::floor(magnitude);
        return std::copysign(inward + (magnitude - inward > 0.5f ? 1.0f : 0.0f), q);
    }
};
struct Floor { float operator()(float q) const { return std::floor(q); } };
struct Ceiling { float operator()(float q) const { return std::ceil(q); } };
struct TowardZero { float operator()(float q) const { return std::trunc(q); } };

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

template <class Round>
struct Floats {
    float lowest, highest;
    int32_t mantissa, smallest;
    explicit Floats(const Format& f)
        : lowest(f.lowest), highest(f.highest), mantissa(f.mantissa_bits), smallest(f.smallest_exponent + 127) {}
    float operator()(float level) const { return rounded(clip(level, lowest, highest), smallest); }
    float rounded(float level, int32_t least) const {
        const int32_t step = std::max((bits_of(level) >> 23) & 0xff, least) - mantissa;
        return Round()(level * float_of((254 - step) << 23)) * float_of(step << 23);
    }
};

// The same where steps, or one over them, may be smaller than float32's normal numbers: scales of MX.
template <class Round>
struct TinyFloats {
    Floats<Round> floats;
    explicit TinyFloats(const Format& f) : floats(f) {}
    float operator()(float level) const {
        level = clip(level, floats.lowest, floats.highest);
        const bool is_small = level < 1.0f;
        const float value = floats.rounded(level * (is_small ? 0x1p64f : 0x1p-64f), floats.smallest + (is_small ? 64 : -64));
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

template <class Value>
INLINE void fill(const float* __restrict x, float* __restrict out, int64_t count, float by, Value value, float inside, float outside) {
    for (int64_t i = 0; i < count; ++i) out[i] = value(x[i] / by) * inside * outside;
}

template <class Value>
INLINE void fill(const float* __restrict x, float* __restrict out, int64_t count, float by, Value value, float inside, double outside) {
    for (int64_t i = 0; i < count; ++i)
        out[i] = static_cast<float>(static_cast<double>(value(x[i] / by) * inside) * outside);
}

// What multiplies a value: nothing, or the product of scales, in float32 where that holds it.
struct Factor {
    double outside;
    bool is_decoded, is_narrow;
    explicit Factor(const double* p)
        : outside(p ? *p : 1.0), is_decoded(p), is_narrow(static_cast<double>(static_cast<float>(outside)) == outside) {}
};

template <class Value>
INLINE void write(const float* x, float* out, int64_t count, float by, Value value, float inside, Factor factor) {
    inside = factor.is_decoded ? inside : 1.0f;
    if (!(by > 0.0f)) {
        std::fill(out, out + count, 0.0f);
    } else if (factor.is_narrow) {
        fill(x, out, count, by, value, inside, static_cast<float>(factor.outside));
    } else {
        fill(x, out, count, by, value, inside, factor.outside);
    }
}

INLINE int32_t largest_bits(const float* x, int64_t count) {
    int32_t largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, bits_of(x[i]) & 0x7fffffff);
    return largest;
}

bool is_finite(int32_t largest) { return largest < 0x7f800000; }

// Rows under one scale each, or all under one.
template <class MakeValue>
int32_t rows_of(const Quantization& q, int64_t first, int64_t last, MakeValue make) {
    constexpr int64_t kRun = 4096;  // stays in the first cache between the check and the work
    const bool is_shared = q.coarse_rows == 1 && q.pitch == q.k;
    const int64_t runs = is_shared ? 1 : last - first, length = is_shared ? (last - first) * q.k : q.k;
    for (int64_t run = 0; run < runs; ++run) {
        const int64_t row = first + run, coarse = q.coarse_rows == 1 ? 0 : row;
        const float* x = q.x + row * q.k;
        float* out = q.out + row * q.pitch;
        const auto value = make(coarse);
        const Factor factor(q.outside ? q.outside + coarse : nullptr);
        for (int64_t start = 0; start < length; start += kRun) {
            const int64_t count = std::min(kRun, length - start);
            if (!is_finite(largest_bits(x + start, count))) return kNotFinite;
            write(x + start, out + start, count, q.coarse[coarse], value, 1.0f, factor);
        }
        if (!is_shared) std::fill(out + q.k, out + q.pitch, 0.0f);
    }
    return kDone;
}

// Largest magnitudes of consecutive blocks, of which the last may be short; for unsigned formats the largest values.
template <int64_t kBlock>
int32_t find_spans(const float* x, int64_t elements, int64_t block, bool is_signed, float* spans) {
    int32_t worst = 0;
    for (int64_t start = 0; start < elements; start += block) {
        const int64_t size = std::min(block, elements - start);
        const int32_t largest = kBlock && size == kBlock ? largest_bits(x + start, kBlock) : largest_bits(x + start, size);
        worst = std::max(worst, largest);
        float span = float_of(largest);
        if (!is_signed) {
            span = 0.0f;
            for (int64_t i = 0; i < size; ++i) span = std::max(span, x[start + i]);
        }
        spans[start / block] = span;
    }
    return is_finite(worst) ? kDone : kNotFinite;
}

template <class Scale>
void find_scales(
    const Quantization& q, const float* __restrict spans, int64_t count, float taken, Scale round, float* __restrict inside,
    float* __restrict by) {
    const float full_scale = q.full_scale, divisor = taken * full_scale, smallest = q.smallest;
    const float zero_as = q.has_zero_as ? q.zero_as : 0.0f;
    const bool is_ideal = q.divides_by_ideal;
    const int32_t shift = q.magnitude_shift, half = shift ? 1 << (shift - 1) : 0;
    for (int64_t b = 0; b < count; ++b) {
        float ideal = float_of(((bits_of(spans[b]) + half) >> shift) << shift) / divisor;
        ideal = divisor > 0.0f ? ideal : 0.0f;
        ideal = ideal > 0.0f && ideal < smallest ? smallest : ideal;
        const float stored = round(ideal);
        inside[b] = stored == 0.0f ? zero_as : stored;
    }
    for (int64_t b = 0; b < count; ++b) by[b] = is_ideal ? spans[b] / full_scale : inside[b] * taken;
}

int32_t find_scales(const Quantization& q, const float* spans, int64_t count, float taken, float* inside, float* by) {
    const Format& scale = q.scale;
    const bool is_even = scale.rounding == 0, is_floor = scale.rounding == 4, is_ceiling = scale.rounding == 5;
    if (scale.kind == 0) find_scales(q, spans, count, taken, Same(scale), inside, by);
    else if (scale.kind == 1 && is_even) find_scales(q, spans, count, taken, Integers<NearestEven>(scale), inside, by);
    else if (scale.kind == 2 && is_even) find_scales(q, spans, count, taken, TinyFloats<NearestEven>(scale), inside, by);
    else if (scale.kind == 2 && is_floor) find_scales(q, spans, count, taken, TinyFloats<Floor>(scale), inside, by);
    else if (scale.kind == 2 && is_ceiling) find_scales(q, spans, count, taken, TinyFloats<Ceiling>(scale), inside, by);
    else return kUnknown;
    return kDone;
}

// Blocks whose scales come from their own largest magnitudes; of kBlock elements, or of q.block where that is 0.
template <int64_t kBlock, class Value>
int32_t blocks_of(const Quantization& q, int64_t first, int64_t last, Value value) {
    constexpr int64_t kChunk = 64;  // blocks whose scales are found together
    const int64_t block = kBlock ? kBlock : q.block, blocks = (q.k + block - 1) / block;
    float spans[kChunk], inside[kChunk], by[kChunk];
    for (int64_t row = first; row < last; ++row) {
        const int64_t coarse = q.coarse_rows == 1 ? 0 : row;
        const Factor factor(q.outside ? q.outside + coarse : nullptr);
        for (int64_t start = 0; start < q.k; start += kChunk * block) {
            const int64_t elements = std::min(kChunk * block, q.k - start), count = (elements + block - 1) / block;
            const float* x = q.x + row * q.k + start;
            float* out = q.out + row * q.pitch + start;
            int32_t outcome = find_spans<kBlock>(x, elements, block, q.is_signed, spans);
            if (outcome == kDone) outcome = find_scales(q, spans, count, q.coarse[coarse], inside, by);
            if (outcome != kDone) return outcome;
            const int64_t whole = elements / block;
            for (int64_t b = 0; b < whole; ++b)
                write(x + b * block, out + b * block, kBlock ? kBlock : block, by[b], value, inside[b], factor);
            for (int64_t b = whole; b < count; ++b)
                write(x + b * block, out + b * block, elements - b * block, by[b], value, inside[b], factor);
            if (q.inside) std::copy(inside, inside + count, q.inside + row * blocks + start / block);
        }
        std::fill(q.out + row * q.pitch + q.k, q.out + (row + 1) * q.pitch, 0.0f);
    }
    return kDone;
}

template <class Value>
int32_t with(const Quantization& q, int64_t first, int64_t last, Value value) {
    if (q.block) return blocks_of<0>(q, first, last, value);
    return rows_of(q, first, last, [=](int64_t) { return value; });
}

// The same with loops of fixed length for the blocks that are common.
template <class Value>
int32_t with_common_blocks(const Quantization& q, int64_t first, int64_t last, Value value) {
    if (q.block == 16) return blocks_of<16>(q, first, last, value);
    if (q.block == 32) return blocks_of<32>(q, first, last, value);
    return with(q, first, last, value);
}

template <template <class> class Values>
int32_t with_rounding(const Quantization& q, int64_t first, int64_t last) {
    switch (q.element.rounding) {
        case 0: return with_common_blocks(q, first, last, Values<NearestEven>(q.element));
        case 1: return with(q, first, last, Values<NearestUp>(q.element));
        case 2: return with(q, first, last, Values<NearestAway>(q.element));
        case 3: return with(q, first, last, Values<NearestZero>(q.element));
        case 4: return with(q, first, last, Values<Floor>(q.element));
        case 5: return with(q, first, last, Values<Ceiling>(q.element));
        case 6: return with(q, first, last, Values<TowardZero>(q.element));
        default: return kUnknown;
    }
}

int32_t any(const Quantization& q, int64_t first, int64_t last) {
    if (q.zero)
        return rows_of(q, first, last, [&](int64_t row) { return Shifted{q.element.lowest, q.element.highest, q.zero[row]}; });
    switch (q.element.kind) {
        case 1: return with_rounding<Integers>(q, first, last);
        case 2: return with_rounding<Floats>(q, first, last);
        case 3:
            if (q.element.count <= 7) return with_common_blocks(q, first, last, Symmetric<7>(q.element));
            return with(q, first, last, Symmetric<16>(q.element));
        default: return kUnknown;
    }
}

}  // namespace

extern const Quantize quantize = any;

}  // namespace LEVEL
