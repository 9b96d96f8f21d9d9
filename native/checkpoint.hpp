// Weights of checkpoints to 4-bit codes two a byte: what `bitwright.checkpoint` defines in NumPy.
#pragma once
#include "library.hpp"

struct CheckpointRows {
    const void* x;  // [rows, k]
    int32_t kind;   // 0 float32, 1 bfloat16, 2 float16
    int64_t rows, k, group;
    uint8_t* packed;  // [rows, k / 2], the even column in the low half
    void* scales;     // [rows, k / group]: the kind of x for integers, E4M3 for NVFP4
    float global_scale;
};

using QuantizeCheckpoint = void (*)(const CheckpointRows&, int64_t first, int64_t last);
using LargestBits = int32_t (*)(const CheckpointRows&, int64_t first, int64_t last);

KERNEL(QuantizeCheckpoint, checkpoint_int4)
KERNEL(QuantizeCheckpoint, checkpoint_nvfp4)
KERNEL(LargestBits, checkpoint_largest)
