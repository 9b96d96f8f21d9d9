// Products with a weight of 4-bit codes, as it is stored. kernels/native/packed.py mirrors these structures.
#pragma once
#include "library.hpp"

// Rows that lie beside each other in memory, one a vector lane.
constexpr int64_t kTileRows = 16;

struct PackedWeight {
    // [tiles, steps, 16 rows, 4 bytes]: a step is 8 elements of K, of a row's 4 bytes the low nibbles come first
    const uint8_t* codes;
    const void* scales;     // [tiles, blocks, 16 rows]: codes of the scale that varies along K, or null
    const double* outside;  // [rows]: product of the scales that do not
    int64_t rows, steps, block_steps;  // steps of a block that shares a scale
    int32_t scale_kind;     // 0 float32, 1 a byte whose upper bits are an exponent, 2 a byte that is an integer
    int32_t mantissa_bits, bias;  // kind 2: the integer's bits
    float least, unit;      // kind 1 below the first normal value: least + code · unit; kind 2: code · unit
    float values[16];       // of the codes
    int8_t levels[16];      // the same as integers
    int32_t largest;        // of their magnitudes
};

struct PackedProduct {
    PackedWeight weight;
    const void* x;          // [tokens, 8 · steps]: float32, or integers of 8 bits
    const float* x_inside;  // [tokens, blocks]: x's scales that vary along K, or null
    const double* x_outside;  // [tokens], or null
    const float* bias;      // [rows], or null
    float* out;             // [tokens, rows]
    int64_t tokens;
    double unit;            // what one integer of a product stands for
    int32_t x_is_unsigned, outer_is_exact;  // sums over blocks: exact, or in float32
};

// Tiles [first, last) of out. `offsets` [tokens, blocks] are what sums start from.
using MultiplyPacked = void (*)(const PackedProduct&, const int32_t* offsets, int64_t first, int64_t last);
using DecodePacked = void (*)(const PackedWeight&, float* out, int64_t k, int64_t first, int64_t last);

// Rows of floats to integers of 8 bits under a scale each: largest magnitude / full_scale. 1 where x is not finite.
struct Tokens {
    const float* x;  // [tokens, k]
    int8_t* out;     // [tokens, pitch], zeros beyond k
    double* scales;  // [tokens]
    int64_t tokens, k, pitch;
    float full_scale, lowest, highest;
};
using QuantizeTokens = int32_t (*)(const Tokens&);

KERNEL(QuantizeTokens, quantize_tokens)
KERNEL(MultiplyPacked, multiply_packed_floats)
KERNEL(MultiplyPacked, multiply_packed_integers)
KERNEL(DecodePacked, decode_packed)
