#include "checkpoint.hpp"

#include <atomic>

EXPORT int64_t bitwright_checkpoint_size() { return sizeof(CheckpointRows); }

EXPORT void bitwright_checkpoint_int4(const CheckpointRows* rows, int32_t threads) {
    const QuantizeCheckpoint run = BEST(checkpoint_int4);
    in_parts(rows->rows, threads, [&](int64_t first, int64_t last) { run(*rows, first, last); });
}

EXPORT void bitwright_checkpoint_nvfp4(const CheckpointRows* rows, int32_t threads) {
    const QuantizeCheckpoint run = BEST(checkpoint_nvfp4);
    in_parts(rows->rows, threads, [&](int64_t first, int64_t last) { run(*rows, first, last); });
}

// The largest magnitude as float32's bits; at least 0x7f800000 where a value is not finite.
EXPORT int32_t bitwright_checkpoint_largest(const CheckpointRows* rows) {
    return BEST(checkpoint_largest)(*rows, 0, rows->rows);
}
