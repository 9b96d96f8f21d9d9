// Weights of checkpoints to codes, by runs that stay in the first cache. Compiled once for each instruction set, as
// LEVEL. Plain loops; results are those of compressed-tensors' operations, in their order and precision.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../checkpoint.hpp"
#include "bits.hpp"
#include "levels.hpp"

namespace LEVEL {
namespace {

constexpr int64_t kRun = 2048;  // elements worked on together

// Kinds of numbers: what is stored, as float32, float32 rounded to it, and held within 2**60.
struct Single {
    static constexpr bool kIsSingle = true, kIsBrain = false;
    using Stored = float;
    static INLINE float widen(float x) { return x; }
    static INLINE float round(float x) { return x; }
    static INLINE float held(float x) { return x; }
    static INLINE int32_t magnitude(float x) { return bits_of(x) & 0x7fffffff; }
    static INLINE float of_magnitude(int32_t bits) { return float_of(bits); }
};

struct Brain {
    static constexpr bool kIsSingle = false, kIsBrain = true;
    using Stored = uint16_t;
    static INLINE float widen(uint16_t x) { return float_of(static_cast<int32_t>(static_cast<uint32_t>(x) << 16)); }
    static INLINE float round(float x) {
        const uint32_t bits = static_cast<uint32_t>(bits_of(x));
        return float_of(static_cast<int32_t>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u));
    }
    static INLINE float held(float x) { return std::min(std::max(x, -0x1p60f), 0x1p60f); }
    static INLINE uint16_t magnitude(uint16_t x) { return x & 0x7fff; }
    static INLINE float of_magnitude(uint16_t bits) { return widen(bits); }
};

struct Half {
    static constexpr bool kIsSingle = false, kIsBrain = false;
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
    static INLINE float held(float x) { return x; }
    static INLINE uint16_t magnitude(uint16_t x) { return x & 0x7fff; }
    static INLINE float of_magnitude(uint16_t bits) { return bits < 0x7c00 ? widen(bits) : HUGE_VALF; }
};

// Elements: the code of a level, in its lowest bits. Floats saturate and round to nearest even.
struct Integer {
    float low, high;
    int32_t offset, mask;
    INLINE int32_t operator()(float level) const {  // the sum's last bits count units
        return (bits_of(std::min(std::max(level, low), high) + 0x1.8p23f) + offset) & mask;
    }
};

// Of `kMantissa` bits: below the first binade a fixed point, which a sum's last bits count; above it float32's bits cut
// short.
template <int32_t kMantissa, int32_t kFirstExponent>
INLINE int32_t small_float_code(float magnitude) {
    constexpr int32_t kCut = 23 - kMantissa, kUnits = (127 + kCut + kFirstExponent) << 23;
    const int32_t small = bits_of(magnitude + float_of(kUnits)) - kUnits;
    const int32_t bits = bits_of(magnitude), half = (1 << (kCut - 1)) - 1;
    const int32_t large = ((bits + half + (bits >> kCut & 1)) >> kCut) - ((126 + kFirstExponent) << kMantissa);
    return magnitude < float_of((127 + kFirstExponent) << 23) ? small : large;
}

struct E2m1 {
    INLINE int32_t operator()(float x) const {
        return small_float_code<1, 0>(std::min(std::fabs(x), 6.0f)) | (x < 0.0f ? 8 : 0);  // -0 is 0
    }
};

struct E2m3 {
    INLINE int32_t operator()(float x) const {
        return small_float_code<3, 0>(std::min(std::fabs(x), 7.5f)) | (bits_of(x) >> 31 & 32);
    }
};

struct E4m3 {
    INLINE int32_t operator()(float x) const {
        return small_float_code<3, -6>(std::min(std::fabs(x), 448.0f)) | (x < 0.0f ? 128 : 0);  // -0 is 0
    }
};

// Eight codes fill `bits` bytes: neighbours move together, then pairs, then fours.
INLINE void pack(const uint8_t* __restrict codes, uint8_t* __restrict out, int64_t count, int32_t bits) {
    if (bits == 8) {
        std::memcpy(out, codes, count);
    } else if (bits == 4) {
        for (int64_t i = 0; i < count / 2; ++i) {
            uint16_t pair;
            std::memcpy(&pair, codes + 2 * i, sizeof pair);
            out[i] = static_cast<uint8_t>(pair | pair >> 4);
        }
    } else {
        uint8_t packed[kRun + 8];
        const int32_t gap = 8 - bits;
        for (int64_t i = 0; i < count / 8; ++i) {
            uint64_t word;
            std::memcpy(&word, codes + 8 * i, sizeof word);
            word = (word & 0x00ff00ff00ff00ff) | (word & 0xff00ff00ff00ff00) >> gap;
            word = (word & 0x0000ffff0000ffff) | (word & 0xffff0000ffff0000) >> 2 * gap;
            word = (word & 0x00000000ffffffff) | (word & 0xffffffff00000000) >> 4 * gap;
            std::memcpy(packed + bits * i, &word, sizeof word);
        }
        std::memcpy(out, packed, count / 8 * bits);
    }
}

// How a row is divided by its scales without divisions.
enum class Quotient { kDivided, kRefined, kProduct };

// bfloat16 over bfloat16, rounded to bfloat16: the product with the rounded inverse rounds alike. Quotients a / b of
// integers below 2**8 are no midpoints m / 2**j of odd m > 2**8, as m would divide a, and lie 2**-18 of themselves or
// more from them; where results are denormal, midpoints are exact in float32, and others 2**-142 away.
// Others are refined: levels that are not rounded to zero are exact, and smaller ones keep their sign; weights beyond
// 2**60 are held there, as they are clipped under scales of up to 1.
template <class Kind>
Quotient quotient_of(const CheckpointRows& r, const float* scale, int64_t cells) {
    float least = scale[0], most = scale[0];
    int32_t bits = 0;
    for (int64_t c = 0; c < cells; ++c) {
        least = std::min(least, scale[c]);
        most = std::max(most, scale[c]);
        bits |= bits_of(scale[c]);
    }
    if (Kind::kIsSingle || !(least >= 0x1p-60f)) return Quotient::kDivided;
    if (Kind::kIsBrain && r.is_rounded && (bits & 0xffff) == 0) return most <= 0x1p60f ? Quotient::kProduct : Quotient::kDivided;
    const bool is_refined = kHasFma && r.element != 2 && most <= 1.0f;  // E2M3 keeps the sign of zero
    return is_refined ? Quotient::kRefined : Quotient::kDivided;
}

template <class Kind>
struct Held {
    Refined refined;
    INLINE float operator()(float x) const { return refined(Kind::held(x)); }
};

template <class Kind, class Level>
INLINE void levels_of(
    const typename Kind::Stored* __restrict x, float* __restrict levels, int64_t count, Level level, const float* zero,
    bool is_rounded) {
    if (is_rounded && zero) {  // each step alone is rounded
        const float by = *zero;
        for (int64_t i = 0; i < count; ++i) levels[i] = Kind::round(Kind::round(level(Kind::widen(x[i]))) + by);
    } else if (is_rounded) {
        for (int64_t i = 0; i < count; ++i) levels[i] = Kind::round(level(Kind::widen(x[i])));
    } else {
        for (int64_t i = 0; i < count; ++i) levels[i] = level(Kind::widen(x[i]));
    }
}

template <class Kind, class Element, int64_t kGroup, class MakeLevel>
INLINE void codes_row(const CheckpointRows& r, const Element& element, int64_t row, MakeLevel make) {
    const int64_t group = kGroup ? kGroup : r.group, groups = (r.k + group - 1) / group;
    const auto* x = static_cast<const typename Kind::Stored*>(r.x) + row * r.k;
    const float* scale = r.scale + row * groups;
    const float* zero = r.zero ? r.zero + row * groups : nullptr;
    float levels[kRun], inverse[kRun];
    uint8_t codes[kRun];
    for (int64_t start = 0; start < r.k; start += kRun) {
        const int64_t count = std::min(kRun, r.k - start), first = start / group;
        const int64_t cells = (start + count - 1) / group + 1 - first;
        for (int64_t c = 0; c < cells; ++c) inverse[c] = 1.0f / scale[first + c];
        for (int64_t c = 0, at = 0; c < cells; ++c) {
            const int64_t end = std::min((first + c + 1) * group - start, count);
            const auto level = make(scale[first + c], inverse[c]);
            const float* shift = zero ? zero + first + c : nullptr;
            if (kGroup && end - at == kGroup) {
                levels_of<Kind>(x + start + at, levels + at, kGroup, level, shift, r.is_rounded);
            } else {
                levels_of<Kind>(x + start + at, levels + at, end - at, level, shift, r.is_rounded);
            }
            at = end;
        }
        for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(element(levels[i]));  // of any cells: long vectors
        pack(codes, r.packed + row * r.row_bytes + start * r.bits / 8, count, r.bits);
    }
}

template <class Kind, class Element, int64_t kGroup>
void codes_rows(const CheckpointRows& r, const Element& element, int64_t first, int64_t last) {
    const int64_t groups = (r.k + r.group - 1) / r.group;
    for (int64_t row = first; row < last; ++row) {
        switch (quotient_of<Kind>(r, r.scale + row * groups, groups)) {
            case Quotient::kProduct:
                codes_row<Kind, Element, kGroup>(r, element, row, [](float, float inverse) { return Shrunk{inverse}; });
                break;
            case Quotient::kRefined:
                if (!kHasFma) break;
                codes_row<Kind, Element, kGroup>(
                    r, element, row, [](float by, float inverse) { return Held<Kind>{{by, inverse}}; });
                break;
            case Quotient::kDivided:
                codes_row<Kind, Element, kGroup>(r, element, row, [](float by, float) { return Divided{by}; });
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
    codes_of<Kind>(r, Integer{-half, half - 1.0f, r.offset, (1 << r.bits) - 1}, first, last);
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
    const auto bits = static_cast<uint16_t>(key ^ (key >> 15 & 0x7fff));
    return std::copysign(Kind::of_magnitude(Kind::magnitude(bits)), static_cast<float>(key));
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
