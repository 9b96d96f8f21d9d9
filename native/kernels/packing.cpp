// Codes of elements and scales, side by side without gaps, from a matrix and back. Compiled once for each instruction set.
//
// A row is quantized to values in a buffer. Values of formats of up to 8 bits have up to 7 mantissa bits, so the upper half of
// a float32 finds their code in a table.
#include "../packing.hpp"

#include "spans.hpp"
#include "values.hpp"

namespace LEVEL {
namespace {

int64_t bytes_of(int64_t count, int32_t bits) { return (count * bits + 7) / 8; }

uint32_t upper_half(float x) { return static_cast<uint32_t>(bits_of(x)) >> 16; }

// Integers and floats by arithmetic, others by their table.
void find_codes(const Packing& p, const float* __restrict values, int64_t count, uint8_t* __restrict codes) {
    const Format& f = p.work.element;
    const float inverse = 1.0f / f.unit, smallest = std::ldexp(1.0f, f.smallest_exponent);
    const int32_t mantissa_one = 1 << f.mantissa_bits, mask = (1 << p.bits) - 1, drop = 23 - f.mantissa_bits, sign_shift = 32 - p.bits;
    const int32_t first_binade = (f.smallest_exponent + 126) << f.mantissa_bits, sign = p.keeps_sign ? INT32_MIN : 0;
    if (f.kind == 1) {
        for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<int32_t>(values[i] * inverse) & mask;
    } else if (f.kind == 2) {
        for (int64_t i = 0; i < count; ++i) {
            const int32_t bits = bits_of(values[i]);
            const float magnitude = float_of(bits & 0x7fffffff);
            // the smallest binade's step is the subnormals' as well: one binade more stands for their missing first bit
            const bool is_subnormal = magnitude < smallest;
            const int32_t top = bits_of(is_subnormal ? magnitude + smallest : magnitude) >> drop;
            const int32_t code = top - first_binade - (is_subnormal ? mantissa_one : 0);
            codes[i] = code | static_cast<int32_t>(static_cast<uint32_t>(bits & sign) >> sign_shift);
        }
    } else {
        for (int64_t i = 0; i < count; ++i) codes[i] = p.code_of[upper_half(values[i])];
    }
}

// Eight codes, a byte each, moved together: in pairs, in fours, in one word.
INLINE uint64_t eight_together(uint64_t codes, int32_t bits) {
    const int32_t gap = 8 - bits;
    codes = (codes & 0x00ff00ff00ff00ffu) | (codes & 0xff00ff00ff00ff00u) >> gap;
    codes = (codes & 0x0000ffff0000ffffu) | (codes & 0xffff0000ffff0000u) >> 2 * gap;
    return (codes & 0x00000000ffffffffu) | (codes & 0xffffffff00000000u) >> 4 * gap;
}

void pack_row(const uint8_t* codes, int64_t count, int32_t bits, uint8_t* out) {
    const uint8_t* const end = out + bytes_of(count, bits);
    if (bits == 8) {
        std::memcpy(out, codes, count);
        return;
    }
    int64_t i = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (; i + 8 <= count && end - out >= 8; i += 8, out += bits) {  // what is written too far is written over
        uint64_t word;
        std::memcpy(&word, codes + i, 8);
        word = eight_together(word, bits);
        std::memcpy(out, &word, 8);
    }
#endif
    uint32_t waiting = 0;
    int32_t held = 0;
    for (; i < count; ++i) {
        waiting |= static_cast<uint32_t>(codes[i]) << held;
        for (held += bits; held >= 8; held -= 8, waiting >>= 8) *out++ = static_cast<uint8_t>(waiting);
    }
    if (held) *out = static_cast<uint8_t>(waiting);
}

// Negative levels that became zero get the sign of the zero. x / by is zero itself up to a magnitude of by / 2 · 2^-149.
void keep_signs(const float* __restrict x, float* __restrict values, int64_t count, float by) {
    const float zeros = by > 0.0f ? std::floor(by * 0.5f) * 0x1p-149f : INFINITY;
    for (int64_t i = 0; i < count; ++i) {
        const int32_t sign = x[i] < -zeros ? INT32_MIN : 0;
        values[i] = float_of((bits_of(values[i]) & 0x7fffffff) | sign);
    }
}

void keep_signs(const Quantization& q) {
    if (!q.block) return keep_signs(q.x, q.out, q.k, *q.coarse);
    for (int64_t start = 0; start < q.k; start += q.block) {
        const int64_t count = std::min(q.block, q.k - start);
        const float by = q.divides_by_ideal ? float_of(largest_bits(q.x + start, count)) / q.full_scale
                                            : q.inside[start / q.block] * *q.coarse;
        keep_signs(q.x + start, q.out + start, count, by);
    }
}

int32_t pack_rows(const Packing& p, int64_t first, int64_t last) {
    const Quantization& all = p.work;
    const int64_t blocks = all.block ? (all.k + all.block - 1) / all.block : 0;
    std::vector<float> values(all.k), inside(blocks);
    std::vector<uint8_t> codes(all.k);
    for (int64_t row = first; row < last; ++row) {
        const int64_t coarse = all.coarse_rows == 1 ? 0 : row;
        Quantization q = all;
        q.x = all.x + row * all.k, q.out = values.data(), q.inside = blocks ? inside.data() : nullptr;
        q.rows = q.coarse_rows = 1, q.pitch = q.k, q.coarse = all.coarse + coarse, q.outside = nullptr;
        if (const int32_t outcome = quantize(q, 0, 1)) return outcome;
        if (p.keeps_sign) keep_signs(q);
        find_codes(p, values.data(), q.k, codes.data());
        pack_row(codes.data(), q.k, p.bits, p.codes + row * bytes_of(q.k, p.bits));
        if (p.scale_code_of) {
            for (int64_t b = 0; b < blocks; ++b) codes[b] = p.scale_code_of[upper_half(inside[b])];
            pack_row(codes.data(), blocks, p.scale_bits, p.scales + row * bytes_of(blocks, p.scale_bits));
        } else if (blocks) {
            std::memcpy(p.scales + row * blocks * 4, inside.data(), blocks * 4);
        }
    }
    return 0;
}

void unpack_row(const uint8_t* codes, int64_t count, int32_t bits, const float* value_of, float* out) {
    if (bits == 8) {
        for (int64_t i = 0; i < count; ++i) out[i] = value_of[codes[i]];
        return;
    }
    if (bits == 4) {
        for (int64_t i = 0; i + 1 < count; i += 2)
            out[i] = value_of[codes[i / 2] & 15], out[i + 1] = value_of[codes[i / 2] >> 4];
        if (count % 2) out[count - 1] = value_of[codes[count / 2] & 15];
        return;
    }
    const uint32_t mask = (1u << bits) - 1;
    uint32_t waiting = 0;
    int32_t held = 0;
    for (int64_t i = 0; i < count; ++i) {
        if (held < bits) waiting |= static_cast<uint32_t>(*codes++) << held, held += 8;
        out[i] = value_of[waiting & mask];
        waiting >>= bits, held -= bits;
    }
}

void unpack_rows(const Unpacking& p, int64_t first, int64_t last) {
    const int64_t blocks = p.block ? (p.k + p.block - 1) / p.block : 0;
    for (int64_t row = first; row < last; ++row) {
        float* out = p.out + row * p.k;
        unpack_row(p.codes + row * bytes_of(p.k, p.bits), p.k, p.bits, p.value_of, out);
        for (int64_t b = 0; b < blocks; ++b) {
            const float inside = p.inside[row * blocks + b];
            const int64_t end = std::min(p.k, (b + 1) * p.block);
            for (int64_t i = b * p.block; i < end; ++i) out[i] *= inside;
        }
        if (!p.outside) continue;
        const double outside = p.outside[p.outside_rows == 1 ? 0 : row];
        const float narrow = static_cast<float>(outside);
        if (static_cast<double>(narrow) == outside)
            for (int64_t i = 0; i < p.k; ++i) out[i] *= narrow;
        else
            for (int64_t i = 0; i < p.k; ++i) out[i] = static_cast<float>(static_cast<double>(out[i]) * outside);
    }
}

}  // namespace

extern const Pack pack = pack_rows;
extern const Unpack unpack = unpack_rows;

}  // namespace LEVEL
