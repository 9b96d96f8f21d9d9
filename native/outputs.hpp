// Exact sums on their way to outputs. kernels/native/outputs.py mirrors both structures.
#pragma once
#include "library.hpp"

// out = float(double(sum) * of_rows * of_columns) + bias, in this order.
struct Rescaling {
    const void* sums;  // [rows, n] of float or double
    float* out;        // [rows, n]; may be sums, where those are of float
    int64_t rows, n;
    const double* of_rows;  // [row_scales]
    int64_t row_scales;     // rows or 1
    const double* of_columns;  // [n]
    const float* bias;         // [n], or null
    int32_t is_wide;           // sums are double
};

// Sums of products over the taps of a window, of each channel alone, added in the order of the taps, in the type of out.
struct Taps {
    const float* x;       // [batch, height, width, pitch], of which the first `channels` are read
    const float* weight;  // [kernel_height * kernel_width, channels]
    void* out;            // [batch, down, across, channels] of float or double
    int64_t batch, height, width, pitch, channels, kernel_height, kernel_width;
    int64_t stride_y, stride_x, dilation_y, dilation_x, top, left, down, across;
    int32_t is_wide;  // out is double
};

// The same of integers times the rounded products of scales, in a register that is clipped after every tap. Products of
// scales s are rounded as (s + up + (s >> shift & odd)) >> shift, at most `most`.
struct ScaledTaps {
    Taps taps;             // x counts 1 / x_by, out is float
    const float* x_inside; // [batch, height, width, blocks]
    const float* w_inside; // [kernel_height * kernel_width, channels]
    int64_t block, blocks; // channels that share a scale of x
    float x_by;
    int32_t shift, up, odd, most, low, high;
};

using Rescale = void (*)(const Rescaling&, int64_t first_row, int64_t last_row);
using Depthwise = void (*)(const Taps&, int64_t first_line, int64_t last_line);  // lines of pixels, of all images

using DepthwiseIntegers = int64_t (*)(const ScaledTaps&, int64_t first_line, int64_t last_line);  // sums that overflow changed

KERNEL(Rescale, rescale)
KERNEL(Depthwise, depthwise)
KERNEL(DepthwiseIntegers, depthwise_integers)
