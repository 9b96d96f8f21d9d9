// Weights of checkpoints to codes, by runs that stay in the first cache. Compiled once for each instruction set, as
// LEVEL. Plain loops; every operation is compressed-tensors', in its order and precision.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../checkpoint.hpp"
#include "bits.hpp"

namespace LEVEL {
namespace {

constexpr int64_t kRun = 2048;  // elements worked on together

// Kinds of numbers: what is stored, as float32, and float32 rounded to it.
struct Single {
    using Stored = float;
    static INLINE float widen(float x) { return x; }
    static INLINE float round(float x) { return x; }
    static INLINE int32_t magnitude(float x) { return bits_of(x) & 0x7fffffff; }
    static INLINE float of_magnitude(int32_t bits) { return float_of(bits); }
};

struct Brain {
    using Stored = uint16_t;
    static INLINE float widen(uint16_t x) { return float_of(static_cast<int32_t>(static_cast<uint32_t>(x) << 16)); }
    static INLINE float round(float x) {
        const uint32_t bits = static_cast<uint32_t>(bits_of(x));
        return float_of(static_cast<int32_t>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u));
    }
    static INLINE uint16_t magnitude(uint16_t x) { return x & 0x7fff; }
    static INLINE float of_magnitude(uint16_t bits) { return widen(bits); }
};

struct Half {
    using Stored = uint16_t;
    static INLINE float widen(uint16_t x) {  // finite ones: exponents move by a product
        const float magnitude = float_of((x & 0x7fff) << 13) * 0x1p112f;
        return float_of(bits_of(magnitude) | (x & 0x8000) << 16);
    }
    // The step of the magnitude's binade, 2**-24 at least; a quotient of halves never comes near 65504 beyond clipping.
    static INLINE float round(float x) {
        const int32_t exponent = std::max((bits_of(x) >> 23 & 0xff) - 10, 127 - 24);
        const float magic = float_of(exponent << 23) * 0x1.8p23f;
        const float rounded = (x + magic) - magic;
        return std::fabs(x) < 65520.0f ? std::copysign(rounded, x) : x;
    }
    static INLINE uint16_t magnitude(uint16_t x) { return x & 0x7fff; }
    static INLINE float of_magnitude(uint16_t bits) { return bits < 0x7c00 ? widen(bits) : HUGE_VALF; }
};

// Elements: the code of a level. Floats saturate and round to nearest even.
struct Integer {
    float low, high;
    int32_t offset;
    INLINE int32_t operator()(float level) const {
        return static_cast<int32_t>(std::nearbyintf(std::min(std::max(level, low), high))) + offset;
    }
};

struct E2m1 {
    INLINE int32_t operator()(float x) const {  // one for each midpoint that is passed; -0 is 0
        const int32_t magnitude = bits_of(x) & 0x7fffffff;
        int32_t code = x < 0.0f ? 8 : 0;  // 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5
        code += magnitude > 0x3e800000;
        code += magnitude >= 0x3f400000;
        code += magnitude > 0x3fa00000;
        code += magnitude >= 0x3fe00000;
        code += magnitude > 0x40200000;
        code += magnitude >= 0x40600000;
        code += magnitude > 0x40a00000;
        return code;
    }
};

// Of `kMantissa` bits: below the first binade a fixed point, above it float32's bits cut short.
template <int32_t kMantissa, int32_t kFirstExponent>
INLINE int32_t small_float_code(float magnitude) {
    constexpr int32_t kCut = 23 - kMantissa;
    const float steps = float_of((127 + kMantissa - kFirstExponent) << 23);
    const int32_t small = static_cast<int32_t>(std::nearbyintf(magnitude * steps));
    const int32_t bits = bits_of(magnitude), half = (1 << (kCut - 1)) - 1;
    const int32_t large = ((bits + half + (bits >> kCut & 1)) >> kCut) - ((126 + kFirstExponent) << kMantissa);
    return magnitude < float_of((127 + kFirstExponent) << 23) ? small : large;
}

struct E2m3 {
    INLINE int32_t operator()(float x) const {
        return small_float_code<3, 0>(std::min(std::fabs(x), 7.5f)) | static_cast<int32_t>(std::signbit(x)) << 5;
    }
};

struct E4m3 {
    INLINE int32_t operator()(float x) const {
        return small_float_code<3, -6>(std::min(std::fabs(x), 448.0f)) | (x < 0.0f ? 128 : 0);  // -0 is 0
    }
};

// Eight codes fill `bits` bytes.
INLINE void pack(const uint8_t* __restrict codes, uint8_t* __restrict out, int64_t count, int32_t bits) {
    if (bits == 8) {
        std::memcpy(out, codes, count);
    } else if (bits == 4) {
        for (int64_t i = 0; i < count / 2; ++i) out[i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
    } else {
        for (int64_t i = 0; i < count; i += 8) {
            uint64_t word = 0;
            for (int32_t j = 0; j < 8; ++j) word |= static_cast<uint64_t>(codes[i + j]) << (j * bits);
            for (int32_t j = 0; j < bits; ++j) out[i / 8 * bits + j] = static_cast<uint8_t>(word >> (8 * j));
        }
    }
}

template <class Kind, class Element, int64_t kGroup>
void codes_rows(const CheckpointRows& r, const Element& element, int64_t first, int64_t last) {
    const int64_t group = kGroup ? kGroup : r.group, groups = (r.k + group - 1) / group;
    float level[kRun];
    uint8_t codes[kRun];
    for (int64_t row = first; row < last; ++row) {
        const auto* x = static_cast<const typename Kind::Stored*>(r.x) + row * r.k;
        const float* scale = r.scale + row * groups;
        const float* zero = r.zero ? r.zero + row * groups : nullptr;
        for (int64_t start = 0; start < r.k; start += kRun) {
            const int64_t count = std::min(kRun, r.k - start);
            for (int64_t i = 0; i < count; ++i) level[i] = Kind::widen(x[start + i]);
            for (int64_t at = 0; at < count;) {
                const int64_t cell = (start + at) / group, end = std::min((cell + 1) * group - start, count);
                const float by = scale[cell];
                if (kGroup && kRun % std::max(kGroup, int64_t{1}) == 0 && end - at == kGroup) {
                    for (int64_t i = 0; i < kGroup; ++i) level[at + i] /= by;
                } else {
                    for (int64_t i = at; i < end; ++i) level[i] /= by;
                }
                if (r.is_rounded && zero) {  // each step alone is rounded
                    for (int64_t i = at; i < end; ++i) level[i] = Kind::round(Kind::round(level[i]) + zero[cell]);
                }
                at = end;
            }
            if (r.is_rounded && !zero)
                for (int64_t i = 0; i < count; ++i) level[i] = Kind::round(level[i]);
            for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(element(level[i]));
            pack(codes, r.packed + row * r.row_bytes + start * r.bits / 8, count, r.bits);
        }
    }
}

template <class Kind, class Element>
void codes_of(const CheckpointRows& r, const Element& element, int64_t first, int64_t last) {
    if (r.group == 16) return codes_rows<Kind, Element, 16>(r, element, first, last);
    if (r.group == 32) return codes_rows<Kind, Element, 32>(r, element, first, last);
    codes_rows<Kind, Element, 0>(r, element, first, last);
}

template <class Kind>
void codes_to(const CheckpointRows& r, int64_t first, int64_t last) {
    if (r.element == 1) return codes_of<Kind>(r, E2m1{}, first, last);
    if (r.element == 2) return codes_of<Kind>(r, E2m3{}, first, last);
    if (r.element == 3) return codes_of<Kind>(r, E4m3{}, first, last);
    const float half = static_cast<float>(1 << (r.bits - 1));
    codes_of<Kind>(r, Integer{-half, half - 1.0f, r.offset}, first, last);
}

// Integers in the order of the floats: their bits, those of negative ones turned over.
INLINE int32_t ordered(float x) { return bits_of(x) ^ (bits_of(x) >> 31 & 0x7fffffff); }
INLINE int16_t ordered(uint16_t x) {
    const auto bits = static_cast<int16_t>(x);
    return static_cast<int16_t>(bits ^ (bits >> 15 & 0x7fff));
}
template <class Kind>
INLINE float value_of(int32_t key) {
    return float_of(key ^ (key >> 31 & 0x7fffffff));
}
template <class Kind>
INLINE float value_of(int16_t key) {
    return Kind::widen(static_cast<uint16_t>(key ^ (key >> 15 & 0x7fff)));
}

template <class Kind>
void extremes_of(const CheckpointRows& r, int64_t first, int64_t last) {
    const int64_t groups = (r.k + r.group - 1) / r.group;
    for (int64_t row = first; row < last; ++row) {
        const auto* x = static_cast<const typename Kind::Stored*>(r.x) + row * r.k;
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t start = g * r.group, end = std::min(start + r.group, r.k);
            if (!r.low) {
                auto largest = Kind::magnitude(x[start]);
                for (int64_t i = start; i < end; ++i) {
                    const auto magnitude = Kind::magnitude(x[i]);
                    largest = magnitude > largest ? magnitude : largest;
                }
                r.high[row * groups + g] = Kind::of_magnitude(largest);
            } else {
                auto low = ordered(x[start]), high = low;
                for (int64_t i = start; i < end; ++i) {
                    const auto value = ordered(x[i]);
                    low = value < low ? value : low;
                    high = value > high ? value : high;
                }
                r.low[row * groups + g] = value_of<Kind>(low);
                r.high[row * groups + g] = value_of<Kind>(high);
            }
        }
    }
}

void extremes(const CheckpointRows& r, int64_t first, int64_t last) {
    if (r.kind == 0) extremes_of<Single>(r, first, last);
    else if (r.kind == 1) extremes_of<Brain>(r, first, last);
    else extremes_of<Half>(r, first, last);
}

void codes(const CheckpointRows& r, int64_t first, int64_t last) {
    if (r.kind == 0) codes_to<Single>(r, first, last);
    else if (r.kind == 1) codes_to<Brain>(r, first, last);
    else codes_to<Half>(r, first, last);
}

// Lanes of polynomials in an odd number, modulo 2**32, and a polynomial of them.
uint64_t digest_of(const uint8_t* content, int64_t bytes) {
    constexpr int64_t kLanes = 128, kBytes = 4 * kLanes;
    uint32_t sums[kLanes] = {}, words[kLanes];
    const auto add = [&] {
        for (int64_t i = 0; i < kLanes; ++i) sums[i] = sums[i] * 0x9e3779b1u + words[i];
    };
    int64_t at = 0;
    for (; at + kBytes <= bytes; at += kBytes) {
        std::memcpy(words, content + at, kBytes);
        add();
    }
    std::memset(words, 0, kBytes);
    if (at < bytes) std::memcpy(words, content + at, bytes - at);
    add();
    uint64_t all = static_cast<uint64_t>(bytes);
    for (const uint32_t sum : sums) all = all * 0x9e3779b97f4a7c15u + sum;
    return all;
}

}  // namespace

extern const OverCheckpoint checkpoint_extremes = extremes;
extern const OverCheckpoint checkpoint_codes = codes;
extern const Digest digest = digest_of;

}  // namespace LEVEL
