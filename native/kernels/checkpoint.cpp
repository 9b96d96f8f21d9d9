// Weights of checkpoints to codes, in one pass over rows that stay in the first cache. Compiled once for each
// instruction set, as LEVEL. Plain loops; every operation is compressed-tensors', in its order and precision.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../checkpoint.hpp"
#include "bits.hpp"

namespace LEVEL {
namespace {

constexpr int64_t kRun = 2048;  // elements worked on together: whole groups

// Kinds of numbers: what is stored, as float32, and float32 rounded to it.
struct Single {
    using Stored = float;
    static constexpr float kEpsilon = 0x1p-23f;
    static INLINE float widen(float x) { return x; }
    static INLINE float round(float x) { return x; }
    static INLINE float narrow(float x) { return x; }
};

struct Brain {
    using Stored = uint16_t;
    static constexpr float kEpsilon = 0x1p-7f;
    static INLINE float widen(uint16_t x) { return float_of(static_cast<int32_t>(static_cast<uint32_t>(x) << 16)); }
    static INLINE uint32_t rounded(float x) {
        const uint32_t bits = static_cast<uint32_t>(bits_of(x));
        return bits + 0x7fff + (bits >> 16 & 1);
    }
    static INLINE float round(float x) { return float_of(static_cast<int32_t>(rounded(x) & 0xffff0000u)); }
    static INLINE uint16_t narrow(float x) { return static_cast<uint16_t>(rounded(x) >> 16); }
};

struct Half {
    using Stored = uint16_t;
    static constexpr float kEpsilon = 0x1p-10f;
    static INLINE float widen(uint16_t x) {  // finite ones: exponents move by a product
        const float magnitude = float_of((x & 0x7fff) << 13) * 0x1p112f;
        return float_of(bits_of(magnitude) | (x & 0x8000) << 16);
    }
    // The step of the magnitude's binade, 2**-24 at least; a quotient of halves never comes near 65504 beyond clipping.
    static INLINE float round(float x) {
        const int32_t exponent = std::max((bits_of(x) >> 23 & 0xff) - 10, 127 - 24);
        const float magic = float_of(exponent << 23) * 0x1.8p23f;
        const float rounded = (x + magic) - magic;
        return std::fabs(x) < 65520.0f ? rounded : x;
    }
    static INLINE uint16_t narrow(float x) {  // of a rounded positive value
        return static_cast<uint16_t>(static_cast<uint32_t>(bits_of(x * 0x1p-112f)) >> 13);
    }
};

INLINE void pack(const uint8_t* __restrict codes, uint8_t* __restrict out, int64_t count) {
    for (int64_t i = 0; i < count / 2; ++i) out[i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
}

template <int64_t kGroup>
INLINE float largest_of(const float* x, int64_t group) {
    int32_t largest = 0;
    for (int64_t i = 0; i < (kGroup ? kGroup : group); ++i) largest = std::max(largest, bits_of(x[i]) & 0x7fffffff);
    return float_of(largest);
}

template <class Kind, int64_t kGroup>
void int4_rows(const CheckpointRows& r, int64_t first, int64_t last) {
    const int64_t group = kGroup ? kGroup : r.group, run = std::max(kRun / group, int64_t{1}) * group;
    std::vector<float> wide(run);
    std::vector<uint8_t> codes(run);
    for (int64_t row = first; row < last; ++row) {
        const auto* x = static_cast<const typename Kind::Stored*>(r.x) + row * r.k;
        auto* scales = static_cast<typename Kind::Stored*>(r.scales) + row * (r.k / group);
        for (int64_t start = 0; start < r.k; start += run) {
            const int64_t count = std::min(run, r.k - start);
            for (int64_t i = 0; i < count; ++i) wide[i] = Kind::widen(x[start + i]);
            for (int64_t at = 0; at < count; at += group) {
                const float* values = wide.data() + at;
                float scale = Kind::round(largest_of<kGroup>(values, group) / 7.5f);
                scale = scale == 0.0f ? Kind::kEpsilon : scale;
                scales[(start + at) / group] = Kind::narrow(scale);
                for (int64_t i = 0; i < (kGroup ? kGroup : group); ++i) {
                    const float level = std::min(std::max(Kind::round(values[i] / scale), -8.0f), 7.0f);
                    codes[at + i] = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyintf(level)) + 8);
                }
            }
            pack(codes.data(), r.packed + (row * r.k + start) / 2, count);
        }
    }
}

INLINE int32_t e4m3_code(float x) {  // of a value from 0 to 448, to nearest even
    const int32_t small = static_cast<int32_t>(std::nearbyintf(x * 512.0f));
    const int32_t bits = bits_of(x), large = ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3);
    return x < 0x1p-6f ? small : large;
}

INLINE float e4m3_value(int32_t code) {
    return code < 8 ? static_cast<float>(code) * 0x1p-9f : float_of((code << 20) + (120 << 23));
}

INLINE int32_t e2m1_code(float x) {  // to nearest even; -0 is 0
    const int32_t magnitude = bits_of(x) & 0x7fffffff;
    int32_t code = x < 0.0f ? 8 : 0;  // then one for each midpoint that is passed: 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5
    code += magnitude > 0x3e800000;
    code += magnitude >= 0x3f400000;
    code += magnitude > 0x3fa00000;
    code += magnitude >= 0x3fe00000;
    code += magnitude > 0x40200000;
    code += magnitude >= 0x40600000;
    code += magnitude > 0x40a00000;
    return code;
}

template <class Kind>
void nvfp4_rows(const CheckpointRows& r, int64_t first, int64_t last) {
    constexpr int64_t kGroup = 16, kGroups = kRun / kGroup;
    float wide[kRun], largest[kGroups], by[kGroups];
    uint8_t codes[kRun];
    const float global = r.global_scale;
    for (int64_t row = first; row < last; ++row) {
        const auto* x = static_cast<const typename Kind::Stored*>(r.x) + row * r.k;
        uint8_t* scales = static_cast<uint8_t*>(r.scales) + row * (r.k / kGroup);
        for (int64_t start = 0; start < r.k; start += kRun) {
            const int64_t count = std::min(kRun, r.k - start), groups = count / kGroup;
            for (int64_t i = 0; i < count; ++i) wide[i] = Kind::widen(x[start + i]);
            for (int64_t g = 0; g < groups; ++g) largest[g] = largest_of<kGroup>(wide + g * kGroup, kGroup);
            for (int64_t g = 0; g < groups; ++g) {
                const int32_t code = e4m3_code(std::min(global * Kind::round(largest[g] / 6.0f), 448.0f));
                const int32_t stored = code == 0 ? 0x20 : code;  // 0.125 for zero
                scales[start / kGroup + g] = static_cast<uint8_t>(stored);
                by[g] = e4m3_value(stored) / global;
            }
            for (int64_t g = 0; g < groups; ++g)
                for (int64_t i = 0; i < kGroup; ++i) wide[g * kGroup + i] /= by[g];
            for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(e2m1_code(wide[i]));
            pack(codes, r.packed + (row * r.k + start) / 2, count);
        }
    }
}

template <class Kind>
int32_t largest_bits(const CheckpointRows& r, int64_t first, int64_t last) {
    const auto* x = static_cast<const typename Kind::Stored*>(r.x);
    int32_t largest = 0;
    for (int64_t i = first * r.k; i < last * r.k; ++i) largest = std::max(largest, bits_of(Kind::widen(x[i])) & 0x7fffffff);
    return largest;
}

int32_t largest_half(const CheckpointRows& r, int64_t first, int64_t last) {
    const auto* x = static_cast<const uint16_t*>(r.x);
    int32_t largest = 0;
    for (int64_t i = first * r.k; i < last * r.k; ++i) largest = std::max(largest, x[i] & 0x7fff);
    return largest < 0x7c00 ? bits_of(Half::widen(static_cast<uint16_t>(largest))) : 0x7f800000;
}

template <class Kind>
void int4_of(const CheckpointRows& r, int64_t first, int64_t last) {
    if (r.group == 128) return int4_rows<Kind, 128>(r, first, last);
    if (r.group == 32) return int4_rows<Kind, 32>(r, first, last);
    int4_rows<Kind, 0>(r, first, last);
}

void int4(const CheckpointRows& r, int64_t first, int64_t last) {
    if (r.kind == 0) int4_of<Single>(r, first, last);
    else if (r.kind == 1) int4_of<Brain>(r, first, last);
    else int4_of<Half>(r, first, last);
}

void nvfp4(const CheckpointRows& r, int64_t first, int64_t last) {
    if (r.kind == 0) nvfp4_rows<Single>(r, first, last);
    else if (r.kind == 1) nvfp4_rows<Brain>(r, first, last);
    else nvfp4_rows<Half>(r, first, last);
}

int32_t largest(const CheckpointRows& r, int64_t first, int64_t last) {
    if (r.kind == 0) return largest_bits<Single>(r, first, last);
    return r.kind == 1 ? largest_bits<Brain>(r, first, last) : largest_half(r, first, last);
}

}  // namespace

extern const QuantizeCheckpoint checkpoint_int4 = int4;
extern const QuantizeCheckpoint checkpoint_nvfp4 = nvfp4;
extern const LargestBits checkpoint_largest = largest;

}  // namespace LEVEL
