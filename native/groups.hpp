// What Python hands over for formats whose elements look at their neighbours. kernels/native/groups.py mirrors it.
#pragma once
#include "quantize.hpp"

struct Matrix {
    const float* x;  // [rows, k]
    float* out;      // [rows, k]; it may be x
    int64_t rows, k;
    const float* by;        // [scale_rows]: divides
    const double* outside;  // [scale_rows]: multiplies what is written, or null
    int64_t scale_rows;     // rows or 1
};

struct Overwriting {
    Matrix matrix;
    Format lane;           // integers in units of 1, or a table
    float highest;         // of a lane
    float unit, largest;   // of two digits
    float radix;
    const float* digits;   // values of two digits of the integers from -count to count, in units; null where they are themselves
    int64_t count;
    int64_t tile, cascade;  // lanes; tile 0 is the whole row, cascade 0 is without range overwriting
    int32_t keeps_fractions, picks_largest;
};

struct TermBudget {
    Matrix matrix;
    int32_t rounding;
    int32_t is_signed, largest;
    int64_t group, budget;
    const uint16_t *added, *subtracted;  // [largest + 1]: powers of two of each magnitude
    const float* values;                 // [largest + 1]: of elements that have a budget of their own, or null
};

// 0, 1 where x has a value that is not finite, 2 where a level is negative that must not be; then `out` is of no use.
using Overwrite = int32_t (*)(const Overwriting&, int64_t first_row, int64_t last_row);
using KeepTerms = int32_t (*)(const TermBudget&, int64_t first_row, int64_t last_row);

KERNEL(Overwrite, overwrite)
KERNEL(KeepTerms, keep_terms)
