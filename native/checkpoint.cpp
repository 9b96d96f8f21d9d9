#include "checkpoint.hpp"

EXPORT int64_t bitwright_checkpoint_size() { return sizeof(CheckpointRows); }

// Infinity or more where a magnitude is not finite.
EXPORT void bitwright_checkpoint_extremes(const CheckpointRows* rows, int32_t threads) {
    const OverCheckpoint run = BEST(checkpoint_extremes);
    in_parts(rows->rows, threads, [&](int64_t first, int64_t last) { run(*rows, first, last); });
}

EXPORT void bitwright_checkpoint_codes(const CheckpointRows* rows, int32_t threads) {
    const OverCheckpoint run = BEST(checkpoint_codes);
    in_parts(rows->rows, threads, [&](int64_t first, int64_t last) { run(*rows, first, last); });
}

EXPORT uint64_t bitwright_digest(const uint8_t* content, int64_t bytes) { return BEST(digest)(content, bytes); }
