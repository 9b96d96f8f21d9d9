#include "registers.hpp"

#include <atomic>

namespace {

PackedSize size_of(const Products& p) { return p.kind == kWide ? BEST(packed_size_wide) : BEST(packed_size); }
PackWeights packing_of(const Products& p) { return p.kind == kWide ? BEST(pack_weights_wide) : BEST(pack_weights); }
Multiply multiplying_of(const Products& p) {
    if (p.kind == kSaturate || p.kind == kStep || p.kind == kWatch) return BEST(multiply_stepped);
    return p.kind == kWide ? BEST(multiply_wide) : BEST(multiply);
}

}  // namespace

// Of the structure that callers fill.
EXPORT int64_t bitwright_products_size() { return sizeof(Products); }

// Words of 32 bits that the weights take when packed.
EXPORT int64_t bitwright_operand_size(const Products* products) {
    int64_t panels = 0;
    return size_of(*products)(*products, &panels);
}

EXPORT void bitwright_pack_operand(const Products* products, int32_t* packed, int32_t threads) {
    int64_t panels = 0;
    size_of(*products)(*products, &panels);
    const PackWeights pack = packing_of(*products);
    in_parts(panels, threads, [&](int64_t first, int64_t last) { pack(*products, packed, first, last); });
}

// Sums that overflow changed.
EXPORT int64_t bitwright_multiply(const Products* products, int32_t threads) {
    std::atomic<int64_t> overflows{0};
    const Multiply multiply = multiplying_of(*products);
    in_parts(products->m, threads, [&](int64_t first, int64_t last) { overflows += multiply(*products, first, last); });
    return overflows;
}
