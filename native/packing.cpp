#include "packing.hpp"

#include <atomic>

// Of both structures, by which callers know that library and caller are of one version.
EXPORT int64_t bitwright_packing_size() { return sizeof(Packing) + sizeof(Unpacking); }

EXPORT int32_t bitwright_pack(const Packing* p, int32_t threads) {
    const Pack run = BEST(pack);
    std::atomic<int32_t> outcome{0};
    in_parts(p->work.rows, threads, [&](int64_t first, int64_t last) {
        if (const int32_t found = run(*p, first, last)) outcome = found;
    });
    return outcome;
}

EXPORT void bitwright_unpack(const Unpacking* p, int32_t threads) {
    const Unpack run = BEST(unpack);
    in_parts(p->rows, threads, [&](int64_t first, int64_t last) { run(*p, first, last); });
}
