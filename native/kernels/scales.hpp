// Stored scales of blocks from their spans. Included inside a file of kernels.
#pragma once
#include "levels.hpp"
#include "spans.hpp"

namespace LEVEL {
namespace {

constexpr int64_t kChunk = 64;  // blocks whose scales are found together

struct Chunk {
    float spans[kChunk], inside[kChunk], by[kChunk], inverse[kChunk], ones[kChunk];
    Chunk() { std::fill(ones, ones + kChunk, 1.0f); }
};

template <class Scale>
void find_scales(const Quantization& q, int64_t count, float taken, Scale round, Chunk& chunk) {
    const float full_scale = q.full_scale, divisor = taken * full_scale, smallest = q.smallest;
    const float zero_as = q.has_zero_as ? q.zero_as : 0.0f;
    const bool is_ideal = q.divides_by_ideal;
    const int32_t shift = q.magnitude_shift, half = shift ? 1 << (shift - 1) : 0;
    for (int64_t b = 0; b < count; ++b) {
        float ideal = float_of(((bits_of(chunk.spans[b]) + half) >> shift) << shift) / divisor;
        ideal = divisor > 0.0f ? ideal : 0.0f;
        ideal = ideal > 0.0f && ideal < smallest ? smallest : ideal;
        const float stored = round(ideal);
        chunk.inside[b] = stored == 0.0f ? zero_as : stored;
    }
    for (int64_t b = 0; b < count; ++b) {
        const float by = is_ideal ? chunk.spans[b] / full_scale : chunk.inside[b] * taken;
        chunk.by[b] = by;
        chunk.inverse[b] = by > 0.0f ? 1.0f / by : 0.0f;  // levels of a block without a scale are zero
    }
}

// False for a format of scales that it does not know.
bool find_scales(const Quantization& q, int64_t count, float taken, Chunk& chunk) {
    const Format& scale = q.scale;
    const bool is_even = scale.rounding == 0, is_floor = scale.rounding == 4, is_ceiling = scale.rounding == 5;
    const bool is_tiny = scale.smallest_exponent < -60 || scale.highest > 0x1p60f;
    const bool is_power = scale.mantissa_bits == 0 && scale.lowest > 0.0f;
    if (scale.kind == 0) find_scales(q, count, taken, Same(scale), chunk);
    else if (scale.kind == 1 && is_even) find_scales(q, count, taken, Integers<NearestEven>(scale), chunk);
    else if (scale.kind == 2 && is_even && !is_tiny) find_scales(q, count, taken, Floats<NearestEven>(scale), chunk);
    else if (scale.kind == 2 && is_even) find_scales(q, count, taken, TinyFloats<NearestEven>(scale), chunk);
    else if (scale.kind == 2 && is_power && is_floor) find_scales(q, count, taken, Powers<false>(scale), chunk);
    else if (scale.kind == 2 && is_power && is_ceiling) find_scales(q, count, taken, Powers<true>(scale), chunk);
    else if (scale.kind == 2 && is_floor) find_scales(q, count, taken, TinyFloats<Floor>(scale), chunk);
    else if (scale.kind == 2 && is_ceiling) find_scales(q, count, taken, TinyFloats<Ceiling>(scale), chunk);
    else return false;
    return true;
}

// What holds for all blocks.
struct Kinds {
    bool shrunk, plain;    // `Shrunk` is exact, `Refined` is exact
    float largest_level;   // of signed formats
};

Kinds kinds_of(const Chunk& chunk, int64_t count, float largest, float least) {
    int32_t fraction = 0, is_shrunk = 1, is_plain_or_zero = kHasFma;
    int32_t level = 0;  // its bits, which order positive floats
    for (int64_t b = 0; b < count; ++b) {
        const float by = chunk.by[b];
        fraction |= bits_of(by) & 0x7fffff;
        is_shrunk &= by <= 0x1p127f;
        is_plain_or_zero &= (by == 0.0f) | is_plain(by, chunk.inverse[b], largest, least);
        level = std::max(level, bits_of(chunk.spans[b] * chunk.inverse[b]));
    }
    return {fraction == 0 && is_shrunk, static_cast<bool>(is_plain_or_zero), float_of(level)};
}

}  // namespace
}  // namespace LEVEL
