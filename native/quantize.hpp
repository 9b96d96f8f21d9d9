// What Python hands over to quantize: plain values and pointers. kernels/library.py mirrors it.
#pragma once
#include "library.hpp"

struct Format {
    int32_t kind;      // 0 levels as they are, 1 integers, 2 floats, 3 a table that is symmetric about zero
    int32_t rounding;  // the order of `Rounding`: nearest even, up, away, zero; floor, ceiling, toward zero
    float lowest, highest;
    float unit;  // of integers
    int32_t mantissa_bits, smallest_exponent;
    int32_t count;  // of a table's positive values: |level| >= thresholds[i] adds steps[i]
    float thresholds[16], steps[16];
    float odd_levels[2], odd_values[2];  // ties of a table that do not mirror; NaN where there is none
    int32_t inward;  // 1: negative ties go toward zero, where positive ones go away from it
};

struct Quantization {
    const float* x;  // [rows, k]
    float* out;      // [rows, pitch]
    int64_t rows, k, pitch;
    const float* coarse;     // [coarse_rows]: product of the scales that do not vary along K; divides
    const float* zero;       // [coarse_rows] levels, or null
    const double* outside;   // [coarse_rows]: multiplies what is written, or null
    int64_t coarse_rows;     // rows or 1
    Format element;
    int64_t block;  // elements of a scale along K, or 0
    float* inside;  // [rows, blocks] their stored scales, or null
    Format scale;
    float full_scale, smallest, zero_as;
    int32_t has_zero_as, magnitude_shift, divides_by_ideal, is_signed;
};

// 0, or 1 where x has a value that is not finite; then `out` holds nothing of use.
using Quantize = int32_t (*)(const Quantization&, int64_t first_row, int64_t last_row);

// Largest magnitude of each row of x [rows, k]; for unsigned formats the largest value, or 0.
using RowSpans = void (*)(const float* x, int64_t k, int32_t is_signed, float* spans, int64_t first_row, int64_t last_row);

KERNEL(Quantize, quantize)
KERNEL(RowSpans, row_spans)
