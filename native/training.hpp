// What Python hands over to the passes of a training step: plain values and pointers. kernels/native/training.py
// mirrors both structures.
#pragma once
#include "library.hpp"

// Rounding to integers with a gradient that goes straight through. Scales are given, or those of blocks that follow x.
struct Straight {
    const float* x;         // [rows, k]
    const float* gradient;  // [rows, k]; backwards alone
    const float* elements;  // [rows, pitch] what levels were rounded to; null: integers, rounded anew
    float* out;             // [rows, k] what x represents; backwards the gradient of x, or null
    int64_t rows, k, pitch;
    const float* scales;  // [scale_rows, scale_columns]; null: blocks without a coarser scale, or rows with a dynamic one
    int64_t scale_rows, scale_columns;
    const float* zero;    // [scale_rows] added to levels, or null; backwards alone
    float* of_scale;      // [scale_rows] each scale's gradient: a factor times the sum of its terms; or null
    double factor;
    float lowest, highest, unit;  // of elements
    float least, most;            // levels between which a gradient passes
    float full_scale;
    int32_t is_learned;     // scales are steps; what divides is the range that they stand for over the full scale
    int32_t is_signed;
    int64_t block;          // elements that share a scale; scales of blocks follow x where `follows`
    int32_t follows;
    int32_t has_dynamic_rows;  // the coarser scale of each row follows x, too
    float coarse_divisor;      // of its largest magnitude
    float scale_highest, scale_unit;  // integers that scales of blocks are stored as; 0, 0: float32
};

// Weights that learn a direction, a norm and a scale, tile by tile of a row.
struct Norms {
    const float* v;         // [rows, k]
    const float* gradient;  // [rows, k]; backwards alone
    float* out;             // [rows, k]
    int64_t rows, k, tile;
    const double* norm;   // [rows, tiles] learned norms
    const double* scale;  // [rows] of one integer
    const float* stored;  // [rows] the same as a quantizer stores it
    double bound, largest, limit;  // of Σ|level|; of |integer|; of Σ|integer|, or of one sign's where centred
    int32_t is_centred;
    float *of_norm, *of_scale;  // [rows, tiles], [rows]
};

constexpr int32_t kNotFinite = 1, kClipped = 2, kNotPositive = 4, kTooLong = 8;
constexpr int64_t kRun = 1024;  // elements whose terms are added up before those of the next run

// Units of work: runs where one scale serves all, rows otherwise.
inline bool is_one_run(const Straight& s) {
    if (s.scale_columns > 1 || (s.zero && s.scale_rows > 1) || (s.elements && s.pitch != s.k)) return false;
    return s.follows ? s.scale_rows == 1 && !s.has_dynamic_rows && s.k % s.block == 0 : s.scale_rows == 1;
}

using StraightForward = int32_t (*)(const Straight&, int64_t first, int64_t last);
using StraightBackward = void (*)(const Straight&, int64_t first, int64_t last, double* sums);
using NormsForward = int32_t (*)(const Norms&, int64_t first, int64_t last);
using NormsBackward = void (*)(const Norms&, int64_t first, int64_t last);

KERNEL(StraightForward, straight_forward)
KERNEL(StraightBackward, straight_backward)
KERNEL(NormsForward, norms_forward)
KERNEL(NormsBackward, norms_backward)
