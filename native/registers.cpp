#include "registers.hpp"

#include <atomic>
#include <new>

// Of the structure that callers fill.
EXPORT int64_t bitwright_products_size() { return sizeof(Products); }

// Sums that overflow changed, or -1 where memory runs out.
EXPORT int64_t bitwright_products(const Products* products, int32_t threads) try {
    const Products& p = *products;
    PackedWeights weights;
    int64_t panels = 0;
    BEST(packed_size)(p, weights, &panels);
    in_parts(panels, threads, [&](int64_t first, int64_t last) { BEST(pack_weights)(p, weights, first, last); });
    std::atomic<int64_t> overflows{0};
    in_parts(p.m, threads, [&](int64_t first, int64_t last) { overflows += BEST(multiply)(p, weights, first, last); });
    return overflows;
} catch (const std::bad_alloc&) {
    return -1;
}
