#include "packed.hpp"

namespace {

int64_t tiles_of(const PackedWeight& w) { return (w.rows + kTileRows - 1) / kTileRows; }

// Weights are looked up as w + largest, without a sign, where x has one: what that adds to each block's sum, negated.
std::vector<int32_t> offsets_of(const PackedProduct& p) {
    const PackedWeight& w = p.weight;
    const bool is_scaled = w.scales || p.x_inside;
    const int64_t steps = is_scaled ? w.block_steps : w.steps, blocks = is_scaled ? w.steps / w.block_steps : 1;
    std::vector<int32_t> offsets(p.tokens * blocks, 0);
    if (p.x_is_unsigned) return offsets;
    const int8_t* x = static_cast<const int8_t*>(p.x);
    for (int64_t block = 0; block < p.tokens * blocks; ++block) {
        int32_t sum = 0;
        for (int64_t i = 0; i < 8 * steps; ++i) sum += x[block * 8 * steps + i];
        offsets[block] = -w.largest * sum;
    }
    return offsets;
}

}  // namespace

// Of the structure that callers fill, by which they know that library and caller are of one version.
EXPORT int64_t bitwright_packed_size() { return sizeof(PackedProduct); }

EXPORT void bitwright_multiply_packed_floats(const PackedProduct* p, int32_t threads) {
    const MultiplyPacked run = BEST(multiply_packed_floats);
    in_parts(tiles_of(p->weight), threads, [&](int64_t first, int64_t last) { run(*p, nullptr, first, last); });
}

EXPORT void bitwright_multiply_packed_integers(const PackedProduct* p, int32_t threads) {
    const MultiplyPacked run = BEST(multiply_packed_integers);
    guarded([&] {
        const std::vector<int32_t> offsets = offsets_of(*p);
        in_parts(tiles_of(p->weight), threads, [&](int64_t first, int64_t last) { run(*p, offsets.data(), first, last); });
    });
}

// Values times the scales that vary along K, of the rows of tiles [first, last): out [rows, k].
EXPORT void bitwright_decode_packed(
    const PackedWeight* w, float* out, int64_t k, int64_t first, int64_t last, int32_t threads) {
    const DecodePacked run = BEST(decode_packed);
    in_parts(last - first, threads, [&](int64_t begin, int64_t end) {
        run(*w, out - first * kTileRows * k, k, first + begin, first + end);
    });
}

EXPORT int32_t bitwright_quantize_tokens(const Tokens* tokens) { return BEST(quantize_tokens)(*tokens); }
