// Weights of checkpoints: extremes of groups, and codes under given scales. `bitwright.checkpoint.codes` defines both.
#pragma once
#include "library.hpp"

struct CheckpointRows {
    const void* x;  // [rows, k]
    int32_t kind;   // 0 float32, 1 bfloat16, 2 float16
    int64_t rows, k, group;  // k in eights; the last group of a row may be shorter
    float* low;              // [rows, groups]: least values, or null
    float* high;             // [rows, groups]: greatest values; largest magnitudes where low is null
    const float* scale;      // [rows, groups]
    const float* zero;       // [rows, groups], added before codes are clipped, or null
    int32_t element;         // 0 integer, 1 E2M1, 2 E2M3, 3 E4M3
    int32_t bits, offset;    // of a code; what is added to an integer to store it
    int32_t is_rounded;      // 1: quotients and sums are rounded to the kind
    uint8_t* packed;         // [rows, row_bytes]
    int64_t row_bytes;
};

using OverCheckpoint = void (*)(const CheckpointRows&, int64_t first, int64_t last);

KERNEL(OverCheckpoint, checkpoint_extremes)
KERNEL(OverCheckpoint, checkpoint_codes)

// A number that another content of any one 32-bit word changes.
using Digest = uint64_t (*)(const uint8_t* content, int64_t bytes);

KERNEL(Digest, digest)
