// Products with weights of 4-bit codes, decoded by tables of 16 entries that a register holds. Compiled once for each
// instruction set, as LEVEL.
//
// Lanes are rows of the weight, so that each output is summed along K in one defined order: in a block, times the
// block's scale, into the sum over blocks. Integers by 8-bit lookups and exact dot products; floats by fused steps.
#include <cmath>
#include <cstring>

#include "../packed.hpp"
#include "bits.hpp"
#include "packed_vectors.hpp"

namespace LEVEL {
namespace {

constexpr int64_t kStepBytes = 4 * kTileRows;
constexpr int64_t kRun = 8;  // steps of floats that are summed apart where no scale cuts K into blocks

// The scales of a tile's blocks as float32 [blocks, 16].
void decode_scales(const PackedWeight& w, int64_t tile, int64_t blocks, float* __restrict out) {
    const int64_t count = blocks * kTileRows;
    if (!w.scales) {
        for (int64_t i = 0; i < count; ++i) out[i] = 1.0f;
        return;
    }
    if (w.scale_kind == 0) {
        std::memcpy(out, static_cast<const float*>(w.scales) + tile * count, count * sizeof(float));
        return;
    }
    const uint8_t* __restrict codes = static_cast<const uint8_t*>(w.scales) + tile * count;
    const float least = w.least, unit = w.unit;
    if (w.scale_kind == 2) {
        for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(static_cast<int32_t>(codes[i])) * unit;
        return;
    }
    const int32_t shift = 23 - w.mantissa_bits, base = (127 - w.bias) * (1 << 23), normal = 1 << w.mantissa_bits;
    for (int64_t i = 0; i < count; ++i) {
        const int32_t code = codes[i];
        const float small = least + static_cast<float>(code) * unit, large = float_of((code << shift) + base);
        out[i] = code < normal ? small : large;
    }
}

template <class V, int kTokens, int kElement>
INLINE void add_element(
    typename V::Floats* sums, const typename V::Values& table, const typename V::Words& words, const float* x, int64_t k) {
    const auto value = V::template value<8 * (kElement & 3) + kElement / 4 * 4>(table, words);
    for (int t = 0; t < kTokens; ++t) sums[t] = V::fused(value, V::all(x[t * k + kElement]), sums[t]);
}

// What is in a tile's sums goes out: in float64 times the scales that do not vary along K, then rounded.
INLINE void write(const PackedProduct& p, int64_t tile, int64_t token, const double* sums) {
    const PackedWeight& w = p.weight;
    const int64_t first = tile * kTileRows, count = std::min(kTileRows, w.rows - first);
    const double of_x = p.x_outside ? p.x_outside[token] : 1.0;
    float* out = p.out + token * w.rows + first;
    for (int64_t r = 0; r < count; ++r) out[r] = static_cast<float>(sums[r] * p.unit * of_x * w.outside[first + r]);
    if (p.bias)
        for (int64_t r = 0; r < count; ++r) out[r] += p.bias[first + r];
}

template <class V, int kTokens, bool kScaled>
void floats_of(const PackedProduct& p, int64_t tile, int64_t token, const float* scales) {
    const PackedWeight& w = p.weight;
    const int64_t k = kStep * w.steps, length = kScaled ? w.block_steps : kRun;
    const float* x = static_cast<const float*>(p.x) + token * k;
    const auto table = V::values(w.values);
    double sums[kTokens][kTileRows];
    for (int64_t lane = 0; lane < kTileRows; lane += V::kLanes) {
        const uint8_t* codes = w.codes + tile * w.steps * kStepBytes + 4 * lane;
        typename V::Floats total[kTokens];
        for (int t = 0; t < kTokens; ++t) total[t] = V::zero();
        for (int64_t start = 0, block = 0; start < w.steps; start += length, ++block) {
            typename V::Floats low[kTokens], high[kTokens];
            for (int t = 0; t < kTokens; ++t) low[t] = high[t] = V::zero();
            const int64_t stop = std::min(start + length, w.steps);
            for (int64_t step = start; step < stop; ++step) {
                const auto words = V::words(codes + step * kStepBytes);
                const float* at = x + kStep * step;
                add_element<V, kTokens, 0>(low, table, words, at, k);
                add_element<V, kTokens, 4>(high, table, words, at, k);
                add_element<V, kTokens, 1>(low, table, words, at, k);
                add_element<V, kTokens, 5>(high, table, words, at, k);
                add_element<V, kTokens, 2>(low, table, words, at, k);
                add_element<V, kTokens, 6>(high, table, words, at, k);
                add_element<V, kTokens, 3>(low, table, words, at, k);
                add_element<V, kTokens, 7>(high, table, words, at, k);
            }
            for (int t = 0; t < kTokens; ++t) {
                const auto partial = V::add(low[t], high[t]);
                total[t] = kScaled ? V::fused(partial, V::load(scales + block * kTileRows + lane), total[t])
                                   : V::add(total[t], partial);
            }
        }
        for (int t = 0; t < kTokens; ++t) {
            float found[V::kLanes];
            V::store(found, total[t]);
            for (int r = 0; r < V::kLanes; ++r) sums[t][lane + r] = found[r];
        }
    }
    for (int t = 0; t < kTokens; ++t) write(p, tile, token + t, sums[t]);
}

// Sums over blocks: one integer sum throughout; float32; exact in float64; or in integers, as float64's would be.
enum class Outer { kNone, kFloat, kExact, kInteger };

// Whether scales are integers times a power of two, and 32 bits hold every sum of theirs.
bool is_integer(const PackedProduct& p) {
    const PackedWeight& w = p.weight;
    if (w.scale_kind != 2 || !w.scales || p.x_inside || (bits_of(w.unit) & 0x7fffff)) return false;
    const int64_t of_x = p.x_is_unsigned ? 255 : 128, of_scale = (1 << w.mantissa_bits) - 1;
    return kStep * w.steps * w.largest * of_x * of_scale < int64_t{1} << 31;
}

template <class V, int kTokens, bool kUnsigned, Outer kOuter>
void integers_of(const PackedProduct& p, const int32_t* offsets, int64_t tile, int64_t token, const float* scales) {
    constexpr bool kBlocks = kOuter != Outer::kNone;
    const PackedWeight& w = p.weight;
    const int64_t k = kStep * w.steps, length = kBlocks ? w.block_steps : w.steps, blocks = w.steps / length;
    const uint8_t* x = static_cast<const uint8_t*>(p.x) + token * k;
    const auto table = V::levels(w.levels, kUnsigned ? 0 : w.largest);
    double sums[kTokens][kTileRows] = {};
    for (int64_t lane = 0; lane < kTileRows; lane += V::kLanes) {
        const uint8_t* codes = w.codes + tile * w.steps * kStepBytes + 4 * lane;
        const uint8_t* scale_codes = static_cast<const uint8_t*>(w.scales) + tile * blocks * kTileRows + lane;
        typename V::Floats total[kTokens];
        typename V::Ints whole[kTokens];
        for (int t = 0; t < kTokens; ++t) total[t] = V::zero(), whole[t] = V::ints(0);
        for (int64_t block = 0; block < blocks; ++block) {
            typename V::Ints partial[kTokens];
            for (int t = 0; t < kTokens; ++t) partial[t] = V::ints(offsets[(token + t) * blocks + block]);
            for (int64_t step = block * length; step < (block + 1) * length; ++step) {
                const auto words = V::words(codes + step * kStepBytes);
                for (int t = 0; t < kTokens; ++t)
                    partial[t] = V::template dot<kUnsigned>(partial[t], table, words, x + t * k + kStep * step);
            }
            if (kOuter == Outer::kInteger) {
                const auto scale = V::bytes(scale_codes + block * kTileRows);
                for (int t = 0; t < kTokens; ++t) whole[t] = V::add(whole[t], V::multiply(partial[t], scale));
                continue;
            }
            const float* scale = scales + block * kTileRows + lane;
            for (int t = 0; t < kTokens; ++t) {
                const float of_x = kBlocks && p.x_inside ? p.x_inside[(token + t) * blocks + block] : 1.0f;
                if (kOuter == Outer::kFloat) {
                    const auto product = V::multiply(V::load(scale), V::all(of_x));
                    total[t] = V::add(total[t], V::multiply(V::floats(partial[t]), product));
                } else {
                    int32_t found[V::kLanes];
                    V::store(found, partial[t]);
                    for (int r = 0; r < V::kLanes; ++r)
                        sums[t][lane + r] += kBlocks ? found[r] * (static_cast<double>(scale[r]) * of_x) : found[r];
                }
            }
        }
        for (int t = 0; t < kTokens; ++t) {
            if (kOuter == Outer::kFloat) {
                float found[V::kLanes];
                V::store(found, total[t]);
                for (int r = 0; r < V::kLanes; ++r) sums[t][lane + r] = found[r];
            } else if (kOuter == Outer::kInteger) {
                int32_t found[V::kLanes];
                V::store(found, whole[t]);
                for (int r = 0; r < V::kLanes; ++r) sums[t][lane + r] = found[r] * static_cast<double>(w.unit);
            }
        }
    }
    for (int t = 0; t < kTokens; ++t) write(p, tile, token + t, sums[t]);
}

// All tokens of each tile, several at a time: a token's result does not depend on how many.
template <class Eight, class Four, class Two, class One>
INLINE void all_tokens(int most, int64_t tokens, Eight eight, Four four, Two two, One one) {
    int64_t token = 0;
    if (most >= 8)
        for (; token + 8 <= tokens; token += 8) eight(token);
    for (; token + 4 <= tokens; token += 4) four(token);
    for (; token + 2 <= tokens; token += 2) two(token);
    for (; token < tokens; ++token) one(token);
}

template <bool kScaled>
void all_floats(const PackedProduct& p, int64_t first, int64_t last) {
    using V = Vectors;
    const int64_t blocks = kScaled ? p.weight.steps / p.weight.block_steps : 0;
    std::vector<float> scales(blocks * kTileRows);
    for (int64_t tile = first; tile < last; ++tile) {
        if (kScaled) decode_scales(p.weight, tile, blocks, scales.data());
        const float* s = scales.data();
        all_tokens(
            V::kTokens, p.tokens, [&](int64_t t) { floats_of<V, V::kTokens, kScaled>(p, tile, t, s); },
            [&](int64_t t) { floats_of<V, 4, kScaled>(p, tile, t, s); },
            [&](int64_t t) { floats_of<V, 2, kScaled>(p, tile, t, s); },
            [&](int64_t t) { floats_of<V, 1, kScaled>(p, tile, t, s); });
    }
}

template <class V, bool kUnsigned, Outer kOuter>
void all_integers(const PackedProduct& p, const int32_t* offsets, int64_t first, int64_t last) {
    const int64_t blocks = kOuter == Outer::kNone ? 0 : p.weight.steps / p.weight.block_steps;
    std::vector<float> scales(blocks * kTileRows);
    for (int64_t tile = first; tile < last; ++tile) {
        if (kOuter != Outer::kInteger) decode_scales(p.weight, tile, blocks, scales.data());
        const float* s = scales.data();
        all_tokens(
            V::kTokens, p.tokens, [&](int64_t t) { integers_of<V, V::kTokens, kUnsigned, kOuter>(p, offsets, tile, t, s); },
            [&](int64_t t) { integers_of<V, 4, kUnsigned, kOuter>(p, offsets, tile, t, s); },
            [&](int64_t t) { integers_of<V, 2, kUnsigned, kOuter>(p, offsets, tile, t, s); },
            [&](int64_t t) { integers_of<V, 1, kUnsigned, kOuter>(p, offsets, tile, t, s); });
    }
}

template <class V>
void with_outer(const PackedProduct& p, const int32_t* offsets, int64_t first, int64_t last) {
    const bool is_scaled = p.weight.scales || p.x_inside;
    if (!is_scaled && p.x_is_unsigned) all_integers<V, true, Outer::kNone>(p, offsets, first, last);
    else if (!is_scaled) all_integers<V, false, Outer::kNone>(p, offsets, first, last);
    else if (p.outer_is_exact && is_integer(p) && p.x_is_unsigned) all_integers<V, true, Outer::kInteger>(p, offsets, first, last);
    else if (p.outer_is_exact && is_integer(p)) all_integers<V, false, Outer::kInteger>(p, offsets, first, last);
    else if (p.outer_is_exact && p.x_is_unsigned) all_integers<V, true, Outer::kExact>(p, offsets, first, last);
    else if (p.outer_is_exact) all_integers<V, false, Outer::kExact>(p, offsets, first, last);
    else if (p.x_is_unsigned) all_integers<V, true, Outer::kFloat>(p, offsets, first, last);
    else all_integers<V, false, Outer::kFloat>(p, offsets, first, last);
}

void any_integers(const PackedProduct& p, const int32_t* offsets, int64_t first, int64_t last) {
#if defined(__AVX512F__)
    static const bool has_dot = __builtin_cpu_supports("avx512vnni");
    if (has_dot) return with_outer<Vnni>(p, offsets, first, last);
#endif
#if defined(__AVX2__)
    const int32_t product = p.x_is_unsigned ? 255 * p.weight.largest : 2 * p.weight.largest * 128;
    if (4 * product < 1 << 15) return with_outer<Pairs<true>>(p, offsets, first, last);
    return with_outer<Pairs<false>>(p, offsets, first, last);
#else
    return with_outer<Plain>(p, offsets, first, last);
#endif
}

void any_floats(const PackedProduct& p, const int32_t*, int64_t first, int64_t last) {
    if (p.weight.scales) all_floats<true>(p, first, last);
    else all_floats<false>(p, first, last);
}

int32_t tokens_of(const Tokens& t) {
    for (int64_t token = 0; token < t.tokens; ++token) {
        const float* __restrict x = t.x + token * t.k;
        int8_t* __restrict out = t.out + token * t.pitch;
        int32_t largest = 0;
        for (int64_t i = 0; i < t.k; ++i) {
            int32_t bits;
            std::memcpy(&bits, x + i, sizeof bits);
            largest = std::max(largest, bits & 0x7fffffff);
        }
        if (largest >= 0x7f800000) return 1;
        const float scale = float_of(largest) / t.full_scale, low = t.lowest, high = t.highest;
        const float by = scale > 0.0f ? scale : INFINITY;
        for (int64_t i = 0; i < t.k; ++i) {
            float level = x[i] / by;
            level = level < low ? low : level;
            level = level > high ? high : level;
            out[i] = static_cast<int8_t>(static_cast<int32_t>(std::nearbyintf(level)));
        }
        std::fill(out + t.k, out + t.pitch, static_cast<int8_t>(0));
        t.scales[token] = scale;
    }
    return 0;
}

void decode(const PackedWeight& w, float* out, int64_t k, int64_t first, int64_t last) {
    const int64_t blocks = w.scales ? w.steps / w.block_steps : 1, length = w.scales ? w.block_steps : w.steps;
    std::vector<float> scales(blocks * kTileRows);
    for (int64_t tile = first; tile < last; ++tile) {
        decode_scales(w, tile, blocks, scales.data());
        for (int64_t r = 0; r < std::min(kTileRows, w.rows - tile * kTileRows); ++r) {
            const uint8_t* codes = w.codes + tile * w.steps * kStepBytes + 4 * r;
            float* row = out + (tile * kTileRows + r) * k;
            for (int64_t step = 0; step < w.steps; ++step) {
                const float scale = scales[step / length * kTileRows + r];
                const uint32_t word = static_cast<uint32_t>(four_bytes(codes + step * kStepBytes));
                const int64_t count = std::min(kStep, k - kStep * step);
                for (int64_t i = 0; i < count; ++i)
                    row[kStep * step + i] = w.values[word >> (8 * (i & 3) + i / 4 * 4) & 15] * scale;
            }
        }
    }
}

}  // namespace

extern const MultiplyPacked multiply_packed_floats = any_floats;
extern const MultiplyPacked multiply_packed_integers = any_integers;
extern const QuantizeTokens quantize_tokens = tokens_of;
extern const DecodePacked decode_packed = decode;

}  // namespace LEVEL
