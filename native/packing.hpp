// What Python hands over to pack and unpack. kernels/native/packing.py mirrors it.
#pragma once
#include "quantize.hpp"

struct Packing {
    Quantization work;          // its `out` and `inside` are not read, and `outside` is null
    const uint8_t* code_of;     // [2^16], at the upper half of a value's bits; a negative zero's where signs are kept
    uint8_t* codes;             // [rows, bytes of k codes]
    const uint8_t* scale_code_of;  // the same for scales, or null where they are stored as float32
    uint8_t* scales;            // [rows, bytes of blocks codes], or null
    int32_t bits, scale_bits;   // 1 to 8
    int32_t keeps_sign;         // 1: of values that round to zero from below
};

struct Unpacking {
    const uint8_t* codes;   // [rows, bytes of k codes]
    const float* value_of;  // [2^bits]
    const float* inside;    // [rows, blocks], or null
    const double* outside;  // [outside_rows], or null
    float* out;             // [rows, k]
    int64_t rows, k, block, outside_rows;
    int32_t bits;
};

using Pack = int32_t (*)(const Packing&, int64_t first_row, int64_t last_row);  // as Quantize
using Unpack = void (*)(const Unpacking&, int64_t first_row, int64_t last_row);

KERNEL(Pack, pack)
KERNEL(Unpack, unpack)
