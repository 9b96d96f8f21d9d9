// What Python hands over to calibrate: squared errors of one matrix under many ranges, and statistics of a batch.
// kernels/native/search.py and statistics.py mirror it.
#pragma once
#include "groups.hpp"

struct Search {
    int32_t kind;     // of the job: 0 Quantization, 1 Overwriting, 2 TermBudget
    const void* job;  // its format; matrix and scales are those given here
    const float* x;   // [rows, k]
    int64_t rows, k;
    int64_t trials, cells;  // scales of a trial: rows or 1
    const float* by;        // [trials, cells]: divides
    const float* zero;      // [trials, cells] levels, or null
    const double* outside;  // [trials, cells]: multiplies elements
    double* errors;         // [trials, rows]; of one cell [trials, blocks of its elements row by row]
};

constexpr int64_t kBlock = 4096;  // elements that are summed together

// Sum of (element * outside - x) ** 2 over blocks and then of their sums. In a block, lane i of 16 adds elements
// i, i + 16, ... in order; then halves of the lanes are added.
using SumErrors = double (*)(const float* x, const float* elements, int64_t count, double outside);

KERNEL(SumErrors, sum_errors)

struct Summary {
    double low, high, total, total_magnitude, total_square;  // sums in the order of errors
    int64_t zeros;
};

constexpr int64_t kBins = 2048;

using Summarize = Summary (*)(const float* x, int64_t count);
// Adds to counts[|x| / width], the last of which takes what lies beyond.
using CountBins = void (*)(const float* x, int64_t count, double width, int64_t* counts);

KERNEL(Summarize, summarize)
KERNEL(CountBins, count_bins)

// Two representations of one matrix, in blocks with a scale each.
struct Choice {
    const float* x;                   // [rows, k]
    float *elements, *inside;         // [rows, blocks, block] and [rows, blocks]: where the others err less, they replace them
    const float *others, *others_inside;
    const double* outside;            // [outside_rows]
    int64_t rows, k, block, outside_rows;
};

using Choose = void (*)(const Choice&, int64_t first_row, int64_t last_row);

KERNEL(Choose, choose)
